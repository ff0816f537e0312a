"""What a worker and its process say to each other, and how it looks on the wire (engine.worker.wire).

To the process: Open, Submit, Cancel, Remove, Ping. From it: Ready, Opened, Arrived, Lost, Broken, Pong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.errors import AvatarError, WorkerLostError
from engine.worker.base import Face, Pictures, Step, WorkerInfo
from engine.worker.wire import Frame, WireError


@dataclass(frozen=True, slots=True)
class Open:
    slot: int
    face: Face


@dataclass(frozen=True, slots=True)
class Submit:
    slot: int
    step: Step


@dataclass(frozen=True, slots=True)
class Cancel:
    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class Remove:
    slot: int


@dataclass(frozen=True, slots=True)
class Ping:
    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    info: WorkerInfo


@dataclass(frozen=True, slots=True)
class Opened:
    slot: int


@dataclass(frozen=True, slots=True)
class Arrived:
    slot: int
    pictures: Pictures


@dataclass(frozen=True, slots=True)
class Lost:
    slot: int
    error: AvatarError


@dataclass(frozen=True, slots=True)
class Broken:
    error: AvatarError


@dataclass(frozen=True, slots=True)
class Pong:
    """number: the ping's. took_ms, predicted_ms: of the call furthest beyond its prediction, see Stages.overdue."""

    number: int
    took_ms: float
    predicted_ms: float


Message: TypeAlias = Open | Submit | Cancel | Remove | Ping | Ready | Opened | Arrived | Lost | Broken | Pong

_STEP_ARRAYS = {
    "windows": ("<f4", 3),
    "partner_windows": ("<f4", 3),
    "state": ("<i8", 1),
    "expression": ("<f4", 2),
    "expression_given": ("<f4", 1),
    "pose": ("<f4", 2),
    "pose_given": ("<f4", 1),
}
"""Type and number of axes; the first axis is the frames."""
_STEP_NUMBERS = ("generation", "start_frame", "denoising_steps", "deadline_us", "picture_every")
_SIMPLE: dict[str, type[Cancel] | type[Remove] | type[Ping] | type[Opened]] = {
    "cancel": Cancel,
    "remove": Remove,
    "ping": Ping,
    "opened": Opened,
}
_LARGEST = 1 << 62


def to_frame(message: Message) -> Frame:
    """The message as it is written."""
    match message:
        case Open(slot, face):
            arrays = {"reference": _as(face.reference, "<f4"), "picture": _as(face.picture, "<f4")}
            return Frame("open", {"slot": slot, "seed": face.seed}, arrays)
        case Submit(slot, step):
            numbers = {name: int(getattr(step, name)) for name in _STEP_NUMBERS}
            arrays = {name: _as(getattr(step, name), dtype) for name, (dtype, _) in _STEP_ARRAYS.items()}
            return Frame("step", {"slot": slot, "forget": bool(step.forget), **numbers}, arrays)
        case Arrived(slot, p):
            about = {"generation": p.generation, "start_frame": p.start_frame, "last": p.last, "timing": dict(p.timing)}
            return Frame("pictures", {"slot": slot, **about}, {"images": _as(p.images, "|u1")})
        case Ready(info):
            return Frame("ready", {f.name: _plain(getattr(info, f.name)) for f in fields(info)})
        case Lost(slot, error):
            return Frame("lost", {"slot": slot, **_describe(error)})
        case Broken(error):
            return Frame("broken", _describe(error))
        case Pong():
            return Frame("pong", {f.name: getattr(message, f.name) for f in fields(message)})
        case _:
            about = {f.name: getattr(message, f.name) for f in fields(message)}
            return Frame(next(name for name, kind in _SIMPLE.items() if kind is type(message)), about)


def from_frame(frame: Frame) -> Message:
    """Inverse of to_frame. Raises WireError when the frame lacks something or holds something else."""
    get = _Fields(frame)
    match frame.type:
        case "open":
            face = Face(get.array("reference", "<f4", 4), get.array("picture", "<f4", 4), get.whole("seed", -_LARGEST))
            return Open(get.whole("slot"), face)
        case "step":
            return Submit(get.whole("slot"), _read_step(get))
        case "pictures":
            return Arrived(get.whole("slot"), _read_pictures(get))
        case "ready":
            return Ready(_read_info(get))
        case "lost":
            return Lost(get.whole("slot"), _read_error(get))
        case "broken":
            return Broken(_read_error(get))
        case "pong":
            return Pong(get.whole("number"), get.real("took_ms"), get.real("predicted_ms"))
        case kind if kind in _SIMPLE:
            simple = _SIMPLE[kind]
            return simple(**{f.name: get.whole(f.name) for f in fields(simple)})
    raise WireError(f"there is no message of type {frame.type[:20]!r}")


class _Fields:
    """A frame's contents, each checked as it is taken."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def any(self, name: str, kind: type | tuple[type, ...]) -> Any:
        value = self._frame.fields.get(name)
        if not isinstance(value, kind):
            raise WireError(f"field {name} of a {self._frame.type} message is missing or of another type")
        return value

    def whole(self, name: str, least: int = 0) -> int:
        value: int = self.any(name, int)
        if isinstance(value, bool) or not least <= value <= _LARGEST:
            raise WireError(f"field {name} of a {self._frame.type} message is out of range")
        return value

    def real(self, name: str) -> float:
        return _real(self.any(name, (int, float)))

    def text(self, name: str) -> str:
        value: str = self.any(name, str)
        return value

    def reals(self, name: str) -> Mapping[str, float]:
        return {str(key): _real(value) for key, value in self.any(name, dict).items()}

    def array(self, name: str, dtype: str, axes: int) -> NDArray[Any]:
        array = self._frame.arrays.get(name)
        if array is None or array.dtype.str != dtype or array.ndim != axes:
            raise WireError(f"array {name} of a {self._frame.type} message is missing or of another type or shape")
        return array


def _real(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError("a number of the worker's messages is none") from error


def _read_step(get: _Fields) -> Step:
    arrays: dict[str, Any] = {name: get.array(name, dtype, axes) for name, (dtype, axes) in _STEP_ARRAYS.items()}
    numbers: dict[str, Any] = {
        name: get.whole(name, -_LARGEST if name == "deadline_us" else 0) for name in _STEP_NUMBERS
    }
    if len({len(array) for array in arrays.values()}) != 1 or not len(arrays["state"]):
        raise WireError("the arrays of a step differ in their number of frames, or have none")
    if numbers["denoising_steps"] < 1 or numbers["picture_every"] < 1:
        raise WireError("a step has no denoising steps or shows no pictures")
    return Step(**arrays, **numbers, forget=get.any("forget", bool))


def _read_pictures(get: _Fields) -> Pictures:
    images = get.array("images", "|u1", 4)
    return Pictures(
        get.whole("generation"), get.whole("start_frame"), images, get.any("last", bool), get.reals("timing")
    )


def _read_info(get: _Fields) -> WorkerInfo:
    lengths = get.any("block_lengths", list)
    costs = get.reals("denoise_ms")
    if not lengths or not all(type(n) is int for n in lengths) or not all(n.isdecimal() for n in costs) or not costs:
        raise WireError("a worker's block lengths or their costs are not numbers")
    whole = ("steps", "first_steps", "first_block_frames", "block_frames", "context_frames", "picture_px")
    return WorkerInfo(
        model=get.text("model"),
        backend=get.text("backend"),
        block_lengths=tuple(lengths),
        denoise_ms={int(n): ms for n, ms in costs.items()},
        decode_ms=get.real("decode_ms"),
        fixed_ms=get.real("fixed_ms"),
        moves_alpha=get.any("moves_alpha", bool),
        **{name: get.whole(name) for name in whole},
    )


def error_of(frame: Frame) -> AvatarError:
    """The error that a frame tells in `code` and `message`. Raises WireError when it does not."""
    return _read_error(_Fields(frame))


def _read_error(get: _Fields) -> AvatarError:
    """The error of the same code, where this process knows one."""
    code, known = get.text("code"), {kind.code: kind for kind in _below(AvatarError)}
    return known.get(code, WorkerLostError)(get.text("message"))


def _below(kind: type[AvatarError]) -> list[type[AvatarError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in _below(child))]


def _describe(error: AvatarError) -> dict[str, str]:
    return {"code": error.code, "message": str(error)[:2_000]}


def _plain(value: Any) -> Any:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else value


def _as(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype)
