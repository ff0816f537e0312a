"""Pictures of clips for the eye: contact sheets, truth maps, curves, and the measures behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from engine.portrait.landmarks import INDEX
from engine.types import FPS, SAMPLES_PER_FRAME, AvatarState
from training.data.clips import Clip
from training.data.media import Bytes, Floats
from training.data.truth import UNIT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHEET_FRAMES = 10
BLINK_CLOSED = 0.5
_CURVE_HEIGHT_PX = 40


def mouth_opening(landmarks: Floats) -> Floats:
    """[F]: gap between the inner lips over the face's height, from landmarks [F, 28, 2]."""
    gap = landmarks[:, INDEX["lip_lower_inner"]] - landmarks[:, INDEX["lip_upper_inner"]]
    face = landmarks[:, INDEX["chin"]] - landmarks[:, INDEX["forehead"]]
    return np.linalg.norm(gap, axis=-1) / np.maximum(np.linalg.norm(face, axis=-1), 1e-6)


def loudness_db(voice: Floats) -> Floats:
    """[F]: level of each frame's sound in dB of full scale, at least -60."""
    power = np.square(voice.reshape(-1, SAMPLES_PER_FRAME)).mean(-1)
    return (10 * np.log10(np.maximum(power, 1e-6))).astype(np.float32)


def count_blinks(units: Floats) -> int:
    """Number of times that the lids shut, from units [F, 52]."""
    shut = units[:, [UNIT["eyeBlinkLeft"], UNIT["eyeBlinkRight"]]].mean(-1) > BLINK_CLOSED
    return int(shut[0]) + int((shut[1:] & ~shut[:-1]).sum())


def contact_sheet(clips: Sequence[Clip]) -> Bytes:
    """A row per clip: reference, frames with their landmarks' mouth gap below, as uint8 [H, W, 3]."""
    return np.concatenate([_sheet_row(clip) for clip in clips])


def map_sheet(clips: Sequence[Clip]) -> Bytes:
    """A row per clip: reference, a frame with landmarks, the reference warped by the true flow, known, mouth."""
    return np.concatenate([_map_row(clip) for clip in clips])


def warp(reference: Bytes, flow: Floats) -> Bytes:
    """The reference [S, S, 3] pulled through a flow [64, 64, 2] of absolute fractions."""
    size = reference.shape[0]
    dense = cv2.resize(flow, (size, size), interpolation=cv2.INTER_LINEAR) * size - 0.5
    dense = dense.astype(np.float32)
    pulled = cv2.remap(reference, dense[..., 0], dense[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return pulled.astype(np.uint8)


def warp_error(clip: Clip, maps: int = 4) -> tuple[float, float]:
    """Mean |frame - reference pulled through the true flow| and |frame - reference| where known, in grey levels."""
    truth, size = clip.truth, clip.reference.shape[0]
    errors = []
    for pick in np.linspace(0, len(truth.map_frames) - 1, min(maps, len(truth.map_frames))).astype(int):
        known = cv2.resize(truth.known[pick], (size, size), interpolation=cv2.INTER_LINEAR) > 250
        frame = clip.frames[truth.map_frames[pick]].astype(int)
        if known.any():
            pulled = warp(clip.reference, truth.flow[pick])
            errors.append([np.abs(frame - other)[known].mean() for other in (pulled, clip.reference)])
    warped, copied = np.mean(errors, 0) if errors else (0.0, 0.0)
    return float(warped), float(copied)


def _sheet_row(clip: Clip) -> Bytes:
    size = clip.reference.shape[0]
    picked = np.linspace(0, len(clip) - 1, SHEET_FRAMES).round().astype(int)
    pictures = np.concatenate([clip.reference, *clip.frames[picked]], 1)
    curve = np.full((_CURVE_HEIGHT_PX, pictures.shape[1], 3), 255, np.uint8)
    across = size + (np.arange(len(clip)) / max(len(clip) - 1, 1) * (SHEET_FRAMES * size - 1)).astype(int)
    colours = {
        AvatarState.SPEAKING: (30, 30, 200),
        AvatarState.LISTENING: (20, 140, 20),
        AvatarState.IDLE: (90, 90, 90),
    }
    heights = _CURVE_HEIGHT_PX - 3 - mouth_opening(clip.truth.landmarks) / 0.2 * (_CURVE_HEIGHT_PX - 6)
    points = np.stack([across, heights.clip(1)], -1).astype(int)
    for state, a, b in zip(clip.truth.state, points[:-1], points[1:], strict=False):
        cv2.line(curve, tuple(map(int, a)), tuple(map(int, b)), colours[AvatarState(int(state))], 1, cv2.LINE_AA)
    label = f"{clip.meta.get('kind')} {clip.meta.get('reference')}"
    cv2.putText(curve, label, (3, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([pictures, curve])


def _map_row(clip: Clip) -> Bytes:
    size, truth = clip.reference.shape[0], clip.truth
    pick = int(np.argmax(truth.mouth.reshape(len(truth.mouth), -1).sum(-1, dtype=np.int64)))
    frame = clip.frames[truth.map_frames[pick]]
    warped = warp(clip.reference, truth.flow[pick])
    masks = [
        cv2.resize(m, (size, size), interpolation=cv2.INTER_NEAREST) for m in (truth.known[pick], truth.mouth[pick])
    ]
    error = np.abs(frame.astype(int) - warped).mean(-1) * (masks[0] / 255.0)
    grey = [*masks, np.clip(error * 3, 0, 255).astype(np.uint8)]
    marked = _mark(frame, truth.landmarks[truth.map_frames[pick]])
    reference = _mark(clip.reference, truth.reference_landmarks)
    return np.concatenate([reference, marked, frame, warped, *[np.repeat(g[..., None], 3, -1) for g in grey]], 1)


def _mark(picture: Bytes, landmarks: Floats) -> Bytes:
    marked = picture.copy()
    for x, y in np.round(landmarks * picture.shape[0] - 0.5).astype(int):
        cv2.circle(marked, (int(x), int(y)), 1, (0, 255, 0), -1)
    return marked


def plot_curves(clips: Sequence[Clip], path: Path) -> Path:
    """PNG of waveforms, mouth opening, jaw, blinks and head angles over time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2 * len(clips), 1, figsize=(14, 4.4 * len(clips)), squeeze=False)
    for clip, (sound, pose) in zip(clips, axes[:, 0].reshape(-1, 2), strict=True):
        _plot_clip(clip, sound, pose)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return path


def _plot_clip(clip: Clip, sound: Axes, pose: Axes) -> None:
    truth, times_s = clip.truth, (np.arange(len(clip)) + 0.5) / FPS
    samples_s = np.arange(len(clip.voice)) / (FPS * SAMPLES_PER_FRAME)
    sound.plot(samples_s, clip.voice, lw=0.4, color="tab:blue", label="voice")
    sound.plot(samples_s, clip.partner, lw=0.3, color="tab:green", alpha=0.6, label="partner")
    sound.plot(times_s, mouth_opening(truth.landmarks) * 5, color="tab:red", label="opening x5")
    sound.plot(times_s, truth.units[:, UNIT["jawOpen"]], color="tab:orange", lw=0.8, label="jawOpen")
    sound.plot(times_s, truth.state * 0.2 - 1, color="black", lw=0.8, label="state")
    sound.set_ylim(-1.05, 1.05)
    sound.set_title(f"{clip.key} {clip.meta.get('subject')}", fontsize=8)
    for symbol, start_s, end_s in clip.meta.get("phones") or []:
        sound.text((start_s + end_s) / 2, 0.9, symbol, fontsize=7, ha="center")
    for axis, name in enumerate(("yaw", "pitch", "roll")):
        pose.plot(times_s, truth.head[:, axis], label=name)
    pose.plot(times_s, truth.gaze[:, 0], lw=0.8, ls=":", label="gaze x")
    pose.plot(times_s, truth.units[:, UNIT["eyeBlinkLeft"]] * 10, lw=0.8, color="black", label="blink x10")
    for axes in (sound, pose):
        axes.legend(loc="upper right", fontsize=6, ncol=5)
        axes.set_xlim(0, len(clip) / FPS)


def beside_reference(clip: Clip) -> Bytes:
    """Reference and frames side by side, with even sides."""
    still = np.broadcast_to(clip.reference, clip.frames.shape)
    both = np.concatenate([still, clip.frames], 2)
    return both[:, : both.shape[1] // 2 * 2, : both.shape[2] // 2 * 2]
