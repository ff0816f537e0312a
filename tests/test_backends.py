"""Which backend is taken, what is said of it, and what providers and devices are asked for; libraries are faked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.backends import choose, registry
from engine.backends.artefacts import ORIGIN_KEY, Origin
from engine.backends.base import Backend
from engine.backends.cache import FOLDER_VARIABLE
from engine.backends.hardware import Gpu
from engine.backends.mock import MockBackend
from engine.backends.notices import Notice, NoticeKind, notices_to
from engine.backends.registry import KINDS, candidates, kind_of, open_backend, usual_backend
from engine.bundle import Bundle, find_bundle
from engine.errors import ArtefactStaleError, BackendFailedError, BackendUnavailableError, BundleCorruptError
from engine.model.config import TINY
from engine.worker.process import ProcessWorker


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is kept in the user's folders, and nothing there is read."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path, "x", TINY, MockBackend.sampling, {"denoise.onnx": "ab" * 32}, {})


def made_for(bundle: Bundle, library: str, version: str = "1") -> Bundle:
    """The same, exported for a library."""
    origin = Origin(library, version).to_dict()
    return Bundle(bundle.root, "x", TINY, bundle.sampling, {"denoise.xml": "ab" * 32}, {ORIGIN_KEY: origin})


def a_mock(name: str) -> MockBackend:
    backend = MockBackend()
    backend.name = name
    return backend


class Opener:
    """Opens mocks and counts; `broken` does not open."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def __call__(self, name: str, bundle: Bundle, threads: int | None) -> Backend:
        self.opened.append(name)
        if name == "broken":
            raise BackendUnavailableError("it is broken")
        return a_mock(name)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds of each backend instead of measuring; 1 for others."""
    seconds = {"slow": 2.0}
    monkeypatch.setattr(choose, "_seconds", lambda backends: {name: seconds.get(name, 1.0) for name in backends})
    return seconds


def test_auto_measures_once(bundle: Bundle, timed: dict[str, float]) -> None:
    first, again, other = Opener(), Opener(), Opener()
    names = ("slow", "broken", "quick")
    assert choose.open_quickest(names, bundle, None, first)[0] == "quick"
    assert first.opened == list(names)
    assert choose.open_quickest(names, bundle, None, again)[0] == "quick"
    assert again.opened == ["quick"], "the choice is remembered"
    choose.open_quickest(names, bundle, 1, other)
    assert len(other.opened) == 3, "another number of threads is another question"
    kept = choose.recalled(names, bundle, None)
    assert (
        kept is not None and kept.ms == {"slow": 2000.0, "quick": 1000.0} and kept.unfit == {"broken": "it is broken"}
    )


def test_auto_measures_again_when_asked_or_when_the_choice_is_gone(bundle: Bundle, timed: dict[str, float]) -> None:
    names = ("a", "b")
    assert choose.open_quickest(names, bundle, None, Opener())[0] == "a"
    timed["a"] = 3.0
    assert choose.open_quickest(names, bundle, None, Opener())[0] == "a"
    assert choose.open_quickest(names, bundle, None, Opener(), again=True)[0] == "b"

    def without_b(name: str, *_: object) -> Backend:
        if name == "b":
            raise BackendUnavailableError("its driver is gone")
        return a_mock(name)

    assert choose.open_quickest(names, bundle, None, without_b)[0] == "a"


def test_a_change_of_machine_or_version_is_a_new_question(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {choose.situation(("a", "b"), bundle, None)}
    for name, value in (
        ("processor_id", "other"),
        ("usable_cores", 77),
        ("written_gpus", (Gpu("GPU", "570"),)),
        ("_version", "9.9"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(choose, name, lambda *_, value=value: value)
            keys.add(choose.situation(("a", "b"), bundle, None))
    assert len(keys) == 5


def test_auto_works_without_a_memory(
    bundle: Bundle, timed: dict[str, float], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    (own_cache / "choices").mkdir(parents=True)
    (own_cache / "choices" / "measured.json").write_text("{ not json")
    assert choose.open_quickest(("slow", "quick"), bundle, None, Opener())[0] == "quick"
    (own_cache / "file").write_text("")
    monkeypatch.setenv(FOLDER_VARIABLE, str(own_cache / "file"))
    assert choose.open_quickest(("slow", "quick"), bundle, None, Opener())[0] == "quick"
    with pytest.raises(BackendUnavailableError, match="broken: it is broken"):
        choose.open_quickest(("broken",), bundle, None, Opener())


class Wrong(MockBackend):
    """Quick, and draws something else."""

    name = "wrong"

    def decode(self, *args: Any) -> np.ndarray:
        return 255 - super().decode(*args)


def test_auto_takes_none_that_draws_other_pictures(bundle: Bundle, timed: dict[str, float]) -> None:
    timed["wrong"] = 0.1
    names = ("wrong", "slow", "plain")

    def opener(name: str, *_: object) -> Backend:
        return Wrong() if name == "wrong" else a_mock(name)

    assert choose.open_quickest(names, bundle, None, opener)[0] == "plain"
    kept = choose.recalled(names, bundle, None)
    assert kept is not None and kept.unfit == {"wrong": "its pictures are not those of plain"}


def test_libraries_agree_on_the_shipped_model() -> None:
    """Whatever its weights are: what shows nothing of a wrong network, or too much of 8 bits, is no probe."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    registry.open_auto(find_bundle(), 1, again=True)[1].close()
    kept = choose.recalled(candidates(find_bundle()), find_bundle(), 1)
    assert kept is not None and {"openvino", "onnxruntime"} <= set(kept.ms)


def test_another_network_of_the_same_shape_does_not_agree() -> None:
    class Other(MockBackend):
        def decode(self, *args: Any) -> np.ndarray:
            return np.roll(super().decode(*args), 2, axis=1)

    ours, other = choose._pictures(MockBackend()), choose._pictures(Other())
    assert choose._likeness_db(ours, ours) > choose._AGREES_DB > choose._likeness_db(other, ours)


def test_auto_takes_none_that_fails(bundle: Bundle, timed: dict[str, float]) -> None:
    timed["quick"] = float("inf")
    assert choose.open_quickest(("quick", "slow", "plain"), bundle, None, Opener())[0] == "plain"
    timed.update(slow=float("inf"), plain=float("inf"))
    assert choose.open_quickest(("slow", "plain"), bundle, 1, Opener())[0] == "plain"


def test_about_as_quick_is_not_quicker() -> None:
    assert choose.Measured({"first": 10.0, "second": 9.5}).best == "first"
    assert choose.Measured({"first": 10.0, "second": 8.5}).best == "second"


def test_measuring_takes_turns_and_forgets_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []

    class Clocked(MockBackend):
        def __init__(self, name: str, seconds: float) -> None:
            super().__init__()
            self.name, self.seconds = name, seconds

        def denoise(self, **inputs: Any) -> Any:
            now[0] += self.seconds if self.name in order else 100.0
            order.append(self.name)
            return super().denoise(**inputs)

    class Failing(MockBackend):
        def denoise(self, **inputs: Any) -> Any:
            raise BackendFailedError("no")

    monkeypatch.setattr(choose, "perf_counter", lambda: now[0])
    backends = {"a": Clocked("a", 0.02), "b": Clocked("b", 0.01), "failing": Failing()}
    seconds = choose._seconds(backends)
    assert seconds == {"a": pytest.approx(0.02), "b": pytest.approx(0.01), "failing": float("inf")}
    assert order[:6] == ["a", "b"] * 3


def test_default_order_puts_graphics_first_and_the_plainest_last() -> None:
    measured = [kind.name for kind in KINDS if kind.measured]
    assert measured.index("onnxruntime:cuda") < measured.index("openvino:gpu") < measured.index("openvino")
    assert measured[-2:] == ["openvino", "onnxruntime"]
    assert len({kind.name for kind in KINDS}) == len(KINDS)


def fake_library(monkeypatch: pytest.MonkeyPatch, **opens: Callable[[], Backend]) -> None:
    """Only these modules of engine.backends are installed."""
    kinds = [kind for kind in KINDS if kind.module in opens]
    known = {kind.packages[0] for kind in kinds}
    monkeypatch.setattr(registry, "find_spec", lambda package: object() if package in known else None)

    def load(name: str) -> Any:
        module = name.rpartition(".")[2]

        def open_it(bundle: Bundle, threads: int | None, device: str = "") -> Backend:
            if device:
                raise BackendUnavailableError(f"no {device} here")
            return opens[module]()

        return SimpleNamespace(open_backend=open_it)

    monkeypatch.setattr(registry, "import_module", load)


def lines_of(action: Callable[[], object]) -> list[str]:
    notices: list[Notice] = []
    with notices_to(notices.append):
        action()
    assert all(notice.kind is NoticeKind.FALLBACK for notice in notices)
    return [notice.text for notice in notices]


def test_a_missing_backend_falls_back_with_one_line(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = next(name for name in ("onnxruntime", "openvino") if name != usual_backend())
    fake_library(monkeypatch, **{other: lambda: a_mock(other)})
    monkeypatch.setattr(registry, "written_gpus", lambda: ())
    told = lines_of(lambda: open_backend("auto", bundle))
    assert len(told) == 1 and f"{usual_backend()} is not installed" in told[0] and f"using {other}" in told[0]
    assert [record.getMessage() for record in caplog.records] == [f"visavis: fallback: {told[0]}"]


def test_what_a_child_process_tells_is_passed_on() -> None:
    async def read() -> None:
        reader = asyncio.StreamReader()
        for part in (b"some library: warning\nvisavis: build", b"ing: building engines of x\nand so on"):
            reader.feed_data(part)
        reader.feed_eof()
        await ProcessWorker(["nothing"])._read_log(SimpleNamespace(stderr=reader))  # type: ignore[arg-type]

    notices: list[Notice] = []
    with notices_to(notices.append):
        asyncio.run(read())
    assert notices == [Notice(NoticeKind.BUILDING, "building engines of x")]


def test_nothing_is_said_when_all_is_well(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_library(monkeypatch, **{usual_backend(): lambda: a_mock(usual_backend())})
    monkeypatch.setattr(registry, "written_gpus", lambda: ())
    assert lines_of(lambda: open_backend("auto", bundle)) == []


def test_an_idle_gpu_is_told_of(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_library(monkeypatch, **{usual_backend(): lambda: a_mock(usual_backend())})
    monkeypatch.setattr(registry, "written_gpus", lambda: (Gpu("RTX 9", "580"),))
    told = lines_of(lambda: open_backend("auto", bundle))
    assert len(told) == 1 and "not the RTX 9" in told[0] and "visavis doctor" in told[0]


def test_torch_is_the_last_resort(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_library(monkeypatch, torch=lambda: a_mock("torch"))
    with pytest.raises(BackendUnavailableError, match="none is installed"):
        open_backend("auto", bundle)
    carrying = Bundle(bundle.root, "x", TINY, bundle.sampling, {"model.safetensors": "00"}, {})
    told = lines_of(lambda: open_backend("auto", carrying))
    assert len(told) == 1 and "using torch" in told[0]


@pytest.mark.parametrize("name", [kind.name for kind in KINDS])
def test_what_was_asked_for_by_name_is_never_replaced(
    name: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_library(monkeypatch)
    with pytest.raises(BackendUnavailableError, match="pip install") as fault:
        open_backend(name, bundle)
    assert kind_of(name).install in str(fault.value) and "--backend auto" in str(fault.value)


def test_a_broken_installation_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_library(monkeypatch, openvino=MockBackend)

    def broken(_: str) -> Any:
        raise ImportError("libtbb.so.12: cannot open shared object file")

    monkeypatch.setattr(registry, "import_module", broken)
    with pytest.raises(BackendUnavailableError, match=r"libtbb\.so\.12.*--force-reinstall openvino"):
        open_backend("openvino", bundle)


def test_an_artefact_goes_to_who_reads_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda _: object())
    assert {"openvino", "onnxruntime"} <= set(candidates(bundle))
    ours = candidates(made_for(bundle, "openvino"))
    assert "openvino" in ours and not any(name.startswith("onnxruntime") for name in ours)
    assert candidates(made_for(bundle, "unheard of")) == []
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    with pytest.raises(
        BackendUnavailableError, match="exported for openvino, which is not installed: pip install open"
    ):
        open_backend("auto", made_for(bundle, "openvino"))


@pytest.mark.parametrize("origin", [[], "openvino", {"library": "openvino"}, {"library": 3, "library_version": "1"}])
def test_an_origin_that_makes_no_sense_is_refused(bundle: Bundle, origin: object) -> None:
    broken = Bundle(bundle.root, "x", TINY, bundle.sampling, bundle.files, {ORIGIN_KEY: origin})
    with pytest.raises(BundleCorruptError, match="origin"):
        open_backend("auto", broken)


def test_an_artefact_of_another_library_is_refused(bundle: Bundle) -> None:
    backend = pytest.importorskip("engine.backends.onnxruntime", reason="needs onnxruntime")
    with pytest.raises(BackendUnavailableError, match="exported for openvino"):
        backend.open_backend(made_for(bundle, "openvino"))


def test_an_artefact_of_a_newer_openvino_is_stale(bundle: Bundle) -> None:
    backend = pytest.importorskip("engine.backends.openvino", reason="needs openvino")
    with pytest.raises(ArtefactStaleError, match=r"OpenVINO 2999\.1.*pip install -U openvino"):
        backend.open_backend(made_for(bundle, "openvino", "2999.1.0-1-x"))


def test_an_absent_device_is_named() -> None:
    backend = pytest.importorskip("engine.backends.openvino", reason="needs openvino")
    with pytest.raises(BackendUnavailableError, match="finds no QPU here, only"):
        backend.check_device("QPU")


class FakeOrt:
    """ONNX Runtime with some providers, of which some do not start; notes what sessions are asked for."""

    __version__ = "9.9"
    ExecutionMode = SimpleNamespace(ORT_SEQUENTIAL="sequential")

    def __init__(self, providers: list[str], dead: tuple[str, ...] = ()) -> None:
        self.providers, self.dead = providers, dead
        self.asked: list[tuple[str, list[Any], Any]] = []

    def get_available_providers(self) -> list[str]:
        return self.providers

    def SessionOptions(self) -> Any:  # noqa: N802
        return SimpleNamespace(add_session_config_entry=lambda *_: None)

    def InferenceSession(self, path: str, options: Any, providers: list[Any]) -> Any:  # noqa: N802
        self.asked.append((Path(path).name, providers, options))
        names = [p if isinstance(p, str) else p[0] for p in providers]
        return SimpleNamespace(get_providers=lambda: [name for name in names if name not in self.dead])


ORT_NAMES = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
}


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch) -> FakeOrt:
    backend = pytest.importorskip("engine.backends.onnxruntime", reason="needs onnxruntime")
    fake = FakeOrt(list(ORT_NAMES.values()))
    monkeypatch.setattr(backend, "ort", fake)
    return fake


@pytest.mark.parametrize("device", ORT_NAMES)
def test_providers_come_in_order_and_end_with_the_processor(ort: FakeOrt, device: str) -> None:
    from engine.backends.onnxruntime import open_backend as open_ort

    backend = open_ort(find_bundle("nano"), 2, device)
    assert backend.name == ("onnxruntime" if device == "cpu" else f"onnxruntime:{device}")
    for file, providers, options in ort.asked:
        names = [p if isinstance(p, str) else p[0] for p in providers]
        assert names[0] == ORT_NAMES[device] and names[-1] == ORT_NAMES["cpu"]
        assert (ORT_NAMES["cuda"] in names) == (device in ("cuda", "tensorrt"))
        assert options.intra_op_num_threads == 2
        assert device == "cpu" or not file.endswith(".int8.onnx")
        if device == "directml":
            assert options.enable_mem_pattern is False and options.execution_mode == "sequential"


def test_tensorrt_provider_keeps_its_engines(ort: FakeOrt, own_cache: Path) -> None:
    from engine.backends.onnxruntime import open_backend as open_ort

    open_ort(find_bundle("nano"), None, "tensorrt")
    options = dict(ort.asked[0][1][0][1])
    assert options["trt_engine_cache_enable"] == "1" and options["trt_engine_cache_path"].startswith(str(own_cache))


def test_provider_that_is_not_there_or_does_not_start_is_refused(ort: FakeOrt) -> None:
    from engine.backends.onnxruntime import open_backend as open_ort

    ort.dead = (ORT_NAMES["cuda"],)
    with pytest.raises(BackendUnavailableError, match="does not start"):
        open_ort(find_bundle("nano"), None, "cuda")
    ort.providers = [ORT_NAMES["cpu"]]
    with pytest.raises(BackendUnavailableError, match=r"no CUDAExecutionProvider: pip install onnxruntime-gpu"):
        open_ort(find_bundle("nano"), None, "cuda")
