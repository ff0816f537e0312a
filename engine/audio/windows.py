"""Which stretch of sound each video frame may hear.

Video frame f shows samples 640 f to 640 f + 639, which are mel frames 4 f to 4 f + 3. With the usual look-ahead of two
video frames its window holds mel frames 4 f - 20 to 4 f + 11: 200 ms of past, the frame itself, 80 ms of future.
Speech needs some future because lips shape a sound before it is heard.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.audio.features import HOP_SAMPLES, LOG_FLOOR, LOOK_AHEAD_SAMPLES
from engine.types import SAMPLES_PER_FRAME

WINDOW_MELS = 32
MELS_PER_FRAME = SAMPLES_PER_FRAME // HOP_SAMPLES
LOOK_AHEAD_FRAMES = 2


def frame_windows(
    mel: NDArray[np.float32],
    first_frame: int,
    n_frames: int,
    look_ahead_frames: int = LOOK_AHEAD_FRAMES,
    mel_start: int = 0,
) -> NDArray[np.float32]:
    """Windows [n_frames, 32, 80] for video frames first_frame onwards.

    mel: [T, 80], frame i of it being mel frame mel_start + i of the signal (a session keeps only the recent ones).
    Places before and after what is given are filled with the log floor, which is what silence looks like.
    Less look-ahead moves the window into the past; its length stays 32.
    """
    last = MELS_PER_FRAME * (1 + look_ahead_frames)
    frames = np.arange(first_frame, first_frame + n_frames)[:, None] * MELS_PER_FRAME
    index = frames + np.arange(last - WINDOW_MELS, last) - mel_start
    inside = (index >= 0) & (index < len(mel))
    windows = np.full((*index.shape, mel.shape[1]), LOG_FLOOR, np.float32)
    windows[inside] = mel[index[inside]]
    return windows


def samples_needed(frame: int, look_ahead_frames: int = LOOK_AHEAD_FRAMES) -> int:
    """Samples of the signal that must have arrived before the window of this video frame is complete."""
    last_mel = MELS_PER_FRAME * (frame + 1 + look_ahead_frames) - 1
    return last_mel * HOP_SAMPLES + LOOK_AHEAD_SAMPLES
