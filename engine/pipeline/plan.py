"""Which stage of a model runs where, as a line of text and as a file.

    denoise@cpu:0/decode@cpu:1                  two core sets of this process
    denoise@cpu:0/decode@cpu:1/compose@cpu:0    the decoder's networks alone on core 1
    denoise@cpu:0-1:process/decode@cpu:2-3      the denoiser in a process of its own
    denoise@cuda:1:process/decode@cuda:0        two devices
    denoise@cuda:0/decode@cuda:0                two streams of one device

Stages are joined by `/`, the work of a stage by `+`; what is not named at the end goes with the last stage. Only
latents are handed from `denoise` to `decode`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import FileMissingError, OutputNotWritableError, PipelinePlanError, UnreadableFileError

WORKS = ("denoise", "decode", "compose", "encode")
"""In the order in which a block passes them. denoise: both voices' audio encoder and all steps, with the caches.
decode: the decoder's networks. compose: pictures at full size. encode: what the caller does with them, as writing a
film."""

FORMAT = 1
MAX_DEPTH = 16
_FILE_BYTES = 1 << 16
_MOST_CORES = 4_096
_APART = "process"
_EXAMPLE = "write it like denoise@cpu:0/decode@cpu:1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage runs. device: `cpu` or `cuda:N`. cores: CPU cores that it is kept on, any when empty; as many
    threads compute. apart: in a process of its own.
    """

    device: str = "cpu"
    cores: tuple[int, ...] = ()
    apart: bool = False

    @property
    def threads(self) -> int | None:
        """CPU threads; None for as many as the library likes."""
        return len(self.cores) or None

    def __str__(self) -> str:
        where = f"cpu:{_ranges(self.cores)}" if self.cores else self.device
        return f"{where}:{_APART}" if self.apart else where

    @staticmethod
    def parse(text: str) -> Place:
        """Inverse of str. Raises PipelinePlanError."""
        parts = text.split(":")
        apart = len(parts) > 1 and parts[-1] == _APART
        kind, *rest = parts[: len(parts) - apart]
        if kind == "cpu" and len(rest) <= 1:
            return Place("cpu", _parse_ranges(rest[0]) if rest else (), apart)
        if kind == "cuda" and len(rest) <= 1 and all(number.isdecimal() for number in rest):
            return Place(f"cuda:{int(rest[0]) if rest else 0}", (), apart)
        raise PipelinePlanError(f"{text!r} is no place; write cpu, cpu:0-1, cuda:0, with :process after it if need be")


@dataclass(frozen=True, slots=True)
class Stage:
    """works: names of WORKS that follow one another."""

    works: tuple[str, ...]
    place: Place

    def __str__(self) -> str:
        return f"{'+'.join(self.works)}@{self.place}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages in their order, all of WORKS covered once. depth: blocks that may wait between two stages."""

    stages: tuple[Stage, ...]
    depth: int = 1

    def __post_init__(self) -> None:
        if tuple(work for stage in self.stages for work in stage.works) != WORKS:
            raise PipelinePlanError(f"a pipeline plan must have {', '.join(WORKS)} in this order; {_EXAMPLE}")
        if not 1 <= self.depth <= MAX_DEPTH:
            raise PipelinePlanError(f"a pipeline's depth must lie between 1 and {MAX_DEPTH}, not {self.depth}")

    def __str__(self) -> str:
        return "/".join(str(stage) for stage in self.stages)

    def place_of(self, work: str) -> Place:
        return self.stage_of(work).place

    def stage_of(self, work: str) -> Stage:
        return next(stage for stage in self.stages if work in stage.works)

    @staticmethod
    def parse(text: str, depth: int = 1) -> Plan:
        """Inverse of str. Raises PipelinePlanError."""
        stages = [_parse_stage(part) for part in text.strip().split("/")]
        named = {work for stage in stages for work in stage.works}
        # Only what comes after the last work that is named; a gap before it is a mistake.
        last = max((WORKS.index(work) for work in named if work in WORKS), default=-1)
        stages[-1] = Stage(stages[-1].works + WORKS[last + 1 :], stages[-1].place)
        return Plan(tuple(stages), depth)

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "kind": "pipeline", "plan": str(self), "depth": self.depth}


def read_plan(given: str | os.PathLike[str]) -> Plan:
    """A plan from its text, or from the file where `save_plan` wrote it. Raises PipelinePlanError or FileError."""
    text = os.fspath(given)
    if "@" in text and not Path(text).is_file():
        return Plan.parse(text)
    if not Path(text).exists():
        raise FileMissingError(f"there is no pipeline plan {text}; name a file, or {_EXAMPLE}")
    try:
        with Path(text).open(encoding="utf-8") as file:
            values = json.loads(file.read(_FILE_BYTES))
    except OSError as error:
        raise UnreadableFileError(f"{text} cannot be opened: {error}") from error
    except ValueError as error:
        raise PipelinePlanError(
            f"{text} is no pipeline plan; make one with `visavis export pipeline --save`"
        ) from error
    return _from_dict(values, text)


def save_plan(plan: Plan, path: Path, about: Mapping[str, Any]) -> None:
    """Write a plan, with what was measured or predicted of it, which nobody reads back. Raises FileError."""
    text = json.dumps({**plan.to_dict(), "about": about}, indent=1)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputNotWritableError(f"{path} cannot be written: {error}") from error


def _from_dict(values: Any, path: str) -> Plan:
    if not isinstance(values, dict) or values.get("kind") != "pipeline" or not isinstance(values.get("plan"), str):
        raise PipelinePlanError(f"{path} is no pipeline plan; make one with `visavis export pipeline --save`")
    if values.get("format") != FORMAT:
        raise PipelinePlanError(f"{path} has format {values.get('format')}; this version reads {FORMAT}: plan again")
    depth = values.get("depth")
    if type(depth) is not int:
        raise PipelinePlanError(f"{path} lacks the pipeline's depth; plan again")
    return Plan.parse(values["plan"], depth)


def _parse_stage(text: str) -> Stage:
    works, at, place = text.partition("@")
    if not at:
        raise PipelinePlanError(f"stage {text!r} of a pipeline plan has no place; {_EXAMPLE}")
    return Stage(tuple(works.split("+")), Place.parse(place))


def _parse_ranges(text: str) -> tuple[int, ...]:
    """`0-2,5` to (0, 1, 2, 5)."""
    cores: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = (first, last if dash else first)
        if not all(end.isdecimal() and int(end) < _MOST_CORES for end in ends) or int(ends[0]) > int(ends[1]):
            raise PipelinePlanError(f"{text!r} is no set of CPU cores; write it like 0-1 or 0,2,4")
        cores.update(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(cores))


def _ranges(cores: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
