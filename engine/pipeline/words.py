"""What a line and the process of its front say to each other, as frames of engine.worker.wire.

To the process: `adopt` (slot, seed, the reference's keys and values), `block` (a batch of steps), `cancel` (the batch
is not wanted), `forget` (slot). From it: `ready` (backend), `latents`, `unwanted`, `failed` (code, message).
Only latents come back: the caches stay where they are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.errors import AvatarError, BackendFailedError
from engine.worker.base import Floats, Step
from engine.worker.blocks import Denoised
from engine.worker.slots import SlotState
from engine.worker.wire import Frame, WireError

_ARRAYS = ("windows", "partner_windows", "state", "expression", "expression_given", "pose", "pose_given")
_NOTHING_MADE = -1
_LONGEST_MESSAGE = 2_000


def adopt_frame(slot: SlotState) -> Frame:
    arrays = {name: slot.reference[name] for name in ("keys", "values")}
    return Frame("adopt", {"slot": slot.number, "seed": slot.seed}, arrays)


def block_frame(number: int, slots: Sequence[SlotState], steps: Sequence[Step]) -> Frame:
    """follows: the frame that comes next for each slot, which tells whether its last block was kept."""
    about = {
        "number": number,
        "denoising_steps": steps[0].denoising_steps,
        "slots": [slot.number for slot in slots],
        "follows": [_NOTHING_MADE if slot.next_frame is None else slot.next_frame for slot in slots],
        "starts": [step.start_frame for step in steps],
        "forgets": [bool(step.forget) for step in steps],
    }
    return Frame("block", about, {name: np.stack([getattr(step, name) for step in steps]) for name in _ARRAYS})


def read_steps(frame: Frame) -> list[tuple[int, int | None, Step]]:
    """Slot, the frame that comes next there, and step, of each row. Raises WireError."""
    rows = zip(*(_whole_numbers(frame, name) for name in ("slots", "follows", "starts", "forgets")), strict=True)
    steps = number_of(frame, "denoising_steps")
    try:
        return [
            (
                slot,
                None if follows == _NOTHING_MADE else follows,
                Step(
                    generation=0,
                    start_frame=start,
                    denoising_steps=steps,
                    forget=bool(forget),
                    **{name: frame.arrays[name][row] for name in _ARRAYS},
                ),
            )
            for row, (slot, follows, start, forget) in enumerate(rows)
        ]
    except (KeyError, IndexError, ValueError) as error:
        raise WireError(f"a block message lacks an array or a row of it: {error!r}") from error


def latents_frame(number: int, blocks: Sequence[Denoised]) -> Frame:
    about = {
        "number": number,
        "audio_ms": blocks[0].audio_ms,
        "denoise_ms": blocks[0].denoise_ms,
        "restarted": [block.restarted for block in blocks],
    }
    return Frame("latents", about, {"latents": np.stack([block.latents for block in blocks])})


def read_latents(frame: Frame) -> list[Denoised]:
    """Raises WireError."""
    latents: Floats | None = frame.arrays.get("latents")
    restarted = _whole_numbers(frame, "restarted")
    if latents is None or latents.ndim != 5 or len(latents) != len(restarted):
        raise WireError("a message with latents lacks some of them")
    audio_ms, denoise_ms = (float(frame.fields.get(name, 0.0)) for name in ("audio_ms", "denoise_ms"))
    return [
        Denoised(block, None, audio_ms, denoise_ms, bool(again))
        for block, again in zip(latents, restarted, strict=True)
    ]


def failed_frame(error: BaseException, number: int = 0) -> Frame:
    known = error if isinstance(error, AvatarError) else BackendFailedError(f"the denoise stage failed: {error!r}")
    return Frame("failed", {"number": number, "code": known.code, "message": str(known)[:_LONGEST_MESSAGE]})


def number_of(frame: Frame, name: str) -> int:
    """A whole number of the frame. Raises WireError."""
    value: Any = frame.fields.get(name)
    if type(value) is not int:
        raise WireError(f"field {name} of a {frame.type} message is missing or no whole number")
    return value


def _whole_numbers(frame: Frame, name: str) -> list[int]:
    values: Any = frame.fields.get(name)
    if not isinstance(values, list) or not all(isinstance(value, int) for value in values):
        raise WireError(f"field {name} of a {frame.type} message is missing or no list of whole numbers")
    return values
