"""The arithmetic of `visavis bench desktop`, and that nothing it starts outlives it. The app itself: tests/desktop."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from apps.bench.desktop import desk
from apps.bench.desktop.children import Children
from apps.bench.desktop.eye import Seen
from apps.bench.desktop.follow import follow, summary
from apps.bench.desktop.screen import Box
from apps.bench.desktop.steady import Speech, Talk, judge
from apps.bench.desktop.talker import words
from apps.bench.desktop.tape import gone, lag_of, level_db
from apps.cli import main
from engine.errors import BackendUnavailableError, ExtraMissingError
from engine.types import FPS, SAMPLE_RATE_HZ

ROOT = Path(__file__).resolve().parent.parent
COUNTS = {"late": 0, "dropped": 0, "lost_packets": 0}


def noise(seconds: float, level: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE_HZ)) * level).astype(np.float32)


@pytest.mark.parametrize("lag_ms", [0, 235, 600])
def test_a_mouth_that_follows_is_found_with_its_lag(lag_ms: int) -> None:
    curve = np.random.default_rng(3).standard_normal(16 * FPS).cumsum()
    moments = 100.0 + np.arange(len(curve)) / FPS + lag_ms / 1000
    seen = Seen(moments, np.zeros(len(curve)), curve)
    found = summary(follow(seen, 100.0, curve))
    assert found.lag_ms.n == 2
    assert found.lag_ms.p50 == pytest.approx(lag_ms, abs=5)


def test_a_mouth_that_does_not_follow_counts_as_missed() -> None:
    curve = np.random.default_rng(3).standard_normal(8 * FPS).cumsum()
    seen = Seen(np.array([100.0]), np.zeros(1), np.zeros(1))
    assert summary(follow(seen, 100.0, curve)).lag_ms.missed == 1


def test_words_begin_at_once_and_after_a_pause() -> None:
    silence = np.zeros(SAMPLE_RATE_HZ // 2, np.float32)
    pcm = np.concatenate([silence, noise(0.3), silence, noise(0.4), silence])
    found = words(pcm)
    assert [round(len(word) / SAMPLE_RATE_HZ, 1) for word in found] == [0.3, 0.4]
    assert all(np.abs(word[:160]).max() > 0.05 for word in found)


def test_lost_sound_is_found_in_what_was_heard() -> None:
    said = noise(1.0)
    heard = np.concatenate([np.zeros(3200, np.float32), said, np.zeros(SAMPLE_RATE_HZ, np.float32)])
    loud = level_db(said) > -30
    assert lag_of(said, heard) == 3200
    assert gone(said, loud, heard, 3200) == 0
    heard[3200 + 1600 : 3200 + 3200] = 0
    assert gone(said, loud, heard, lag_of(said, heard)) == 10
    assert lag_of(said, noise(2.5)[::-1].copy()) is None


def test_a_picture_that_stops_amid_speech_is_a_standstill() -> None:
    done = Talk([Speech(10.0, noise(4.0))], [0.0, 30.0, 60.0], [100.0, 101.0, 102.0])
    moments = np.array([10 + i / FPS for i in range(4 * FPS) if not 50 <= i < 60])
    steady = judge(done, Seen(moments, moments, moments), None, COUNTS, {**COUNTS, "late": 3})
    assert (steady.standstills, steady.late, steady.sound_gaps_ms) == (1, 3, None)
    assert steady.interval_ms.p50 == pytest.approx(40)
    assert steady.memory_mb_per_minute == pytest.approx(2.0)


def test_a_box_within_a_box() -> None:
    assert Box(100, 50, 200, 400).inner(0.25, 0.5, 0.75, 1.0) == Box(150, 250, 100, 200)


def test_children_end_with_their_measurement_even_if_they_refuse(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
    with pytest.raises(ZeroDivisionError), Children(tmp_path) as children:
        child = children.start(sys.executable, "-c", deaf)
        log = children.log_of(sys.executable)
        children.wait(child, lambda: log.read_text() or None, 20)
        children.stop(child, patience_s=0.2)
        sleeper = children.start("sleep", "99")
        raise ZeroDivisionError
    assert child.returncode == -signal.SIGKILL
    assert sleeper.returncode == -signal.SIGTERM


def test_a_child_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start(sys.executable, "-c", "raise SystemExit('no such display')")
        with pytest.raises(BackendUnavailableError, match="no such display"):
            children.wait(child, lambda: None, 20)
        with pytest.raises(ExtraMissingError, match="no-such-program"):
            children.start("no-such-program")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="orphans are ended by setpriv, which is not here")
def test_children_of_a_killed_measurement_end_too(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from apps.bench.desktop.children import Children\n"
        f"child = Children(Path({str(tmp_path)!r})).start('sleep', '99')\n"
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid) + '\\n'); time.sleep(99)"
    )
    with Children(tmp_path) as children:
        parent = children.start(sys.executable, "-c", script, env={**os.environ, "PYTHONPATH": str(ROOT)})
        pid = int(children.wait(parent, lambda: _whole_line(tmp_path / "pid"), 20))
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 10
        while _runs(pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def _whole_line(path: Path) -> str | None:
    text = path.read_text() if path.exists() else ""
    return text if text.endswith("\n") else None


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(desk, "missing", lambda: ["Xvfb"])
    assert main(["bench", "desktop", "--backend", "mock", "--json"]) == ExtraMissingError.exit_code
    assert "Xvfb" in capsys.readouterr().err
    assert main(["bench", "latency", "--minutes", "3"]) == 2
