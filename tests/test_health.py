"""The three addresses, and Prometheus' text format as its own rules have it."""

from __future__ import annotations

import json
import math
import re

import pytest

from apps.server.health import Counter, Figures, Health, Histogram
from apps.server.limits import Gate, Limits

LINE = re.compile(
    r'visavis_[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\.)*"(,[a-z_]+="(?:[^"\\\n]|\\.)*")*\})? [0-9+-][0-9.eE+-]*'
)


@pytest.fixture
def gate() -> Gate:
    return Gate(Limits(), 3)


@pytest.fixture
def health(gate: Gate) -> Health:
    return Health(gate, Figures(), {"version": "1.0", "model": 'a "strange"\nname\\'})


def metrics(health: Health) -> dict[str, float]:
    answer = health.answer("/metrics")
    assert answer is not None and answer[0] == 200 and "version=0.0.4" in answer[1]
    lines = answer[2].decode().splitlines()
    assert all(LINE.fullmatch(line) for line in lines if not line.startswith("#")), lines
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_every_figure_has_its_kind_and_is_there_from_the_start(health: Health) -> None:
    text = health.answer("/metrics")[2].decode()  # type: ignore[index]
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M)
    assert len(kinds) == len({name for name, _ in kinds}) == len(re.findall("^# HELP", text, re.M)) > 15
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds)
    assert metrics(health)["visavis_frames_total"] == 0


def test_gauges_follow_the_gate(health: Health, gate: Gate) -> None:
    assert (metrics(health)["visavis_sessions"], metrics(health)["visavis_sessions_limit"]) == (0, 3)
    gate.admit("a").confirm()
    gate.draining = True
    assert (metrics(health)["visavis_sessions"], metrics(health)["visavis_ready"]) == (1, 0)


def test_histograms_add_up() -> None:
    histogram = Histogram("x_seconds", "x", (0.1, 0.5))
    for value in (0.05, 0.1, 0.3, 9.0, math.nan, math.inf):
        histogram.observe(value)
    assert list(histogram.lines()) == [
        'visavis_x_seconds_bucket{le="0.1"} 2',
        'visavis_x_seconds_bucket{le="0.5"} 3',
        'visavis_x_seconds_bucket{le="+Inf"} 4',
        "visavis_x_seconds_sum 9.45",
        "visavis_x_seconds_count 4",
    ]


def test_labels_are_counted_apart() -> None:
    counter = Counter("refusals_total", "x", "code")
    assert list(counter.lines()) == []
    counter.add(label="engine_full")
    counter.add(2, label="unauthorized")
    assert list(counter.lines()) == [
        'visavis_refusals_total{code="engine_full"} 1',
        'visavis_refusals_total{code="unauthorized"} 2',
    ]


def test_readiness(health: Health, gate: Gate) -> None:
    def ready() -> tuple[int, bool]:
        answer = health.answer("/readyz")
        assert answer is not None
        return answer[0], json.loads(answer[2])["ready"]

    assert ready() == (200, True)
    gate.ready = False
    assert ready() == (503, False)
    gate.ready, gate.draining = True, True
    assert ready() == (503, False)
    assert health.answer("/healthz") == (200, "text/plain; charset=utf-8", b"ok\n")
    assert health.answer("/metrics/") is None


def test_a_full_server_is_ready(health: Health, gate: Gate) -> None:
    for _ in range(3):
        gate.admit("a")
    assert health.answer("/readyz")[0] == 200  # type: ignore[index]
