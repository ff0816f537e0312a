"""Names what a person is doing, from how the face moves: a small classifier over windows of the probe's readings.

It is trained on ground-truth video as the probe reads it, so that the probe's noise is the same in training and use,
and on the same video after the codec, so that what only the codec softens is not taken for another behaviour. It never
sees sound, pixels, or anything generated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.errors import DataSettingsError
from engine.types import AvatarState
from training.data.clips import Clip
from training.data.media import Bytes
from training.data.shards import iterate_shards
from training.data.truth import UNIT, Floats
from training.evaluate.metrics import blink_curve, mouth_opening
from training.instruments.probe import Probe, Reading

Shown = Callable[[Clip], Bytes]
"""What is seen instead of a clip's true frames: uint8 [F, S, S, 3]."""

WINDOW_FRAMES = 50
HOP_FRAMES = 5
_HIDDEN = 48
_STEPS = 400

_CURVES = {
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "brows": ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    "press": ("mouthPressLeft", "mouthPressRight"),
    "pucker": ("mouthPucker", "mouthFunnel"),
    "jaw": ("jawOpen",),
}


@dataclass(frozen=True, slots=True)
class Windows:
    """features [N, K]; state int64 [N], the state that fills most of each window; pure bool [N], all of it."""

    features: Floats
    state: NDArray[np.int64]
    pure: NDArray[np.bool_]


def curves(reading: Reading) -> Floats:
    """What is looked at, per frame: opening, face units, blinks, head, where the eyes look, [F, curves]."""
    units = [reading.units[:, [UNIT[n] for n in names]].mean(1) for names in _CURVES.values()]
    looking = reading.gaze + reading.head[:, :2]
    columns = [mouth_opening(reading.landmarks), *units, blink_curve(reading.units), *reading.head.T, *looking.T]
    return np.stack(columns, 1).astype(np.float32)


def window_features(part: Floats) -> Floats:
    """Statistics of one window of curves [W, curves]: mean, spread, speed, range."""
    speed = np.abs(np.diff(part, axis=0))
    span = np.quantile(part, 0.95, axis=0) - np.quantile(part, 0.05, axis=0)
    jerk = np.abs(np.diff(part, n=2, axis=0)).mean(0)
    centred = np.concatenate((part[:, :7].mean(0), np.abs(part[:, 7:] - np.median(part[:, 7:], 0)).max(0)))
    return np.concatenate((centred, part.std(0), speed.mean(0), speed.max(0), span, jerk)).astype(np.float32)


def windows(reading: Reading, state: NDArray[np.integer]) -> Windows:
    """Overlapping windows of one clip; a clip shorter than a window is one window."""
    seen = curves(reading)
    length = min(WINDOW_FRAMES, len(seen))
    features, labels, pure = [], [], []
    for first in range(0, len(seen) - length + 1, HOP_FRAMES):
        part = state[first : first + length]
        counts = np.bincount(part, minlength=len(AvatarState))
        features.append(window_features(seen[first : first + length]))
        labels.append(int(counts.argmax()))
        pure.append(bool(counts.max() == length))
    return Windows(np.stack(features), np.array(labels, np.int64), np.array(pure))


def join(parts: Iterable[Windows]) -> Windows:
    items = list(parts)
    return Windows(
        np.concatenate([w.features for w in items]),
        np.concatenate([w.state for w in items]),
        np.concatenate([w.pure for w in items]),
    )


class StateNamer(nn.Module):
    """Two layers over standardised window features [N, K]; scores [N, 3]."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.layers = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(features, _HIDDEN), nn.SiLU(),
            nn.Dropout(0.3), nn.Linear(_HIDDEN, len(AvatarState)),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(((features - self.mean) / self.scale).clamp(-6, 6))

    @torch.no_grad()
    def name(self, features: Floats) -> NDArray[np.int64]:
        """The likeliest state of each window."""
        return self.eval()(torch.from_numpy(features)).argmax(1).numpy()


def train_namer(data: Windows, seed: int = 0, steps: int = _STEPS) -> StateNamer:
    """Fit on windows that hold one state only; states count equally however often they occur.

    Raises DataSettingsError when there are none.
    """
    if not data.pure.any():
        raise DataSettingsError("no clip stays in one state for 2 s; make longer clips (visavis data make --seconds)")
    torch.manual_seed(seed)
    features, state = torch.from_numpy(data.features[data.pure]), torch.from_numpy(data.state[data.pure])
    namer = StateNamer(features.shape[1])
    namer.mean.copy_(features.mean(0))
    namer.scale.copy_(features.std(0, correction=0).clamp(min=1e-4))
    weight = 1 / torch.bincount(state, minlength=len(AvatarState)).clamp(min=1)
    optimizer = torch.optim.AdamW(namer.parameters(), lr=5e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    namer.train()
    for _ in range(steps):
        rows = torch.randint(len(state), (512,))
        loss = nn.functional.cross_entropy(namer(features[rows]), state[rows], weight=weight / weight.mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return namer.eval()


def confusion(namer: StateNamer, data: Windows) -> NDArray[np.int64]:
    """Counts of one-state windows, [3, 3]: state they hold by state they are named."""
    table = np.zeros((len(AvatarState), len(AvatarState)), np.int64)
    if data.pure.any():
        np.add.at(table, (data.state[data.pure], namer.name(data.features[data.pure])), 1)
    return table


def accuracy(namer: StateNamer, data: Windows) -> float:
    """Share of one-state windows that are named rightly; NaN when there are none."""
    table = confusion(namer, data)
    return float(np.trace(table) / table.sum()) if table.any() else float("nan")


def save_namer(namer: StateNamer, path: Path, meta: dict[str, Any]) -> None:
    """Safetensors with JSON meta."""
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in namer.state_dict().items()}, path, metadata={"meta": json.dumps(meta)})


def load_namer(path: Path) -> tuple[StateNamer, dict[str, Any]]:
    """The classifier and its meta."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["meta"])
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    namer = StateNamer(len(weights["mean"]))
    namer.load_state_dict(weights)
    return namer.eval(), meta


def read_windows(probe: Probe, shards: list[Path], most: int, shown: Shown | None = None) -> Windows:
    """Windows of at most `most` clips, taken evenly from some shards, as the probe reads their true frames, or what
    `shown` makes of them.
    """
    each = -(-most // len(shards))
    clips = (clip for shard in shards for clip in islice(iterate_shards([shard]), each))
    return join(
        windows(probe.read(shown(clip) if shown else clip.frames, clip.reference), clip.truth.state) for clip in clips
    )


def train_states(
    data: list[Path], held_out: list[Path], probe: Path, out: Path, most: int = 240, codec: Shown | None = None
) -> Path:
    """Fit on the ground-truth video of at most `most` clips, and on what the codec makes of it when one is given;
    measure on held-out clips, write `out`; returns it.
    """
    reader = Probe.load(probe)
    seen, test = read_windows(reader, data, most), read_windows(reader, held_out, most)
    errors = {"windows": int(test.pure.sum())}
    if codec is not None:
        seen = join((seen, read_windows(reader, data, most, codec)))
    namer = train_namer(seen)
    errors["accuracy"] = round(accuracy(namer, test), 4)
    if codec is not None:
        errors["accuracy_after_codec"] = round(accuracy(namer, read_windows(reader, held_out, most, codec)), 4)
    save_namer(namer, out, {"stage": "states", "windows": int(seen.pure.sum()), "errors": errors})
    return out
