"""One film to shards: look at every picture, decide, decode again and cut out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from engine.types import FPS, SAMPLES_PER_FRAME, AvatarState
from training.data.clips import Clip
from training.data.media import Bytes
from training.data.shards import ShardWriter
from training.data.videos.config import VideoConfig
from training.data.videos.errors import VideoUnusable
from training.data.videos.faces import Finder
from training.data.videos.framing import cut_out
from training.data.videos.gates import Rejected, bridged
from training.data.videos.labels import Take, truth_of
from training.data.videos.people import Film
from training.data.videos.reading import pictures, sound, start_of
from training.data.videos.select import Selection, select
from training.data.videos.states import split_voices
from training.data.videos.voice import Listener
from training.data.videos.watch import Seen, watch

KIND = "video"
"""Value of `kind` in the meta of clips from films."""


@dataclass(frozen=True, slots=True)
class FilmReport:
    """What became of one film; JSON. shards: name to bytes. rejected: {first_s, stop_s, reason} each. error: why it
    could not be read, if so. seconds_by_state: of the clips kept, sure: mean certainty of their states."""

    film: str
    key: str
    person: str
    split: str
    source: list[int]
    seconds_in: float = 0.0
    seconds_kept: float = 0.0
    clips: int = 0
    shots: int = 0
    shards: dict[str, int] = field(default_factory=dict)
    rejected: list[dict[str, object]] = field(default_factory=list)
    seconds_by_state: dict[str, float] = field(default_factory=dict)
    sure: float = 0.0
    sync: dict[str, object] = field(default_factory=dict)
    seconds_wall: float = 0.0
    error: str = ""


def fingerprint(path: Path) -> list[int]:
    """Bytes and time of change: whether a film is still the one that was read."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def make_film(film: Film, out: Path, config: VideoConfig, find: Finder, listen: Listener) -> FilmReport:
    """Write the film's shards to out/<split>. Raises VideoUnusable."""
    started_s = time.monotonic()
    source = fingerprint(film.path)
    seen = bridged(watch(pictures(film.path), find), config.gates.dropout_frames)
    chosen = select(seen, sound(film.path, start_of(film.path)), listen, config)
    folder = out / film.split
    for stale in folder.glob(f"{film.key}-*.tar"):
        stale.unlink()
    shards, clips = {}, _clips(film, seen, chosen, config)
    while group := list(islice(clips, config.clips_per_shard)):
        path = folder / f"{film.key}-{len(shards):04d}.tar"
        with ShardWriter(path) as writer:
            for clip in group:
                writer.add(clip)
        shards[path.name] = path.stat().st_size
    return FilmReport(
        film=film.name,
        key=film.key,
        person=film.person,
        split=film.split,
        source=source,
        seconds_in=len(seen) / FPS,
        seconds_kept=len(chosen.takes) * config.frames / FPS,
        clips=len(chosen.takes),
        shots=chosen.shots,
        shards=shards,
        rejected=[_as_json(r) for r in sorted(chosen.rejected, key=lambda r: r.first)],
        seconds_by_state=_state_seconds(chosen.takes),
        sure=round(float(np.mean(chosen.sure)), 3) if chosen.sure else 0.0,
        sync=asdict(chosen.sync),
        seconds_wall=round(time.monotonic() - started_s, 2),
    )


def _clips(film: Film, seen: Seen, chosen: Selection, config: VideoConfig) -> Iterator[Clip]:
    """The clips in order, as soon as their pictures and their reference have been decoded."""
    waiting = {number: _Pictures(take, config.size) for number, take in enumerate(chosen.takes)}
    wanted: dict[int, list[int]] = {}
    for number, take in enumerate(chosen.takes):
        for index in {*range(*take.frames), take.reference}:
            wanted.setdefault(index, []).append(number)
    following = 0
    for picture in pictures(film.path) if wanted else ():
        for number in wanted.get(picture.index, ()):
            waiting[number].add(picture.index, picture.image)
        while following in waiting and waiting[following].complete:
            yield _clip(film, seen, chosen, following, waiting.pop(following), config)
            following += 1
    if waiting:
        raise VideoUnusable(f"{film.name} gave other pictures when it was read again; was it being written?")


class _Pictures:
    """The pictures of one clip, filled while the film is decoded."""

    def __init__(self, take: Take, size_px: int) -> None:
        self._take, self._size_px = take, size_px
        self._frames: Bytes | None = None
        self._left = take.frames[1] - take.frames[0]
        self.reference: Bytes | None = None

    @property
    def complete(self) -> bool:
        return not self._left and self.reference is not None

    @property
    def frames(self) -> Bytes:
        assert self._frames is not None
        return self._frames

    def add(self, index: int, image: Bytes) -> None:
        first, stop = self._take.frames
        if index == self._take.reference:
            self.reference = cut_out(image, self._take.reference_crop, self._size_px)
        if first <= index < stop:
            if self._frames is None:
                self._frames = np.empty((stop - first, self._size_px, self._size_px, 3), np.uint8)
            self._frames[index - first] = cut_out(image, self._take.crops[index - first], self._size_px)
            self._left -= 1


def _clip(film: Film, seen: Seen, chosen: Selection, number: int, shown: _Pictures, config: VideoConfig) -> Clip:
    take = chosen.takes[number]
    first, stop = take.frames
    assert shown.reference is not None
    voice, partner = split_voices(chosen.voice[first * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME], take.state)
    steady = len({(crop.left, crop.top, crop.side) for crop in take.crops}) == 1
    return Clip(
        key=f"{film.key}-{number:05d}",
        frames=shown.frames,
        reference=shown.reference,
        truth=truth_of(seen, take, config.truth_stride),
        voice=voice,
        partner=partner,
        meta={
            "subject": film.person,
            "kind": KIND,
            "reference": "chosen",
            "performance": {"voice": film.person},
            "phones": [],
            "split": film.split,
            "film": film.name,
            "first_s": first / FPS,
            "reference_s": take.reference / FPS,
            "crop_px": round(take.reference_crop.side, 1),
            "crop": "fixed" if steady else "following",
            "sync": asdict(chosen.sync),
            "state_sure": round(chosen.sure[number], 3),
        },
    )


def _as_json(rejected: Rejected) -> dict[str, object]:
    return {"first_s": rejected.first / FPS, "stop_s": rejected.stop / FPS, "reason": rejected.reason}


def _state_seconds(takes: list[Take]) -> dict[str, float]:
    states = np.concatenate([take.state for take in takes]) if takes else np.zeros(0, np.int8)
    return {state.name.lower(): int((states == state).sum()) / FPS for state in AvatarState}
