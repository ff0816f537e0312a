"""Which frames are good enough, which stretches are long enough, and why the others are not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.portrait.crop import canonical_crop
from engine.portrait.landmarks import INDEX
from engine.types import FPS
from training.data.media import Floats
from training.data.videos.config import Gates
from training.data.videos.framing import outside_share
from training.data.videos.pose import head_angles
from training.data.videos.shots import Range
from training.data.videos.watch import Seen

Reasons = NDArray[np.str_]
"""Per frame what is wrong with it, "" where nothing is."""

_OUTLINE = [INDEX[name] for name in ("forehead", "chin", "cheek_right", "cheek_left")]
_QUIET = [INDEX[n] for n in ("nose_bridge", "nose_tip", "nostril_right", "nostril_left", "eye_right_inner",
                            "eye_left_inner", "cheek_right", "cheek_left", "forehead")]  # fmt: skip
_WINDOW = 13
"""Frames over which sharpness, light and trembling are judged: half a second."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Frames first to stop - 1 of a film at 25 fps, and why no clip was made of them."""

    first: int
    stop: int
    reason: str

    @property
    def seconds(self) -> float:
        return (self.stop - self.first) / FPS


def bridged(seen: Seen, dropout_frames: int) -> Seen:
    """The same with short gaps in the face's track filled: points lie between their neighbours."""
    there = np.isfinite(seen.points[:, 0, 0])
    parts = {name: getattr(seen, name).copy() for name in ("points", "lips", "scores", "turn", "sharpness", "light")}
    faces = seen.faces.copy()
    for first, stop in runs(~there):
        if first == 0 or stop == len(seen) or stop - first > dropout_frames:
            continue
        share = (np.arange(1, stop - first + 1) / (stop - first + 1))[:, None, None]
        for name, values in parts.items():
            values[first:stop] = values[first - 1]
            if name in ("points", "lips"):
                values[first:stop] += (share * (values[stop] - values[first - 1])).astype(np.float32)
        faces[first:stop] = faces[first - 1]
    return replace(seen, faces=faces, **parts)


def frame_reasons(seen: Seen, shot: Range, gates: Gates) -> Reasons:
    """What is wrong with each frame of one shot [F]; the first of several reasons, in the order below."""
    part = slice(*shot)
    points, faces = seen.points[part], seen.faces[part]
    width = np.ptp(points[:, _OUTLINE], axis=1).max(-1)
    yaw, pitch, roll = np.abs(head_angles(seen.turn[part])).T
    sharpness, light = typical(seen.sharpness[part]), typical(seen.light[part])
    outside = np.array([outside_share(canonical_crop(p), seen.size) if np.isfinite(p).all() else 0.0 for p in points])
    checks: tuple[tuple[str, NDArray[np.bool_]], ...] = (
        ("no_picture", ~np.isfinite(seen.gap_s[part])),
        ("no_face", faces == 0),
        ("several_faces", faces > 1),
        ("low_frame_rate", seen.gap_s[part] > gates.frame_gap_s),
        ("face_too_small", width < gates.face_px),
        ("turned_away", (yaw > gates.yaw_deg) | (pitch > gates.pitch_deg) | (roll > gates.roll_deg)),
        ("outside_the_picture", outside > gates.outside),
        ("too_dark", light < gates.darkest),
        ("too_bright", light > gates.brightest),
        ("blurred", sharpness < gates.sharpness),
        ("trembling_points", trembling(points) > gates.jitter),
    )
    reasons = np.full(len(points), "", dtype="<U24")
    for reason, bad in reversed(checks):
        reasons[bad] = reason
    return reasons


def trembling(points: Floats) -> Floats:
    """[F]: second difference in time of points that the face does not move by itself, freed of the head's motion, RMS
    over the face's width, typical of half a second around. Points [F, 28, 2] may be NaN."""
    quiet = points[:, _QUIET]
    width = np.ptp(points[:, _OUTLINE], axis=1).max(-1)
    shaken = np.zeros(len(points), np.float32)
    if len(points) > 2:
        bend = quiet[2:] - 2 * quiet[1:-1] + quiet[:-2]
        own = bend - bend.mean(1, keepdims=True)
        shaken[1:-1] = np.sqrt(np.square(own).sum(-1).mean(1)) / width[1:-1]
    return typical(np.where(np.isfinite(shaken), shaken, 0).astype(np.float32))


def typical(values: Floats) -> Floats:
    """Median over half a second around each of values [F]; NaN are passed over, and give 0 where there is nothing."""
    half = _WINDOW // 2
    padded = np.pad(values, half, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)
    empty = np.isnan(windows).all(1)
    filled = np.where(empty[:, None], 0.0, windows)
    return np.nanmedian(filled, axis=1).astype(np.float32)


def good_stretches(reasons: Reasons, shot: Range, frames: int) -> tuple[list[Range], list[Rejected]]:
    """Stretches of a shot that hold at least one clip of so many frames, and all the rest with its reason."""
    first = shot[0]
    kept, rejected = [], []
    for start, stop in runs(reasons == ""):
        if stop - start >= frames:
            kept.append((first + start, first + stop))
        else:
            rejected.append(Rejected(first + start, first + stop, "too_short"))
    for reason in sorted(set(reasons.tolist()) - {""}):
        rejected += [Rejected(first + start, first + stop, reason) for start, stop in runs(reasons == reason)]
    return kept, sorted(rejected, key=lambda r: r.first)


def clip_ranges(stretch: Range, frames: int) -> tuple[list[Range], list[Rejected]]:
    """As many clips as fit into a stretch, from its middle; what is left at both ends."""
    first, stop = stretch
    count = (stop - first) // frames
    start = first + (stop - first - count * frames) // 2
    clips = [(start + i * frames, start + (i + 1) * frames) for i in range(count)]
    ends = [(first, start), (start + count * frames, stop)]
    return clips, [Rejected(a, b, "left_over") for a, b in ends if b > a]


def runs(mask: NDArray[np.bool_]) -> list[Range]:
    """The stretches of a mask [F] that are true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask, np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
