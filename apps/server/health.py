"""What operators and their machines ask: is it alive, does it take sessions, how does it do.

`/healthz` says that the process answers, `/readyz` that a session could be opened, `/metrics` gives the figures in
Prometheus' text format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/). A dozen figures with at
most one label each need no library.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from apps.server.limits import Gate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "visavis_"

LATENCY_BUCKETS_S = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0, 2.5, 5.0, 10.0)
"""Frames are 40 ms apart and promises lie between 50 and 250 ms, so buckets are narrow there."""

DURATION_BUCKETS_S = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0)


class Counter:
    """Only rises. label: the name of its one label, if it has one."""

    kind = "counter"

    def __init__(self, name: str, text: str, label: str = "") -> None:
        self.name, self.text, self._label = name, text, label
        self._values: dict[str, float] = {} if label else {"": 0.0}

    def add(self, amount: float = 1.0, label: str = "") -> None:
        """label: one of a few known words; whatever a peer may choose would grow without bound."""
        self._values[label] = self._values.get(label, 0.0) + amount

    def value(self, label: str = "") -> float:
        return self._values.get(label, 0.0)

    def lines(self) -> Iterator[str]:
        for label, value in sorted(self._values.items()):
            yield f"{_PREFIX}{self.name}{_labels({self._label: label} if self._label else {})} {_number(value)}"


class Gauge:
    """Read when it is asked for."""

    kind = "gauge"

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.name, self.text, self._read = name, text, read

    def lines(self) -> Iterator[str]:
        yield f"{_PREFIX}{self.name} {_number(self._read())}"


class Constant:
    """Always 1, for what its labels say."""

    kind = "gauge"

    def __init__(self, name: str, text: str, labels: dict[str, str]) -> None:
        self.name, self.text, self._of = name, text, labels

    def lines(self) -> Iterator[str]:
        yield f"{_PREFIX}{self.name}{_labels(self._of)} 1"


class Histogram:
    """How many values lie below each bound, in fixed memory, so that percentiles of many servers can be added up."""

    kind = "histogram"

    def __init__(self, name: str, text: str, bounds: Sequence[float] = LATENCY_BUCKETS_S) -> None:
        self.name, self.text, self._bounds = name, text, tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """What is not finite would spoil the sum for ever, so it is left out."""
        if math.isfinite(value):
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def lines(self) -> Iterator[str]:
        below = 0
        for bound, count in zip((*self._bounds, math.inf), self._counts, strict=True):
            below += count
            yield f"{_PREFIX}{self.name}_bucket{_labels({'le': _number(bound)})} {below}"
        yield f"{_PREFIX}{self.name}_sum {_number(self._sum)}"
        yield f"{_PREFIX}{self.name}_count {below}"


Figure = Counter | Gauge | Constant | Histogram


@dataclass(slots=True)
class Figures:
    """All that a server counts, in fixed memory. Gauges and constants are added by whoever can read them."""

    sessions: Counter = field(default_factory=lambda: Counter("sessions_opened_total", "Sessions that have begun."))
    resumed: Counter = field(default_factory=lambda: Counter("sessions_resumed_total", "Sessions taken up again."))
    refusals: Counter = field(
        default_factory=lambda: Counter("refusals_total", "Requests and messages refused, by code.", "code")
    )
    closes: Counter = field(
        default_factory=lambda: Counter("closes_total", "Connections closed, by WebSocket close code.", "close_code")
    )
    errors: Counter = field(default_factory=lambda: Counter("errors_total", "Errors told to peers, by code.", "code"))
    frames: Counter = field(default_factory=lambda: Counter("frames_total", "Frames sent."))
    late: Counter = field(
        default_factory=lambda: Counter(
            "late_frames_total", "Frames handed to the socket over 10 ms after their moment."
        )
    )
    dropped: Counter = field(
        default_factory=lambda: Counter("dropped_frames_total", "Frames not sent, because the peer reads too slowly.")
    )
    frozen: Counter = field(
        default_factory=lambda: Counter("frozen_frames_total", "Frames that repeat a picture, for lack of a fresh one.")
    )
    sent: Counter = field(default_factory=lambda: Counter("sent_bytes_total", "Bytes of media sent."))
    audio: Counter = field(
        default_factory=lambda: Counter("audio_seconds_total", "Seconds of sound taken, by ear.", "ear")
    )
    interrupts: Counter = field(default_factory=lambda: Counter("interrupts_total", "Interrupts carried out."))
    workers_lost: Counter = field(
        default_factory=lambda: Counter("workers_lost_total", "Times that the model crashed or hung.")
    )
    first_frame: Histogram = field(
        default_factory=lambda: Histogram("first_frame_seconds", "From the connection to a session's first frame.")
    )
    answer: Histogram = field(
        default_factory=lambda: Histogram("answer_seconds", "From an utterance's first sound to its first frame.")
    )
    interrupt: Histogram = field(
        default_factory=lambda: Histogram("interrupt_seconds", "From an interrupt to the first frame after it.")
    )
    refusal: Histogram = field(
        default_factory=lambda: Histogram("refusal_seconds", "From a request to its refusal, handed to the socket.")
    )
    loop_lag: Histogram = field(
        default_factory=lambda: Histogram("event_loop_lag_seconds", "How late the event loop wakes up, once a second.")
    )
    duration: Histogram = field(
        default_factory=lambda: Histogram("session_seconds", "How long sessions lasted.", DURATION_BUCKETS_S)
    )
    more: list[Figure] = field(default_factory=list)

    def all(self) -> list[Figure]:
        named = [getattr(self, name) for name in self.__slots__ if name != "more"]
        return [*named, *self.more]

    def text(self) -> str:
        """The body of `/metrics`."""
        return "".join(f"{line}\n" for figure in self.all() for line in _block(figure))


class Health:
    """What the three addresses answer: status, content type and body."""

    def __init__(self, gate: Gate, figures: Figures, about: dict[str, str]) -> None:
        """about: version, model and backend, for `visavis_build_info`."""
        self._gate, self._figures = gate, figures
        figures.more += [
            Gauge("sessions", "Sessions open now.", lambda: gate.taken),
            Gauge("sessions_limit", "Sessions that may be open at once.", lambda: gate.places),
            Gauge("ready", "1 while sessions are taken.", lambda: self.ready),
            Constant("build_info", "What runs here.", about),
        ]

    @property
    def ready(self) -> bool:
        """Whether the model is warm and the server stays. A full one is ready: it refuses at once and says so."""
        return self._gate.ready and not self._gate.draining

    def answer(self, path: str) -> tuple[int, str, bytes] | None:
        """None for a path that is none of these. `/metrics` tells how busy a server is: ask for the token first."""
        if path == "/healthz":
            return 200, "text/plain; charset=utf-8", b"ok\n"
        if path == "/readyz":
            state = {"ready": self.ready, "draining": self._gate.draining, **self._places()}
            return (200 if self.ready else 503), "application/json", json.dumps(state).encode()
        if path == "/metrics":
            return 200, CONTENT_TYPE, self._figures.text().encode()
        return None

    def _places(self) -> dict[str, int]:
        return {"sessions": self._gate.taken, "sessions_limit": self._gate.places}


def _block(figure: Figure) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{figure.name} {figure.text}"
    yield f"# TYPE {_PREFIX}{figure.name} {figure.kind}"
    yield from figure.lines()


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return "{" + inside + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
