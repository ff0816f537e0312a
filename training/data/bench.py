"""How fast a cast is drawn here: `visavis data bench`."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from engine.errors import BackendUnavailableError
from training.data.cast import Cast
from training.data.stream import Stream, StreamSettings
from training.data.takes import Kind, TakeSettings

_RENDERER = "from training.data.gl import gl_context; print(gl_context().info['GL_RENDERER'])"
_SOFTWARE = ("llvmpipe", "softpipe", "swrast")


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One setting. fps: frames a second after the first take, setting people up included. first_take_s: from the start
    of the processes. cpu_ms_per_frame: of all workers, which other load on the machine leaves nearly unchanged."""

    kind: Kind
    size: int
    workers: int
    frames: int
    fps: float
    first_take_s: float
    cpu_ms_per_frame: float
    deaths: int
    failures: int


@dataclass(frozen=True, slots=True)
class BenchReport:
    """renderer: the driver's own name. gpu: whether it draws on a graphics card."""

    renderer: str
    gpu: bool
    rows: tuple[BenchRow, ...]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def renderer_name() -> str:
    """Name of the GL renderer, asked for in a process of its own. Raises BackendUnavailableError without one."""
    asked = subprocess.run([sys.executable, "-c", _RENDERER], capture_output=True, text=True, check=False, timeout=120)
    if asked.returncode:
        raise BackendUnavailableError(asked.stderr.strip().rpartition("\n")[2] or "no OpenGL over EGL here")
    return asked.stdout.strip()


def bench(
    cast: Path, seconds: float, workers: Sequence[int], sizes: Sequence[int], kinds: Sequence[Kind]
) -> BenchReport:
    """Draw every setting for so many seconds. Raises CastDamagedError, BackendUnavailableError, StreamLostError."""
    Cast.open(cast)
    name = renderer_name()
    rows = tuple(_rows(cast, seconds, workers, sizes, kinds))
    return BenchReport(name, not any(word in name.lower() for word in _SOFTWARE), rows)


def _rows(
    cast: Path, seconds: float, workers: Sequence[int], sizes: Sequence[int], kinds: Sequence[Kind]
) -> Iterator[BenchRow]:
    for kind, size, count in product(kinds, sizes, workers):
        yield _measure(StreamSettings(cast, TakeSettings(kind, size, 24 if kind == "pairs" else 64), count), seconds)


def _measure(settings: StreamSettings, seconds: float) -> BenchRow:
    used_before_s = _children_cpu_s()
    started_s = time.monotonic()
    first_s = 0.0
    with Stream(settings) as stream:
        while not first_s or time.monotonic() - first_s < seconds:
            for _ in stream.ready(0.2):
                first_s = first_s or time.monotonic()
        spent_s = time.monotonic() - first_s
        counts = stream.counts
    after_first = counts.frames - settings.take.frames
    return BenchRow(
        kind=settings.take.kind,
        size=settings.take.size,
        workers=settings.workers,
        frames=counts.frames,
        fps=round(after_first / max(spent_s, 1e-9), 1),
        first_take_s=round(first_s - started_s, 1),
        cpu_ms_per_frame=round(1000 * (_children_cpu_s() - used_before_s) / max(counts.frames, 1), 1),
        deaths=counts.deaths,
        failures=counts.failures,
    )


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
