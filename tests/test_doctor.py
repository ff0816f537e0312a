"""What the doctor finds, says and advises, with libraries, graphics and measurements faked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.cli import main
from apps.commands import doctor
from apps.doctor import examine, speed
from engine.backends import choose, registry
from engine.backends.cache import FOLDER_VARIABLE, Memory
from engine.backends.hardware import Gpu
from engine.backends.mock import MockBackend
from engine.bundle import find_bundle
from engine.engine import AvatarEngine
from engine.errors import BackendUnavailableError, BundleMissingError


@pytest.fixture(autouse=True)
def quiet_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, no graphics, and both CPU libraries usable, whatever is installed here."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(examine, "nvidia_gpus", lambda: ())
    monkeypatch.setattr(examine, "PACKAGES", {"runtime": ("numpy",), "backends": ()})
    monkeypatch.setattr(examine, "_has_egl", lambda: True)
    usable(monkeypatch, "openvino", "onnxruntime")
    return tmp_path / "cache"


def usable(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Only these backends can be used."""
    monkeypatch.setattr(examine, "why_not", lambda kind, bundle: "" if kind.name in names else f"{kind.name} is absent")
    monkeypatch.setattr(registry, "find_spec", lambda package: object() if package in names else None)


def report(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json", *options])
    return code, json.loads(capsys.readouterr().out)


def remember(**ms: float) -> None:
    bundle = find_bundle()
    key = choose.situation(registry.candidates(bundle), bundle, None)
    Memory("measured.json").keep(key, {"ms": ms, "unfit": {}})


def test_before_anything_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = report(capsys)
    assert code == 0 and found["ready"] and found["speed"] is None and found["missing_packages"] == []
    assert found["chosen"]["backend"] == "openvino" and "will be measured" in found["chosen"]["why"]
    states = {state["name"]: state for state in found["backends"]}
    assert states["onnxruntime"]["usable"] and states["openvino"]["ms"] is None
    assert not states["onnxruntime:cuda"]["usable"] and "absent" in states["onnxruntime:cuda"]["why"]
    assert found["machine"]["usable_cores"] >= 1 and found["models"] and found["advice"] == []


def test_the_measured_choice_is_told_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    remember(openvino=9.0, onnxruntime=4.0)
    _, found = report(capsys)
    assert found["chosen"]["backend"] == "onnxruntime"
    assert "4.0 ms" in found["chosen"]["why"] and "openvino 9.0" in found["chosen"]["why"]


def test_one_alone_is_taken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    usable(monkeypatch, "onnxruntime")
    _, found = report(capsys)
    assert found["chosen"] == {"backend": "onnxruntime", "why": "the only one that is usable here"}


def test_measuring_is_kept(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def open_mock(bundle: object, *, again: bool) -> tuple[str, MockBackend]:
        asked.append(again)
        return "openvino", MockBackend()

    monkeypatch.setattr(speed, "open_auto", open_mock)
    monkeypatch.setattr(speed, "frames_per_second", lambda engine, size: 1e4 / size)
    _, measured = report(capsys, "--measure")
    assert asked == [True] and measured["speed"]["fps"] == {"256": 39.1, "512": 19.5}
    _, later = report(capsys)
    assert later["speed"] == measured["speed"] and asked == [True]
    remember(openvino=9.0, onnxruntime=4.0)
    assert report(capsys)[1]["speed"] is None, "the figures are another backend's"


def test_frames_a_second_are_whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten milliseconds a frame by a clock that only decoding moves."""
    now = [0.0]

    class Slow(MockBackend):
        def decode(self, latents: Any, *args: Any) -> np.ndarray:
            now[0] += 0.01 * len(latents)
            return super().decode(latents, *args)

    monkeypatch.setattr(speed, "perf_counter", lambda: now[0])
    assert speed.frames_per_second(AvatarEngine(Slow(), "mock"), 128, seconds=0.5) == pytest.approx(100.0)


def test_an_idle_gpu_and_a_missing_folder_are_advised_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "nvidia_gpus", lambda: (Gpu("RTX 9", "580.1", 1 << 34),))
    monkeypatch.setattr(examine, "_has_egl", lambda: False)
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    _, found = report(capsys)
    assert found["machine"]["gpus"] == [{"name": "RTX 9", "driver": "580.1", "memory_bytes": 1 << 34}]
    idle, folder, egl = found["advice"]
    assert "RTX 9 is idle: pip install" in idle and FOLDER_VARIABLE in folder and "libegl1" in egl


def test_exit_codes_tell_what_is_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(examine, "PACKAGES", {"runtime": ("numpy", "no-such-package"), "backends": ()})
        code, found = report(capsys)
        assert code == 1 and found["missing_packages"] == ["no-such-package"] and not found["ready"]
    with monkeypatch.context() as patch:
        usable(patch)
        code, found = report(capsys)
        assert code == 5 and found["chosen"] is None and "no backend can run the model" in found["advice"][0]

    def no_model(*_: object) -> None:
        raise BundleMissingError("none")

    monkeypatch.setattr(examine, "find_bundle", no_model)
    code, found = report(capsys)
    assert code == 5 and "no sound model" in found["advice"][0]


def test_text_is_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    remember(openvino=9.0, onnxruntime=14.0)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "--backend auto takes openvino: measured here: 9.0 ms" in text and "not measured" in text
    assert text.endswith("visavis talk will work\n")


class _Kind:
    """As registry.Kind, for what `why_not` reads."""

    def __init__(self, **changes: str) -> None:
        self.__dict__ |= {"name": "x", "module": "openvino", "install": "x", "device": "", "needs": "", **changes}


def test_reasons_come_from_the_library_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(examine, "installed", lambda kind: kind.name != "missing")
    assert examine.why_not(_Kind(name="missing"), None) == "not installed: pip install x"
    assert "without model.safetensors" in examine.why_not(_Kind(needs="model.safetensors"), find_bundle())

    def no_device(_: str) -> Any:
        raise BackendUnavailableError("no such device")

    monkeypatch.setattr(examine, "import_module", no_device)
    assert examine.why_not(_Kind(), None) == "no such device"

    def broken(_: str) -> Any:
        raise OSError("libcuda.so.1 is missing")

    monkeypatch.setattr(examine, "import_module", broken)
    assert "cannot be loaded (libcuda.so.1 is missing)" in examine.why_not(_Kind(), None)


def test_the_doctor_of_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing faked: whatever is installed, it ends with a verdict."""
    monkeypatch.undo()
    found = doctor.full_report(measure=False)
    assert doctor.exit_code(found) in (0, 1, 5) and json.dumps(found)
    assert found["packages"]["runtime"]["numpy"]


def test_a_machine_that_is_very_slow_has_a_speed_all_the_same() -> None:
    """It was 0 where the second block took longer than was to be measured."""
    with AvatarEngine(MockBackend(), "mock") as engine:
        assert speed.frames_per_second(engine, 256, seconds=0.0) > 0
