"""The codec's section: how well true frames survive it, by kind of person, at the size they will be watched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from training.data.clips import Clip
from training.data.make import make_clips
from training.data.media import Bytes
from training.data.shards import iterate_shards, list_shards
from training.evaluate import metrics
from training.evaluate.measure import strip
from training.evaluate.sources import Source

SIZE_PX = 256
_SECONDS, _SEED = 2.0, 71
_EVERY = 3
"""Neighbouring frames are alike; every third one is enough for PSNR."""


@dataclass(frozen=True, slots=True)
class CodecFigures:
    """PSNR in dB over all frames of one kind of person, and of showing the reference instead (`copy`)."""

    kind: str
    people: int
    frames: int
    size_px: int
    psnr: float
    psnr_mouth: float
    ssim: float
    psnr_copy: float
    psnr_copy_mouth: float
    psnr_worst_person: float

    def as_json(self) -> dict[str, object]:
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Person:
    """One clip's figures and pictures: true above decoded, uint8 [10, 128, 128, 3] each."""

    kind: str
    name: str
    frames: int
    size_px: int
    values: tuple[float, float, float, float, float]
    true_strip: Bytes
    strip: Bytes


def codec_clips(folder: Path, assets: Path | None, people: int, cache: Path | None = None) -> list[Path]:
    """Shards of held-out people at 256 px under `folder`, made once: heads, and photographs when there are assets.

    Two clips to a person. Raises what make_clips raises, SubjectsFailedError where nothing can be rendered.
    """
    kinds = ("head", "puppet") if assets else ("head",)
    for kind in kinds:
        make_clips(
            folder / kind, 2 * people, _SECONDS, SIZE_PX, _SEED, "test", assets, mix={kind: 1.0}, cache=cache
        )  # fmt: skip
    return [shard for kind in kinds for shard in list_shards(folder / kind)]


def measure_people(codec: Source, clips: Iterable[Clip]) -> list[Person]:
    """Every clip through the codec."""
    return [measure_person(clip, codec.frames(clip)) for clip in clips]


def people_of(shards: Sequence[Path]) -> Iterable[Clip]:
    """The first clip of every subject."""
    seen: set[str] = set()
    for clip in iterate_shards(shards):
        name = f"{clip.meta.get('kind')}-{clip.meta.get('subject')}"
        if name not in seen:
            seen.add(name)
            yield clip


def measure_person(clip: Clip, decoded: Bytes) -> Person:
    """decoded: all of the clip's frames as the codec shows them, uint8 [F, S, S, 3]."""
    truth, decoded = clip.frames[::_EVERY], decoded[::_EVERY]
    mouth = metrics.mouth_weight(clip.truth.landmarks[::_EVERY], truth.shape[1])
    copied = np.broadcast_to(clip.reference, truth.shape)
    values = (
        metrics.psnr(decoded, truth),
        metrics.psnr(decoded, truth, mouth),
        float(np.mean([metrics.ssim(a, b) for a, b in zip(decoded, truth, strict=True)])),
        metrics.psnr(copied, truth),
        metrics.psnr(copied, truth, mouth),
    )
    kind, name = str(clip.meta.get("kind", "person")), str(clip.meta.get("subject", clip.key))
    return Person(kind, name, len(truth), truth.shape[1], values, strip(truth), strip(decoded))


def summarise_people(people: Sequence[Person]) -> list[CodecFigures]:
    """One record for each kind, means over people."""
    kinds = sorted({p.kind for p in people})
    return [_summarise([p for p in people if p.kind == kind]) for kind in kinds]


def _summarise(people: Sequence[Person]) -> CodecFigures:
    psnr, psnr_mouth, ssim, copy, copy_mouth = np.mean([p.values for p in people], 0).tolist()
    return CodecFigures(
        kind=people[0].kind,
        people=len({p.name for p in people}),
        frames=sum(p.frames for p in people),
        size_px=people[0].size_px,
        psnr=psnr,
        psnr_mouth=psnr_mouth,
        ssim=ssim,
        psnr_copy=copy,
        psnr_copy_mouth=copy_mouth,
        psnr_worst_person=min(p.values[0] for p in people),
    )
