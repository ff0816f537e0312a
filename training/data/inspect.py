"""Look at shards: contact sheet, curves, a film that plays anywhere, and figures.

A data set is only as good as it looks and sounds; every figure here has caught a fault that a loss would have hidden
(mouths that move in silence, people who never blink, one voice for everybody).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataSettingsError
from engine.types import FPS, AvatarState
from training.data.clips import Clip
from training.data.media import Bytes, Floats, write_preview
from training.data.shards import encode_png, iterate_shards
from training.data.sheets import (
    beside_reference,
    contact_sheet,
    count_blinks,
    loudness_db,
    map_sheet,
    mouth_opening,
    plot_curves,
    warp_error,
)

SHEET_CLIPS = 12
PLOT_CLIPS = 3


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures of a data set. opening: gap between the lips over the face's height, mean by state.

    opening_sound_correlation: between the mouth's opening and the loudness (dB) of the own voice in speaking frames,
    mean over clips. warp_error: mean difference in grey levels, at places known from the reference, between a frame and
    the reference pulled through the true flow; copy_error: and the reference as it is. A flow that is wrong shows here.
    """

    clips: int
    frames: int
    seconds: float
    size: int
    seconds_by_state: dict[str, float]
    blinks_per_minute: float
    opening_by_state: dict[str, float]
    opening_sound_correlation: float
    head_range_deg: dict[str, float]
    subjects: int
    clips_by_kind: dict[str, int]
    clips_by_reference: dict[str, int]
    voices: dict[str, int]
    warp_error: float
    copy_error: float
    known_share: float
    mouth_share: float
    files: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def inspect(shards: Sequence[Path], out_dir: Path, *, films: int = 2) -> Statistics:
    """Write sheet.png, curves.png, maps.png and film-*.mp4 to out_dir and return the figures.

    Raises ShardDamagedError on a damaged shard, DataSettingsError when there are no clips.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    shown: list[Clip] = []
    figures = _Figures()
    step = max(1, len(shards) // SHEET_CLIPS)
    for number, shard in enumerate(shards):
        for place, clip in enumerate(iterate_shards([shard])):
            figures.add(clip)
            if len(shown) < SHEET_CLIPS and (len(shards) < SHEET_CLIPS or (place == 0 and number % step == 0)):
                shown.append(clip)
    if not shown:
        raise DataSettingsError("the shards hold no clips; make some with `visavis data make`")
    files = [
        _write_png(out_dir / "sheet.png", contact_sheet(shown)),
        _write_png(out_dir / "maps.png", map_sheet(shown)),
    ]
    files.append(plot_curves(shown[:PLOT_CLIPS], out_dir / "curves.png"))
    for i, clip in enumerate(shown[:films]):
        path = out_dir / f"film-{i}.mp4"
        write_preview(path, beside_reference(clip), clip.voice, clip.partner)
        files.append(path)
    return figures.statistics([str(path) for path in files])


def _write_png(path: Path, picture: Bytes) -> Path:
    path.write_bytes(encode_png(picture))
    return path


class _Figures:
    """Sums over clips."""

    def __init__(self) -> None:
        self._frames = self._blinks = self._clips = 0
        self._size = 0
        self._state_frames: dict[str, int] = defaultdict(int)
        self._openings: dict[str, float] = defaultdict(float)
        self._counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._correlations: list[float] = []
        self._head: list[NDArray[np.floating]] = []
        self._shares: list[tuple[float, float]] = []
        self._warps: list[tuple[float, float]] = []

    def add(self, clip: Clip) -> None:
        truth, opening = clip.truth, mouth_opening(clip.truth.landmarks)
        self._clips += 1
        self._frames += len(clip)
        self._size = clip.reference.shape[0]
        self._blinks += count_blinks(truth.units)
        for state in AvatarState:
            there = truth.state == state
            self._state_frames[state.name.lower()] += int(there.sum())
            self._openings[state.name.lower()] += float(opening[there].sum())
        performance = clip.meta.get("performance")
        voice = performance.get("voice", "") if isinstance(performance, dict) else ""
        for name, value in (("voices", voice), ("subjects", clip.meta.get("subject"))):
            self._counts[name][str(value)] += 1
        for name in ("kind", "reference"):
            self._counts[name][str(clip.meta.get(name))] += 1
        self._correlate(opening, loudness_db(clip.voice), truth.state == AvatarState.SPEAKING)
        self._head.append(np.percentile(truth.head, (2, 98), axis=0))
        self._warps.append(warp_error(clip))
        self._shares.append((float(truth.known.mean()) / 255, float(truth.mouth.mean()) / 255))

    def _correlate(self, opening: Floats, sound_db: Floats, speaking: NDArray[np.bool_]) -> None:
        if speaking.sum() > FPS and opening[speaking].std() > 0 and sound_db[speaking].std() > 0:
            self._correlations.append(float(np.corrcoef(opening[speaking], sound_db[speaking])[0, 1]))

    def statistics(self, files: list[str]) -> Statistics:
        head = np.stack(self._head)
        known, mouth = np.mean(self._shares, 0)
        warped, copied = np.mean(self._warps, 0)
        frames = self._state_frames
        return Statistics(
            clips=self._clips,
            frames=self._frames,
            seconds=self._frames / FPS,
            size=self._size,
            seconds_by_state={name: count / FPS for name, count in frames.items()},
            blinks_per_minute=round(self._blinks / (self._frames / FPS / 60), 2),
            opening_by_state={name: round(self._openings[name] / n, 4) for name, n in frames.items() if n},
            opening_sound_correlation=round(float(np.mean(self._correlations)), 3) if self._correlations else 0.0,
            head_range_deg={
                axis: round(float((head[:, 1, i] - head[:, 0, i]).mean()), 2)
                for i, axis in enumerate(("yaw", "pitch", "roll"))
            },
            subjects=len(self._counts["subjects"]),
            clips_by_kind=dict(self._counts["kind"]),
            clips_by_reference=dict(self._counts["reference"]),
            voices=dict(self._counts["voices"]),
            warp_error=round(float(warped), 2),
            copy_error=round(float(copied), 2),
            known_share=round(float(known), 4),
            mouth_share=round(float(mouth), 4),
            files=files,
        )
