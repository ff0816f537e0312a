"""`visavis bench server`, with the mock model: order and arithmetic, not speed."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

pytest.importorskip("websockets", reason="the server extra is not installed")

import apps.bench.hold
import apps.bench.server
from apps.bench.caller import Caller
from apps.bench.crowd import CrowdError, SlipLog, Visit, crowd
from apps.bench.hold import summarise
from apps.bench.server import beside
from apps.bench.stats import Taken, lateness_us
from apps.cli import main
from engine.types import FRAME_US, SAMPLES_PER_FRAME, AvatarState, VideoFrame

PICTURE, SILENCE = np.zeros((2, 2, 3), np.uint8), np.zeros(SAMPLES_PER_FRAME, np.float32)


def test_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apps.bench.server, "REST_S", 0.1)
    monkeypatch.setattr(apps.bench.hold, "REFUSALS", 5)
    options = ["--backend", "mock", "--size", "128", "--repeats", "1", "--sessions", "2", "--hold-minutes", "0.02"]
    assert main(["bench", "server", *options]) == 0
    tables, _, line = capsys.readouterr().out.rstrip().rpartition("\n")
    report = json.loads(line)
    assert "2 sessions held" in " ".join(tables.split())
    assert report["settings"]["sessions"] == report["held"]["sessions"] == 2 and report["held"]["lost"] == 0
    for measure in ("connect_ms", "burst_ms", "live_ms", "interrupt_ms"):
        both = report["added"][measure]
        assert both["engine"]["n"] == both["server"]["n"] == 1
        assert both["added_p95_ms"] == pytest.approx(both["server"]["p95"] - both["engine"]["p95"], rel=1e-3, abs=0.1)
    assert report["refused"]["statuses"] == {"503": 5}


def test_beside() -> None:
    both = beside([10.0, 20.0, 30.0], [12.0, 24.0, None])
    assert (both.engine.n, both.server.n, both.server.missed) == (3, 2, 1)
    assert both.added_p50_ms == pytest.approx(18 - 20)
    assert beside([None], [1.0]).added_p95_ms is None


def pictures(moments_ms: list[float], indices: list[int], slips_ms: list[float]) -> Taken:
    return Taken(np.array(moments_ms) * 1000, np.array(indices), np.array(slips_ms) * 1000)


def test_late_and_missing_pictures_are_counted() -> None:
    """A second of 25: one is late, one never comes; a slip of the clock counts once, and a lost client is told."""
    usual = [40.0 * n for n in range(100)]
    late = [moment + (30 if n == 40 else 0) for n, moment in enumerate(usual)]
    slipped = [moment + (20 if n >= 50 else 0) for n, moment in enumerate(late)]
    one = pictures(slipped, list(range(100)), [20.0 * (n >= 50) for n in range(100)])
    gone = [n for n in range(100) if n != 60]
    two = pictures([usual[n] for n in gone], gone, [0.0] * 99)
    held = summarise([one, two], 1, 1_000_000, 3_000_000)
    # 49 pictures are due for certain in 2 s.
    assert held.worst_late_share == pytest.approx(2 / 49)
    assert held.missing == 0 and held.lost == 1 and held.seconds == 2
    nothing = pictures([], [], [])
    assert summarise([nothing], 0, 0, 1_000_000).late_share == 1


class Clock:
    """What a SlipLog looks at of a presenter."""

    def __init__(self) -> None:
        self.slipped_us, self.last = 0, None

    def leave(self, index: int, slipped_us: int) -> None:
        self.last, self.slipped_us = VideoFrame(PICTURE, SILENCE, index * FRAME_US, AvatarState.IDLE), slipped_us


def test_slips_are_joined_to_the_pictures_by_which_they_had_happened() -> None:
    """Picture 2 slips by 30 ms; 3 is missed by the log. Nobody is late but 2."""
    clock = Clock()
    log = SlipLog(lambda: {"a": clock})  # type: ignore[dict-item]
    log.note()
    for index, slipped_us in ((0, 0), (1, 0), (2, 30_000), (4, 30_000)):
        clock.leave(index, slipped_us)
        log.note()
        log.note()
    seen = pictures([0, 40, 110, 150, 190], list(range(5)), [0] * 5)
    joined = log.joined(Visit("a", seen, lost=False))
    assert joined.slipped_us.tolist() == [0, 0, 30_000, 30_000, 30_000]
    assert (lateness_us(joined) > 10_000).tolist() == [False, False, True, False, False]
    assert not log.joined(Visit("b", seen, lost=False)).slipped_us.any()


def test_a_crowd_without_a_server_says_so() -> None:
    async def visit() -> None:
        async with crowd("ws://127.0.0.1:9/v1/avatar", 1, 128, np.zeros(16_000, np.float32), 0.1) as callers:
            await callers.visits()

    with pytest.raises(CrowdError, match="gave up"):
        asyncio.run(visit())


def test_a_held_session_needs_a_server() -> None:
    with pytest.raises(OSError):
        asyncio.run(Caller.open("ws://127.0.0.1:9/v1/avatar", 128))
