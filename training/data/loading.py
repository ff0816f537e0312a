"""Clips for training loops: shards unpacked once into growing memory-mapped arrays, then read by plain indexing.

`CodecPairs` holds the frames that have dense truth, `ClipSequences` every frame and the sound. Given the same cache
folder again with more shards, only the new ones are decoded. Pages live in the system's file cache, so a set larger
than the memory still works, only slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataSettingsError
from engine.portrait.landmarks import LANDMARKS
from engine.types import EXPRESSIONS, SAMPLES_PER_FRAME
from training.data.clips import Clip, identity_grid
from training.data.media import Bytes, Floats, to_int16
from training.data.shards import iterate_shards
from training.data.store import Array, GrowingArrays, Spec
from training.data.truth import ARKIT_UNITS, TRUTH_GRID

Batch = dict[str, Array]

_POINTS = (len(LANDMARKS), 2)
_MAP = (TRUTH_GRID, TRUTH_GRID)
_PER_FRAME: dict[str, Spec] = {
    "landmarks": ("frames", _POINTS, np.float32),
    "units": ("frames", (len(ARKIT_UNITS),), np.float32),
    "head": ("frames", (3,), np.float32),
    "gaze": ("frames", (2,), np.float32),
    "state": ("frames", (), np.int8),
}
_PER_CLIP: dict[str, Spec] = {
    "reference_landmarks": ("clips", _POINTS, np.float32),
    "reference_units": ("clips", (len(ARKIT_UNITS),), np.float32),
    "reference_head": ("clips", (3,), np.float32),
    "reference_gaze": ("clips", (2,), np.float32),
    "is_puppet": ("clips", (), np.bool_),
}
_MAPS: dict[str, Spec] = {
    "displacement": ("frames", (*_MAP, 2), np.float16),
    "known": ("frames", _MAP, np.uint8),
    "mouth": ("frames", _MAP, np.uint8),
}
_MOVES: dict[str, Spec] = {
    "tongue": ("frames", (), np.float32),
    "expression": ("frames", (len(EXPRESSIONS),), np.float32),
    "voice": ("frames", (SAMPLES_PER_FRAME,), np.int16),
    "partner": ("frames", (SAMPLES_PER_FRAME,), np.int16),
}


class CodecPairs:
    """Pairs (reference, frame) with dense truth: the N frames of all clips that have maps.

    shards: tar files; cache: folder of the arrays; threads: decoders at work while the cache is filled.
    Raises ShardDamagedError, and DataSettingsError when pictures differ in size from those in the cache.
    """

    def __init__(self, shards: Sequence[Path], cache: Path, *, threads: int = 2) -> None:
        size = _picture_size(shards)
        specs = _PER_FRAME | _PER_CLIP | _MAPS | _pictures(size) | {"clip": ("frames", (), np.int32)}
        store = GrowingArrays(cache, specs)
        _fill(store, shards, threads, _map_frames)
        self._arrays = {name: store.open(name) for name in specs}
        self._grid = identity_grid()

    def __len__(self) -> int:
        return len(self._arrays["image"])

    @property
    def clips(self) -> int:
        return len(self._arrays["reference"])

    def array(self, name: str) -> Array:
        """A whole array (memory map), e.g. `units` [N, 52] or `clip` [N], for choosing rows."""
        return self._arrays[name]

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        """`rows` of random frames."""
        return self.rows(rng.integers(len(self), size=size))

    def rows(self, rows: NDArray[np.integer]) -> Batch:
        """The B frames named: image, reference uint8 [B, S, S, 3]; flow [B, 64, 64, 2] (absolute, see Drawn), known,
        mouth [B, 64, 64] in [0, 1], landmarks, reference_landmarks [B, 28, 2], units [B, 52], head [B, 3],
        gaze [B, 2] and the same of the reference: float32; state int8 [B]; clip int32 [B]; is_puppet bool [B];
        has_flow bool [B], whether anything of the flow is known (in clips of real films nothing is).
        """
        arrays, rows = self._arrays, np.asarray(rows)
        clips = np.asarray(arrays["clip"][rows])
        batch: Batch = {name: np.asarray(arrays[name][rows]) for name in ("image", *_PER_FRAME)}
        batch |= {name: np.asarray(arrays[name][clips]) for name in ("reference", *_PER_CLIP)}
        batch |= {name: arrays[name][rows].astype(np.float32) / 255.0 for name in ("known", "mouth")}
        batch["has_flow"] = batch["known"].any((1, 2))
        batch["flow"] = arrays["displacement"][rows].astype(np.float32) + self._grid
        batch["clip"] = clips
        return batch


class ClipSequences:
    """Every frame of all clips, in time order, with sound and labels: what a denoiser learns from.

    Arguments and errors as for CodecPairs.
    """

    def __init__(self, shards: Sequence[Path], cache: Path, *, threads: int = 2) -> None:
        size = _picture_size(shards)
        lengths: dict[str, Spec] = {"length": ("clips", (), np.int32)}
        specs = _PER_FRAME | _PER_CLIP | _MOVES | _pictures(size) | lengths
        store = GrowingArrays(cache, specs)
        _fill(store, shards, threads, _all_frames)
        self._arrays = {name: store.open(name) for name in specs}
        self.lengths: NDArray[np.int32] = np.array(self._arrays["length"], np.int32)
        self.starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(self.lengths)])[:-1].astype(np.int64)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.lengths)

    @property
    def frames(self) -> Bytes:
        """uint8 [N, S, S, 3]: the pictures of all clips, one after the other (memory map)."""
        return self._arrays["image"]

    @property
    def references(self) -> Bytes:
        """uint8 [clips, S, S, 3] (memory map)."""
        return self._arrays["reference"]

    def array(self, name: str) -> Array:
        """A whole array (memory map): per frame as `units` [N, 52], `voice` int16 [N, 640], or per clip."""
        return self._arrays[name]

    def clip(self, index: int, first: int = 0, frames: int | None = None) -> Batch:
        """A stretch of one clip, all F frames by default: image [F, S, S, 3], reference [S, S, 3], voice and partner
        float32 [F * 640], and units, head, gaze, tongue, state, expression, landmarks [F, ...], reference_*.
        """
        start, length = int(self.starts[index]), int(self.lengths[index])
        stop = length if frames is None else min(first + frames, length)
        part = slice(start + first, start + stop)
        stretch: Batch = {name: np.asarray(self._arrays[name][part]) for name in ("image", *_PER_FRAME, *_MOVES)}
        stretch |= {name: np.asarray(self._arrays[name][index]) for name in ("reference", *_PER_CLIP)}
        return stretch | {name: _to_float(self._arrays[name][part]) for name in ("voice", "partner")}

    def __iter__(self) -> Iterator[Batch]:
        return (self.clip(i) for i in range(len(self)))


def _to_float(samples: Array) -> Floats:
    return samples.reshape(-1).astype(np.float32) / 32767.0


def _pictures(size: int) -> dict[str, Spec]:
    return {"image": ("frames", (size, size, 3), np.uint8), "reference": ("clips", (size, size, 3), np.uint8)}


def _picture_size(shards: Sequence[Path]) -> int:
    clip = next(iterate_shards(shards), None)
    if clip is None:
        raise DataSettingsError("there are no clips; make some with `visavis data make`")
    return clip.reference.shape[0]


def _source(path: Path) -> str:
    return f"{path.resolve().parent.name}/{path.name}"


def _new_shards(store: GrowingArrays, shards: Sequence[Path]) -> list[Path]:
    new = []
    for path in shards:
        known_bytes = store.sources.get(_source(path))
        if known_bytes is None:
            new.append(path)
        elif known_bytes != path.stat().st_size:
            raise DataSettingsError(f"{path} has changed since it was cached; delete the cache folder and start again")
    return new


def _fill(store: GrowingArrays, shards: Sequence[Path], threads: int, unpack: Callable[[list[Clip]], Batch]) -> None:
    """Append the shards that the store has not seen. Decoders run in threads, since PyAV and zlib release the lock;
    a few shards at a time, so that decoded pictures never fill the memory."""
    new, threads = _new_shards(store, shards), max(1, threads)
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(new), threads):
            group = new[first : first + threads]
            for path, arrays in zip(group, pool.map(lambda p: unpack(list(iterate_shards([p]))), group), strict=True):
                if "clip" in arrays:
                    arrays["clip"] = arrays["clip"] + store.rows["clips"]
                store.append(arrays)
                store.save(_source(path), path.stat().st_size)


def _per_clip(clips: list[Clip]) -> Batch:
    arrays: Batch = {
        name: np.stack([getattr(c.truth, name) for c in clips]) for name in _PER_CLIP if name != "is_puppet"
    }
    arrays["is_puppet"] = np.array([c.meta.get("kind") == "puppet" for c in clips])
    arrays["reference"] = np.stack([c.reference for c in clips])
    return arrays


def _map_frames(clips: list[Clip]) -> Batch:
    _check_sizes(clips)
    arrays = _per_clip(clips)
    arrays["image"] = np.concatenate([c.frames[c.truth.map_frames] for c in clips])
    for name in _PER_FRAME:
        arrays[name] = np.concatenate([getattr(c.truth, name)[c.truth.map_frames] for c in clips])
    for name in _MAPS:
        arrays[name] = np.concatenate([getattr(c.truth, name) for c in clips])
    arrays["clip"] = np.repeat(np.arange(len(clips)), [len(c.truth.map_frames) for c in clips])
    return arrays


def _all_frames(clips: list[Clip]) -> Batch:
    _check_sizes(clips)
    arrays = _per_clip(clips)
    arrays["length"] = np.array([len(c) for c in clips])
    arrays["image"] = np.concatenate([c.frames for c in clips])
    for name in (*_PER_FRAME, "tongue", "expression"):
        arrays[name] = np.concatenate([getattr(c.truth, name) for c in clips])
    for name in ("voice", "partner"):
        arrays[name] = to_int16(np.concatenate([getattr(c, name) for c in clips]))
    return arrays


def _check_sizes(clips: list[Clip]) -> None:
    sizes = {c.frames.shape[1:] for c in clips} | {c.reference.shape for c in clips}
    if len(sizes) != 1:
        raise DataSettingsError(f"clips of one shard have pictures of different sizes: {sorted(sizes)}")
