"""The machine check: what its process says, what is told and opened meanwhile, and that it ends in every case."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from apps.desktop import checkup, firstrun
from apps.desktop.firstrun import Asked, MachineCheck, Progress, Verdict, meanwhile, remember, remembered
from apps.desktop.notice import Notice
from engine.backends.mock import MockBackend
from engine.backends.notices import NoticeKind, tell
from engine.errors import BackendUnavailableError

GOOD = Verdict("tensorrt", {256: 900.0, 512: 400.0}, ("rest",))
BUILDING = {"step": "building", "fraction": 0.3, "text": "Building engine 2 of 4: audio"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISAVIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(firstrun, "candidates", lambda bundle: ["tensorrt", "openvino", "onnxruntime"])
    monkeypatch.setattr(firstrun, "usual_backend", lambda: "openvino")


class Heard:
    """A CheckListener that keeps everything, in order."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.backends: list[str] = []
        self.verdicts: list[Verdict] = []
        self.notices: list[Notice] = []
        self.built = threading.Event()
        self.on_backend = self.backends.append
        self.on_verdict = self.verdicts.append
        self.on_notice = self.notices.append

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)
        if progress.step == "building":
            self.built.set()


def child(monkeypatch: pytest.MonkeyPatch, *lines: object, then: str = "") -> None:
    """A process in place of the real one, which says these lines and then runs a statement."""
    said = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    script = f"import os, signal, sys, time\nprint({said!r}, flush=True)\n{then}"
    monkeypatch.setattr(firstrun, "command", lambda asked: [sys.executable, "-c", script])


def checked(asked: Asked | None = None) -> Heard:
    heard = Heard()
    check = MachineCheck(asked or Asked(), heard)
    check.start()
    check._thread.join(120)
    assert check.close()
    return heard


def test_the_real_process_measures_and_is_remembered() -> None:
    heard = checked(Asked(backend="mock"))
    assert [progress.step for progress in heard.progress] == ["looking", "opening", "measuring", "measuring"]
    fractions = [progress.fraction for progress in heard.progress if progress.fraction is not None]
    assert fractions == sorted(fractions) and len(fractions) == 4 and fractions[-1] < 1
    [verdict] = heard.verdicts
    assert heard.backends == [verdict.backend] == ["mock"] and not heard.notices
    assert set(verdict.fps) == {256, 512} and all(rate > 0 for rate in verdict.fps.values())
    again = checked(Asked(backend="mock"))
    assert again.verdicts == [verdict] and again.backends == ["mock"] and not again.progress


def test_while_an_engine_is_built_a_quick_backend_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, BUILDING, "a library says something", BUILDING, {"verdict": firstrun.verdict_values(GOOD)})
    heard = checked()
    assert heard.backends == ["openvino", "tensorrt"]
    assert heard.verdicts == [GOOD] and heard.progress == [Progress(**BUILDING)] * 2


@pytest.mark.parametrize("then", ["time.sleep(60)", "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"])
def test_a_check_can_be_cancelled(monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    monkeypatch.setattr(firstrun, "_GRACE_S", 0.3)
    started: list[Any] = []
    popen = firstrun.subprocess.Popen
    monkeypatch.setattr(firstrun.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    child(monkeypatch, {"step": "opening", "fraction": 0.1, "text": ""}, BUILDING, then=then)
    heard = Heard()
    check = MachineCheck(Asked(), heard)
    check.start()
    assert heard.built.wait(20)
    began = monotonic()
    assert check.close(10) and monotonic() - began < 5
    assert heard.backends == ["openvino"] and not heard.verdicts and not heard.notices
    assert started[0].poll() is not None


def test_a_process_that_crashes_is_told_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "driver: no device", then="os._exit(11)")
    heard = checked()
    assert heard.backends == ["openvino"] and not heard.verdicts
    [notice] = heard.notices
    assert notice.code == "machine_check_failed" and "no device" in notice.text and "doctor" in notice.text


def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(firstrun, "command", lambda asked: [str(tmp_path / "no-python")])
    heard = checked()
    assert heard.backends == ["openvino"] and [notice.code for notice in heard.notices] == ["machine_check_failed"]


def test_a_machine_that_cannot_run_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = Verdict("", {}, ("no backend can run the model: pip install openvino",))
    child(monkeypatch, {"verdict": firstrun.verdict_values(verdict)})
    heard = checked()
    assert heard.verdicts == [verdict] and heard.backends == ["openvino"] and "cannot" in verdict.text


@pytest.mark.parametrize("said", [{"verdict": {"fps": 3}}, {"verdict": None}])
def test_a_verdict_in_another_form_counts_for_none(monkeypatch: pytest.MonkeyPatch, said: object) -> None:
    child(monkeypatch, said)
    heard = checked()
    assert heard.backends == ["openvino"] and not heard.verdicts


def test_what_was_found_is_forgotten_when_the_machine_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(Asked(), GOOD)
    assert remembered(Asked()) == GOOD and remembered(Asked(threads=1)) is None
    assert remembered(Asked(backend="openvino")) is None and remembered(Asked(model="no such model")) is None
    monkeypatch.setattr(firstrun, "candidates", lambda bundle: ["openvino"])
    assert remembered(Asked()) is None


@pytest.mark.parametrize(
    ("asked", "names", "expected"),
    [
        ("auto", ["tensorrt", "openvino", "onnxruntime"], "openvino"),
        ("auto", ["tensorrt", "onnxruntime"], "onnxruntime"),
        ("tensorrt", ["tensorrt", "openvino"], "openvino"),
        ("onnxruntime", ["openvino", "onnxruntime"], "onnxruntime"),
        ("tensorrt", ["tensorrt"], "tensorrt"),
        ("auto", [], "auto"),
        ("mock", ["openvino"], "mock"),
    ],
)
def test_what_stands_in(monkeypatch: pytest.MonkeyPatch, asked: str, names: list[str], expected: str) -> None:
    monkeypatch.setattr(firstrun, "candidates", lambda bundle: names)
    assert meanwhile(Asked(backend=asked)) == expected


@pytest.mark.parametrize(
    ("fps", "size_px", "says"),
    [
        ({256: 120.0, 512: 60.0}, 512, "Smooth at 512"),
        ({256: 120.0, 512: 30.0}, 256, "Smooth at 256"),
        ({256: 30.0, 512: 12.0}, 256, "Smooth at 256"),
        ({256: 12.4, 512: 4.0}, 256, "12 of 25 frames"),
        ({}, None, "will compute"),
    ],
)
def test_a_verdict_names_the_largest_picture_that_is_easy(
    fps: dict[int, float], size_px: int | None, says: str
) -> None:
    verdict = Verdict("openvino", fps)
    assert verdict.size_px == size_px and says in verdict.text


def spoken(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_engines_that_are_built_are_told_with_their_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def opened(bundle: object, threads: int | None) -> tuple[str, MockBackend]:
        tell(NoticeKind.BUILDING, "TensorRT engines of nano for this machine")
        tell(NoticeKind.BUILDING, "building engine 3 of 4: denoise")
        tell(NoticeKind.FALLBACK, "another matter")
        return "tensorrt", MockBackend()

    monkeypatch.setattr(checkup, "open_auto", opened)
    monkeypatch.setattr(checkup, "frames_per_second", lambda engine, side: 100_000 / side)
    monkeypatch.setattr(sys, "argv", ["checkup", json.dumps({"model": "auto", "backend": "auto", "threads": None})])
    checkup.main()
    said = spoken(capsys)
    building = [line["fraction"] for line in said if line.get("step") == "building"]
    assert building[0] is None and building[1] == pytest.approx(0.3)
    assert said[-1]["verdict"]["backend"] == "tensorrt" and said[-1]["verdict"]["fps"] == {"256": 390.6, "512": 195.3}


def test_a_model_that_does_not_open_is_a_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(bundle: object, threads: int | None) -> tuple[str, MockBackend]:
        raise BackendUnavailableError("no backend can run model nano here")

    monkeypatch.setattr(checkup, "open_auto", refused)
    monkeypatch.setattr(sys, "argv", ["checkup", "{}"])
    checkup.main()
    verdict = spoken(capsys)[-1]["verdict"]
    assert verdict["backend"] == "" and verdict["advice"][0] == "no backend can run model nano here"
    assert remembered(Asked()) is None
