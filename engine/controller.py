"""How long the next block is, and how many steps it gets, from the time that is left and what blocks have cost.

Short blocks answer quickly, long ones cost less a frame and move more smoothly (variable-length generation, LLIA,
arXiv 2506.05806): the longest block is taken whose first picture is ready in time. When even short ones are late for
long, quality gives way in a fixed order: fewer denoising steps, then half the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.types import FRAME_US
from engine.worker.base import WorkerInfo

_SAFETY = 1.3
"""How much longer than predicted a block may take without being late."""
_MARGIN_MS = 4.0
_LEARN = 0.1
"""Share of each new measurement in the running averages."""
_DEGRADE_AFTER_LATE = 4
"""Blocks in a row that come late before quality gives way."""
_RECOVER_AFTER = 12
"""Blocks in a row with time to spare before it comes back a step."""

LEVELS = ("full", "fewer steps", "half the pictures")


@dataclass(frozen=True, slots=True)
class Choice:
    """A block of `length` frames with so many denoising steps, of which every `picture_every`-th is decoded."""

    length: int
    steps: int
    picture_every: int


class BlockController:
    """One session's controller; learns costs from the timing of its own blocks."""

    def __init__(self, info: WorkerInfo) -> None:
        self._info = info
        self._call_ms = dict(info.denoise_ms)
        self._decode_ms = info.decode_ms
        self._fixed_ms = info.fixed_ms
        self.level = 0
        self._late = self._early = 0

    def first_picture_ms(self, length: int, steps: int) -> float:
        """From when a worker takes the step to its first picture: the calls, one that writes the context, decoding."""
        return self._fixed_ms + (steps + 1) * self._call_ms[length] + self._decode_ms

    def step_ms(self, length: int, steps: int, picture_every: int) -> float:
        """A whole block, its stages one after the other."""
        pictures = -(-length // picture_every)
        return self._fixed_ms + (steps + 1) * self._call_ms[length] + pictures * self._decode_ms

    def reaction_ms(self) -> float:
        """The time to plan for from now to a first new picture, when everything is thrown away."""
        return _SAFETY * (self.first_picture_ms(min(self._call_ms), self._steps(False)) + self._decode_ms) + _MARGIN_MS

    def choose(self, slack_ms: float, available: int, fresh: bool) -> Choice:
        """slack_ms: until the block's first picture is due, beyond what is under way. available: frames that may be
        made. fresh: the context is empty, so the block gets the first block's steps when there is time for them.
        """
        picture_every = 2 if self.level == 2 else 1
        first = fresh and self.level == 0 and self._fits(1, self._steps(True), slack_ms)
        steps = self._steps(first)
        lengths = [n for n in self._info.block_lengths if n <= max(1, available)]
        fitting = [n for n in lengths if self._fits(n, steps, slack_ms)]
        return Choice(max(fitting) if fitting else self._behind(lengths, steps, picture_every), steps, picture_every)

    def offline(self, available: int, fresh: bool) -> Choice:
        """Without a clock: the model's own block lengths and steps."""
        wanted = self._info.first_block_frames if fresh else self._info.block_frames
        length = max((n for n in self._info.block_lengths if n <= min(wanted, available)), default=1)
        return Choice(length, self._info.first_steps if fresh else self._info.steps, 1)

    def observe(self, length: int, steps: int, timing: Mapping[str, float], late: bool) -> None:
        """What a block took, and whether its first picture came after it was due."""
        pictures = max(1.0, timing.get("pictures", length))
        self._call_ms[length] += _LEARN * (timing["denoise_ms"] / (steps + 1) - self._call_ms[length])
        self._decode_ms += _LEARN * (timing["decode_ms"] / pictures - self._decode_ms)
        self._fixed_ms += _LEARN * (timing.get("audio_ms", 0.0) - self._fixed_ms)
        self._late = self._late + 1 if late else 0
        self._early = 0 if late else self._early + 1
        if self._late >= _DEGRADE_AFTER_LATE and self.level + 1 < len(LEVELS):
            self.level, self._late = self.level + 1, 0
        elif self._early >= _RECOVER_AFTER and self.level and self._sustains(self.level - 1):
            self.level, self._early = self.level - 1, 0

    def _behind(self, lengths: list[int], steps: int, picture_every: int) -> int:
        """When no length is in time: the shortest, which answers soonest; but once that has not helped, the one that
        costs least a frame, or the picture would stay late for ever.
        """
        if not self._late:
            return lengths[0]
        return min(lengths, key=lambda n: self.step_ms(n, steps, picture_every) / n)

    def _steps(self, first: bool) -> int:
        return self._info.first_steps if first else self._info.steps if self.level == 0 else 1

    def _fits(self, length: int, steps: int, slack_ms: float) -> bool:
        return _SAFETY * self.first_picture_ms(length, steps) + _MARGIN_MS <= slack_ms

    def _sustains(self, level: int) -> bool:
        """Whether the longest blocks at that level would take less time than they show."""
        length = max(self._info.block_lengths)
        steps = self._info.steps if level == 0 else 1
        cost_ms = self.step_ms(length, steps, 2 if level == 2 else 1)
        return _SAFETY * cost_ms <= length * FRAME_US / 1000
