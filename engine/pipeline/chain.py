"""The blocks of one film through the stages of a plan: a generator for each kind of work, and a thread for each stage.

Without a plan, or with one stage, the same generators run one inside the other in the caller's thread, so a pipeline
cannot compute anything else.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

from engine.ahead import run_ahead
from engine.pipeline.placing import keep_on
from engine.worker.base import Step
from engine.worker.line import Line
from engine.worker.slots import SlotState


@dataclass(frozen=True, slots=True)
class Piece:
    """A block on its way. content: nothing, then latents [F, C, G, G], then what Line.predict makes of the first
    `shown` of them, then pictures uint8 [shown, P, P, 3]. timing: milliseconds by stage.
    """

    step: Step
    shown: int
    content: Any = None
    timing: Mapping[str, float] = field(default_factory=dict)

    def became(self, content: Any, **timing: float) -> Piece:
        return replace(self, content=content, timing={**self.timing, **timing})


def run_chain(line: Line, slot: SlotState, pieces: Iterable[Piece]) -> Generator[Piece]:
    """Pieces with pictures of pieces without, in their order. slot: adopted by the line's front.

    Raises what the stages do. When the caller stops early, all threads have ended before this returns.
    """
    work = {
        "denoise": partial(_denoise, line, slot),
        "decode": partial(_predict, line, slot),
        "compose": partial(_compose, line, slot),
    }
    if line.plan is None or len(line.plan.stages) == 1:
        return work["compose"](work["decode"](work["denoise"](piece for piece in pieces)))
    made: Generator[Piece] = (piece for piece in pieces)
    for stage in line.plan.stages:
        ours = [work[name] for name in stage.works if name in work]
        for do in ours:
            made = do(made)
        if ours:
            made = run_ahead(made, line.plan.depth, partial(keep_on, stage.place))
    return made


# Each closes what it takes from, so that no thread before it outlives an error of its own.


def _denoise(line: Line, slot: SlotState, pieces: Generator[Piece]) -> Generator[Piece]:
    with closing(pieces):
        for piece in pieces:
            began = perf_counter()
            done = line.front.denoise([slot], [piece.step], lambda: True)[0]
            slot.commit(piece.step, done.cache)
            yield piece.became(done.latents, denoise_ms=_since(began), audio_ms=done.audio_ms)


def _predict(line: Line, slot: SlotState, pieces: Generator[Piece]) -> Generator[Piece]:
    with closing(pieces):
        for piece in pieces:
            began = perf_counter()
            predicted = line.predict(piece.content[: piece.shown], slot)
            yield piece.became(predicted, decode_ms=_since(began))


def _compose(line: Line, slot: SlotState, pieces: Generator[Piece]) -> Generator[Piece]:
    with closing(pieces):
        for piece in pieces:
            began = perf_counter()
            yield piece.became(line.compose(piece.content, slot), compose_ms=_since(began))


def _since(began: float) -> float:
    return 1e3 * (perf_counter() - began)
