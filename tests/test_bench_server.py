"""`visavis bench server`, with the mock model: order and arithmetic, not speed."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

pytest.importorskip("websockets", reason="the server extra is not installed")

from apps.bench.caller import Caller
from apps.bench.hold import summarise
from apps.bench.server import beside
from apps.bench.stats import Taken
from apps.cli import main


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--backend", "mock", "--size", "128", "--repeats", "1", "--sessions", "2", "--hold-minutes", "0.05"]
    assert main(["bench", "server", *options]) == 0
    tables, _, line = capsys.readouterr().out.rstrip().rpartition("\n")
    report = json.loads(line)
    assert "2 sessions held" in " ".join(tables.split())
    assert report["settings"]["sessions"] == report["held"]["sessions"] == 2 and report["held"]["lost"] == 0
    for measure in ("connect_ms", "burst_ms", "live_ms", "interrupt_ms"):
        both = report["added"][measure]
        assert both["engine"]["n"] == both["server"]["n"] == 1
        assert both["added_p95_ms"] == pytest.approx(both["server"]["p95"] - both["engine"]["p95"], rel=1e-3, abs=0.1)
    assert report["refused"]["statuses"] == {"503": 20}


def test_beside() -> None:
    both = beside([10.0, 20.0, 30.0], [12.0, 24.0, None])
    assert (both.engine.n, both.server.n, both.server.missed) == (3, 2, 1)
    assert both.added_p50_ms == pytest.approx(18 - 20)
    assert beside([None], [1.0]).added_p95_ms is None


class Seen(Caller):
    """One whose pictures are made up."""

    def __init__(self, taken: Taken, closed: bool = False) -> None:
        self._taken = taken
        self.closed = object() if closed else None  # type: ignore[assignment]

    def taken(self) -> Taken:
        return self._taken


def pictures(moments_ms: list[float], indices: list[int], slips_ms: list[float]) -> Taken:
    return Taken(np.array(moments_ms) * 1000, np.array(indices), np.array(slips_ms) * 1000)


def test_late_and_missing_pictures_are_counted() -> None:
    """A second of 25: one is late, one never comes; a slip of the clock counts once, and a lost client is told."""
    usual = [40.0 * n for n in range(100)]
    late = [moment + (30 if n == 40 else 0) for n, moment in enumerate(usual)]
    slipped = [moment + (20 if n >= 50 else 0) for n, moment in enumerate(late)]
    one = Seen(pictures(slipped, list(range(100)), [20.0 * (n >= 50) for n in range(100)]))
    gone = [n for n in range(100) if n != 60]
    two = Seen(pictures([usual[n] for n in gone], gone, [0.0] * 99), closed=True)
    held = summarise([one, two], 1_000_000, 3_000_000)
    # 49 pictures are due for certain in 2 s.
    assert held.worst_late_share == pytest.approx(2 / 49)
    assert held.missing == 0 and held.lost == 1 and held.seconds == 2
    nothing = Seen(pictures([], [], []))
    assert summarise([nothing], 0, 1_000_000).late_share == 1


def test_a_held_session_needs_a_server() -> None:
    with pytest.raises(OSError):
        asyncio.run(Caller.open("ws://127.0.0.1:9/v1/avatar", 128))
