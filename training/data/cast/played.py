"""Performances as a few pictures: every curve a column of 16-bit grey, every voice its log-mel in 8 bits.

PNG's row predictors fit smooth curves and spectra well: half an hour takes some ten megabytes. Log-mel is all that
training hears of a voice (`engine.audio.features`), so the sound itself stays behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.audio.features import LOG_FLOOR, N_MELS, log_mel
from engine.audio.windows import MELS_PER_FRAME
from engine.errors import CastDamagedError
from engine.types import EXPRESSIONS
from training.data.truth import ARKIT_UNITS, Floats, FramePose, Performance

Arrays = Mapping[str, NDArray[np.generic]]

MEL_STEP = 0.08
"""Natural-log units per grey level: an error of 0.02 rms, a hundredth of what training adds on purpose."""

_WIDTHS = {"units": len(ARKIT_UNITS), "head": 3, "gaze": 2, "tongue": 1, "expression": len(EXPRESSIONS)}
_COLUMNS = sum(_WIDTHS.values())


@dataclass(frozen=True, slots=True)
class Played:
    """Performances laid end to end; performance i is frames start[i] to start[i + 1].

    units [N, 52], head [N, 3], gaze [N, 2], tongue [N, 1], expression [N, 8]: float32; state int8 [N];
    mel, partner_mel: float32 [4 N, 80].
    """

    start: NDArray[np.int64]
    units: Floats
    head: Floats
    gaze: Floats
    tongue: Floats
    expression: Floats
    state: NDArray[np.int8]
    mel: Floats
    partner_mel: Floats

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def frames(self) -> int:
        return len(self.state)

    def pose(self, frame: int) -> FramePose:
        """What a renderer needs of one of the N frames."""
        return FramePose(self.units[frame], self.head[frame], self.gaze[frame], float(self.tongue[frame, 0]))

    @staticmethod
    def of(performances: Sequence[Performance]) -> Played:
        """Lay performances end to end."""
        counts = [len(p) for p in performances]

        def joined(name: str) -> Floats:
            return np.concatenate([getattr(p, name).reshape(len(p), -1) for p in performances]).astype(np.float32)

        return Played(
            start=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            **{name: joined(name) for name in _WIDTHS},
            state=np.concatenate([p.state for p in performances]).astype(np.int8),
            mel=np.concatenate([log_mel(p.voice) for p in performances]),
            partner_mel=np.concatenate([log_mel(p.partner) for p in performances]),
        )


def pack(played: Played) -> dict[str, NDArray[np.generic]]:
    """Arrays to store: PNG bytes, ranges of the curves, states and starts."""
    curves = np.concatenate([getattr(played, name) for name in _WIDTHS], 1)
    low, high = curves.min(0), curves.max(0)
    room = np.maximum(high - low, 1e-6)
    grey = np.round((curves - low) / room * 65535).astype(np.uint16)
    return {
        "start": played.start,
        "state": played.state,
        "low": low.astype(np.float32),
        "room": room.astype(np.float32),
        "curves": _png(grey),
        "mel": _png(_to_grey(played.mel)),
        "partner_mel": _png(_to_grey(played.partner_mel)),
    }


def unpack(arrays: Arrays) -> Played:
    """Inverse of `pack` but for the rounding. Raises CastDamagedError."""
    try:
        start, state = arrays["start"].astype(np.int64), arrays["state"].astype(np.int8)
        frames = len(state)
        grey = _picture(arrays["curves"], (frames, _COLUMNS), np.uint16)
        curves = grey.astype(np.float32) / 65535 * arrays["room"] + arrays["low"]
        mels = {
            name: _picture(arrays[name], (MELS_PER_FRAME * frames, N_MELS), np.uint8).astype(np.float32) * MEL_STEP
            + LOG_FLOOR
            for name in ("mel", "partner_mel")
        }
    except KeyError as error:
        raise CastDamagedError(f"the performances lack {error}; make the cast again: visavis data cast") from error
    return Played(start, **dict(_split(curves.astype(np.float32))), state=state, **mels)


def _split(curves: Floats) -> Iterator[tuple[str, Floats]]:
    ends = np.cumsum(list(_WIDTHS.values()))[:-1]
    for name, part in zip(_WIDTHS, np.split(curves, ends, axis=1), strict=True):
        yield name, np.ascontiguousarray(part)


def _to_grey(mel: Floats) -> NDArray[np.uint8]:
    return np.clip(np.round((mel - LOG_FLOOR) / MEL_STEP), 0, 255).astype(np.uint8)


def _png(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise ValueError(f"OpenCV cannot encode a picture of {image.shape}")
    return data.reshape(-1)


def _picture(data: NDArray[np.generic], shape: tuple[int, int], kind: type) -> NDArray[np.generic]:
    image = cv2.imdecode(np.ascontiguousarray(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape != shape or image.dtype != kind:
        raise CastDamagedError("a performance's picture is damaged; make the cast again: visavis data cast")
    return image
