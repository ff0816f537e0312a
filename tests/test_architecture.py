"""Who may import whom, what must stay light, and what must never be written."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("engine", "training", "export", "apps")

LEAVES = (
    "engine.types",
    "engine.errors",
    "engine.audio",
    "engine.portrait",
    "engine.model",
    "engine.diffusion",
    "engine.backends.base",
)
"""The parts of engine that training and export may build on; the rest belongs to the runtime."""

ALLOWED: dict[str, tuple[str, ...]] = {
    "engine": ("engine",),
    "training": ("training", *LEAVES),
    "export": ("export", *LEAVES, "engine.bundle", "engine.backends", "engine.pipeline.plan"),
    "apps": ("apps", "engine", "export", "training"),
}
"""export writes what engine.bundle and engine.backends read. apps starts training, inside its commands."""

TORCH_USERS = ("engine.model", "engine.backends.torch", "training", "export")
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "shelve", "marshal", "imp"}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "torch.load", "np.load", "numpy.load", "joblib.load"}


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Absolute names that a module imports, and whether it does so when it is itself imported."""
    lazy = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((f"{node.module}.{alias.name}", id(node) not in lazy) for alias in node.names)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def under(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def parsed() -> Iterator[tuple[str, ast.Module]]:
    for name, path in modules():
        yield name, ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_direction() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, tree in parsed()
        for target, _ in imports(tree)
        if under(target, PACKAGES) and not under(target, allowed(name))
    ]
    assert wrong == []


LEARNERS = (
    "training.objectives", "training.codec", "training.denoising", "training.audio", "training.latents",
    "training.generate", "training.pipeline", "training.distilling", "training.duel",
)  # fmt: skip
"""What makes a model. What judges it must not be part of it."""


def test_no_model_is_trained_on_what_judges_it() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, tree in parsed()
        if under(name, LEARNERS)
        for target, _ in imports(tree)
        if under(target, ("training.instruments", "training.evaluate"))
    ]
    assert wrong == []


def allowed(module: str) -> tuple[str, ...]:
    # Measuring what ships means running what ships.
    runtime = ("engine",) if under(module, ("training.evaluate",)) else ()
    return ALLOWED[module.partition(".")[0]] + runtime


def test_apps_load_training_and_export_only_inside_commands() -> None:
    """The default install lacks what they need."""
    wrong = [
        f"{name} imports {target} at its top"
        for name, tree in parsed()
        if under(name, ("apps",))
        for target, eager in imports(tree)
        if eager and under(target, ("training", "export"))
    ]
    assert wrong == []


def test_torch_stays_where_it_belongs() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, tree in parsed()
        if not under(name, TORCH_USERS)
        for target, eager in imports(tree)
        if eager and under(target, ("torch", "safetensors"))
    ]
    assert wrong == []


@pytest.mark.parametrize("target", ["engine", "engine.engine", "apps.cli", "apps.commands.talk", "visavis"])
def test_the_runtime_loads_no_torch(target: str) -> None:
    probe = f"import sys, {target}; sys.exit('torch' in sys.modules or 'training' in sys.modules)"
    folders = [str(ROOT), str(ROOT / "apps" / "api")]
    code = f"import sys; sys.path[:0] = {folders!r}; {probe}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_whole_film_loads_no_torch() -> None:
    code = (
        "import sys, numpy as np, engine\n"
        "from faces import draw_face\n"
        "pcm = np.zeros(6400, np.float32)\n"
        "assert len(list(engine.load(backend='mock').generate(np.asarray(draw_face(200)), pcm, size=128))) == 10\n"
        "sys.exit('torch' in sys.modules)"
    )
    paths = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'tests')]!r}\n"
    assert subprocess.run([sys.executable, "-c", paths + code], check=False).returncode == 0


def test_nothing_dangerous_is_written() -> None:
    wrong = []
    for name, tree in parsed():
        wrong += [
            f"{name} imports {target}" for target, _ in imports(tree) if target.split(".")[0] in FORBIDDEN_MODULES
        ]
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if danger := dangerous(call):
                wrong.append(f"{name}:{call.lineno} {danger}")
    assert wrong == []


def dangerous(call: ast.Call) -> str | None:
    called = ast.unparse(call.func)
    options = {word.arg: word.value for word in call.keywords}
    shell = options.get("shell")
    if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
        return "shell=True"
    pickled = options.get("allow_pickle")
    if called in ("np.load", "numpy.load"):
        # Since numpy 1.16.3 pickles are refused unless asked for.
        return (
            None
            if pickled is None or (isinstance(pickled, ast.Constant) and pickled.value is False)
            else "allow_pickle"
        )
    return called if called in FORBIDDEN_CALLS else None


@pytest.mark.parametrize(
    "line", ["eval('1')", "os.system('x')", "torch.load(p)", "run(a, shell=True)", "np.load(p, allow_pickle=True)"]
)
def test_the_scan_sees_danger(line: str) -> None:
    call = ast.parse(line).body[0]
    assert isinstance(call, ast.Expr) and isinstance(call.value, ast.Call)
    assert dangerous(call.value)


def test_no_bare_except() -> None:
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert wrong == []


def test_the_top_level_is_as_agreed() -> None:
    listed = subprocess.run(["git", "ls-files", "--cached"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    folders = {line.partition("/")[0] for line in listed.stdout.splitlines() if "/" in line}
    assert folders <= {*PACKAGES, "assets", "tests", "docs", ".ci"}


def test_version_is_stated_once_and_the_same() -> None:
    import engine

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == engine.__version__
    assert not any("torch" in item for item in project["dependencies"])


def test_constraints_pin_everything_that_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # The plugs' packages want other versions than the rest, so they have an environment of their own.
    files = [ROOT / "constraints.txt", ROOT / "constraints-plugs.txt"]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line}
    asked = [*project["dependencies"], *(item for extra in project["optional-dependencies"].values() for item in extra)]
    names = {
        item.split(";")[0].split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip().lower() for item in asked
    }
    assert names <= pinned
