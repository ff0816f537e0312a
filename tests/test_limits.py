"""Places, rates and durations, on a clock of our own (reliability tests 4, 16 and 19, without sockets)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from apps.server.errors import DrainingError, NotReadyError, TooFastError
from apps.server.limits import Bucket, Gate, Limits, Meter
from engine.errors import EngineFullError


class Time:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


def test_a_hundred_at_once_get_what_there_is(time: Time) -> None:
    gate = Gate(Limits(), 4, time)
    places, refused = [], 0
    for number in range(100):
        try:
            places.append(gate.admit(f"10.0.0.{number}"))
        except EngineFullError:
            refused += 1
    assert len(places) == gate.taken == 4 and refused == 96
    for place in places:
        place.release()
        place.release()
    assert gate.taken == 0


def test_the_smaller_of_both_numbers_counts(time: Time) -> None:
    assert Gate(Limits(sessions=2), 8, time).places == 2
    assert Gate(Limits(sessions=20), 8, time).places == 8


def test_a_place_that_nobody_confirms_lapses(time: Time) -> None:
    gate = Gate(Limits(handshake_s=10), 1, time)
    lost = gate.admit("a")
    time.now_s += 19
    with pytest.raises(EngineFullError):
        gate.admit("b")
    time.now_s += 2
    kept = gate.admit("b")
    kept.confirm()
    with pytest.raises(EngineFullError, match="too late"):
        lost.confirm()
    lost.release()
    time.now_s += 1000
    kept.confirm()
    assert gate.taken == 1


def test_one_address_may_have_so_many(time: Time) -> None:
    gate = Gate(Limits(caller_sessions=2), 8, time)
    first, _ = gate.admit("a"), gate.admit("a")
    with pytest.raises(EngineFullError, match="one address"):
        gate.admit("a")
    gate.admit("b")
    first.release()
    gate.admit("a")


def test_nobody_comes_in_while_the_server_stops_or_starts(time: Time) -> None:
    gate = Gate(Limits(), 1, time)
    gate.ready = False
    with pytest.raises(NotReadyError):
        gate.admit("a")
    gate.draining = True
    with pytest.raises(DrainingError):
        gate.admit("a")
    assert gate.taken == 0


def test_buckets_fill_again(time: Time) -> None:
    bucket = Bucket(per_s=10, burst=5, clock=time)
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]
    time.now_s += 0.25
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    time.now_s += 1e6
    assert bucket.take(5) and not bucket.take(0.1)


def admitted(count: Callable[[], None], time: Time, per_s: float, seconds: float) -> int:
    """How many pass at a steady rate until one does not."""
    for number in range(round(per_s * seconds)):
        try:
            count()
        except TooFastError:
            return number
        time.now_s += 1 / per_s
    return round(per_s * seconds)


@pytest.mark.parametrize(
    "kind, allowed_per_s, flood_per_s, burst",
    [("control", 50, 1000, 100), ("ack", 100, 1000, 200), ("binary", 500, 100_000, 15_000)],
)
def test_floods_end_after_the_burst(
    time: Time, kind: str, allowed_per_s: float, flood_per_s: float, burst: int
) -> None:
    assert admitted(getattr(Meter(Limits(), time), kind), time, allowed_per_s, 100) == allowed_per_s * 100
    taken = admitted(getattr(Meter(Limits(), time), kind), time, flood_per_s, 100)
    assert burst <= taken <= 1.12 * burst


def test_a_minute_of_speech_may_come_at_once_in_small_pieces(time: Time) -> None:
    meter = Meter(Limits(), time)
    for _ in range(6000):
        meter.binary()
        meter.audio(0.01)


def test_nobody_needs_an_hour_of_speech_at_once(time: Time) -> None:
    meter = Meter(Limits(), time)
    meter.audio(300)
    with pytest.raises(TooFastError, match="4 times"):
        meter.audio(1)
    time.now_s += 10
    meter.audio(40)


@pytest.mark.parametrize("limit, code", [("session_s", "session_too_long"), ("idle_s", "idle_timeout")])
def test_sessions_end_in_time(time: Time, limit: str, code: str) -> None:
    meter = Meter(Limits(**{limit: 60.0}), time)
    time.now_s += 59.9
    assert meter.overdue() is None
    time.now_s += 0.2
    error = meter.overdue()
    assert error is not None and error.code == code


def test_whoever_asks_for_something_is_not_idle(time: Time) -> None:
    meter = Meter(Limits(idle_s=60), time)
    for _ in range(10):
        time.now_s += 50
        meter.alive()
        assert meter.overdue() is None
    time.now_s += 50
    meter.ack()
    time.now_s += 20
    assert meter.overdue() is not None


def test_without_limits_a_session_may_last(time: Time) -> None:
    meter = Meter(Limits(), time)
    time.now_s += 1e7
    assert meter.overdue() is None
