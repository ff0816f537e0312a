"""Make a cast: `visavis data cast`."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine.errors import AvatarError, DataSettingsError
from training.data.cast.archive import loosen, pack_folder
from training.data.cast.cast import (
    ANNY,
    FITS,
    HEADS,
    ICT,
    PEOPLE,
    PERFORMANCES,
    PORTRAITS,
    SPLITS,
    VERSION,
    CastIndex,
    digest,
)
from training.data.cast.photos import PhotoSettings, bake_photo
from training.data.cast.played import Played, pack
from training.data.cast.sources import bake_base, bake_wardrobe
from training.data.people import FACES, Sources, default_sources
from training.data.truth import Performance

TEST_SHARE = 0.1
_EXPECTED = ("ict_small.npz", "mp2ict.npz")


@dataclass(frozen=True, slots=True)
class CastSettings:
    """people: photographs of the train split, at most. voices_minutes: performances of the train split; the test split
    has a tenth as many. seconds: length of one performance. head_share: of the people drawn later, in [0, 1]."""

    people: int = 80
    voices_minutes: float = 24.0
    seconds: float = 8.0
    head_share: float = 0.3
    seed: int = 0
    photos: PhotoSettings = PhotoSettings()

    def check(self) -> None:
        if self.people < 0 or self.voices_minutes <= 0 or self.seconds < 1 or not 0 <= self.head_share <= 1:
            raise DataSettingsError(
                "people, voices-minutes and seconds (1 or more) must be positive, head-share a share"
            )


@dataclass(frozen=True, slots=True)
class CastReport:
    """What a call of bake_cast made; sizes in bytes."""

    out: str
    photos: dict[str, int]
    skipped: tuple[str, ...]
    minutes: dict[str, float]
    people_bytes: int
    performance_bytes: int
    seconds_wall: float

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def bake_cast(
    out: Path,
    settings: CastSettings,
    assets: Path | None = None,
    cache: Path | None = None,
    workers: int = 1,
    *,
    sources: Sources | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> CastReport:
    """Make a cast in the folder `out`, replacing one that is there.

    assets: folder with portraits/, ict/ and heads/; without it heads are procedural and there are no photographs.
    cache: folder of fitted photographs (`faces`) and kept voices (`voices`). say: called with what is done next.
    Raises DataSettingsError, AssetsMissing, ExtraMissingError.
    """
    settings.check()
    chosen, started_s = sources or default_sources(), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as work:
        folder = Path(work) / "people"
        photos, skipped = _bake_people(folder, settings, assets, cache or Path(work) / "cache", chosen, say)
        say("packing")
        pack_folder(folder, out / PEOPLE)
        minutes = _bake_performances(out, settings, cache or Path(work) / "cache", workers, chosen, say)
    digests = {name: digest(out / name) for name in (PEOPLE, PERFORMANCES)}
    share = settings.head_share if any(photos.values()) else 1.0
    CastIndex(VERSION, photos, share, digests).write(out)
    return CastReport(
        out=str(out),
        photos={split: len(names) for split, names in photos.items()},
        skipped=skipped,
        minutes=minutes,
        people_bytes=(out / PEOPLE).stat().st_size,
        performance_bytes=(out / PERFORMANCES).stat().st_size,
        seconds_wall=round(time.monotonic() - started_s, 1),
    )


def _bake_people(
    folder: Path,
    settings: CastSettings,
    assets: Path | None,
    cache: Path,
    sources: Sources,
    say: Callable[[str], None],
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    say("heads")
    wardrobe = assets / "heads" if assets and (assets / "heads").is_dir() else None
    bake_base(folder / ANNY, wardrobe)
    if wardrobe:
        bake_wardrobe(wardrobe, folder / HEADS)
    photos: dict[str, tuple[str, ...]] = {split: () for split in SPLITS}
    skipped: list[str] = []
    if assets and settings.people:
        for name in _EXPECTED:
            loosen(assets / "ict" / name, folder / ICT / name)
        for split in SPLITS:
            paths = sources.portraits(assets, split, cache)[: settings.people]
            say(f"{len(paths)} photographs ({split})")
            photos[split], failed = _bake_photos(paths, folder, assets, cache, settings.photos)
            skipped += failed
    return photos, tuple(skipped)


def _bake_photos(
    paths: Sequence[Path], folder: Path, assets: Path, cache: Path, how: PhotoSettings
) -> tuple[tuple[str, ...], list[str]]:
    """Names of the kept pictures, and of those in which nobody could be found."""
    kept, failed = [], []
    for path in paths:
        try:
            kept.append(bake_photo(path, folder / PORTRAITS, folder / FITS / FACES, assets, cache / FACES, how).name)
        except AvatarError:
            failed.append(path.name)
    return tuple(kept), failed


def _bake_performances(
    out: Path, settings: CastSettings, cache: Path, workers: int, sources: Sources, say: Callable[[str], None]
) -> dict[str, float]:
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    minutes: dict[str, float] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, workers), context) as pool:
        for split in SPLITS:
            wanted = settings.voices_minutes * (1.0 if split == "train" else TEST_SHARE)
            count = max(2, round(wanted * 60 / settings.seconds))
            say(f"{count} performances ({split})")
            jobs = [(sources, settings.seed + i, settings.seconds, split, cache) for i in range(count)]
            played = Played.of(list(pool.map(_perform, jobs, chunksize=4)))
            arrays |= {f"{split}.{name}": np.ascontiguousarray(a) for name, a in pack(played).items()}
            minutes[split] = round(played.frames / 25 / 60, 2)
    partial = out / f"{PERFORMANCES}.part"
    save_file(arrays, partial)
    partial.replace(out / PERFORMANCES)
    return minutes


def _perform(job: tuple[Sources, int, float, str, Path]) -> Performance:
    sources, seed, seconds, split, cache = job
    return sources.perform(seed, seconds, split, cache)
