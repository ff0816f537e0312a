"""Clips in WebDataset tar shards: plain tar files whose members share the clip's key up to the first dot.

    KEY.mp4            H.264 yuv444p, 25 fps, near lossless
    KEY.reference.png  the reference picture
    KEY.voice.flac     own voice, 16 kHz mono 16 bit
    KEY.partner.flac   the other party's voice
    KEY.truth.npz      the arrays of training.data.clips.ClipTruth, by field name
    KEY.json           the clip's meta

Equal clips give equal bytes: times, owners and modes are fixed. Nothing is pickled.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from zipfile import BadZipFile

import av
import cv2
import numpy as np

from engine.errors import ShardDamagedError
from training.data.clips import TRUTH_FIELDS, Clip, ClipTruth
from training.data.media import Bytes, decode_flac, decode_video, encode_flac, encode_video

PARTS: tuple[str, ...] = ("mp4", "reference.png", "voice.flac", "partner.flac", "truth.npz", "json")


class ShardWriter:
    """One shard, written under a temporary name and renamed when the `with` block ends without an exception.

    A reader therefore never sees half a shard under its final name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

    def __enter__(self) -> ShardWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._tar = tarfile.open(self._partial, "w", format=tarfile.USTAR_FORMAT)
        return self

    def add(self, clip: Clip) -> None:
        """Append one clip. Raises ValueError on a key that the convention cannot carry."""
        if not clip.key or set(clip.key) & set("./\\"):
            raise ValueError(f"clip key {clip.key!r} must not be empty nor hold a dot or a slash")
        for part, data in zip(PARTS, _encode(clip), strict=True):
            info = tarfile.TarInfo(f"{clip.key}.{part}")
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()
        if kind is None:
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink(missing_ok=True)


def iterate_shards(paths: Iterable[Path]) -> Iterator[Clip]:
    """Every clip of the shards, in order. Raises ShardDamagedError, naming the file, on anything unreadable."""
    for path in paths:
        for key, parts in _members(path):
            yield _decode(path, key, parts)


def shard_keys(path: Path) -> tuple[str, ...]:
    """Keys of a shard's clips, without decoding them. Raises ShardDamagedError."""
    try:
        with tarfile.open(path, "r:") as tar:
            names = tar.getnames()
    except (tarfile.TarError, OSError) as error:
        raise _damaged(path, str(error)) from error
    return tuple(dict.fromkeys(name.split(".", 1)[0] for name in names))


def list_shards(folder: Path) -> list[Path]:
    """The shards of a folder (or the one shard that the path names), sorted."""
    return [folder] if folder.is_file() else sorted(folder.glob("*.tar"))


def _encode(clip: Clip) -> tuple[bytes, ...]:
    arrays = io.BytesIO()
    np.savez_compressed(arrays, allow_pickle=False, **{name: getattr(clip.truth, name) for name in TRUTH_FIELDS})
    return (
        encode_video(clip.frames),
        encode_png(clip.reference),
        encode_flac(clip.voice),
        encode_flac(clip.partner),
        arrays.getvalue(),
        json.dumps(clip.meta, sort_keys=True, ensure_ascii=False).encode(),
    )


def encode_png(picture: Bytes) -> bytes:
    """PNG of uint8 [H, W, 3] RGB."""
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError("the picture could not be encoded as PNG")
    return data.tobytes()


def _decode_png(data: bytes) -> Bytes:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("the reference is no PNG")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8)


def _members(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, parts) of a shard; members of one clip lie next to each other."""
    key, parts = "", dict[str, bytes]()
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                name, _, part = info.name.partition(".")
                if name != key and parts:
                    yield key, parts
                    parts = {}
                key = name
                member = tar.extractfile(info)
                parts[part] = member.read() if member else b""
    except (tarfile.TarError, OSError) as error:
        raise _damaged(path, str(error)) from error
    if parts:
        yield key, parts


def _decode(path: Path, key: str, parts: dict[str, bytes]) -> Clip:
    missing = [part for part in PARTS if part not in parts]
    if missing:
        raise _damaged(path, f"clip {key} lacks {', '.join(missing)}")
    try:
        with np.load(io.BytesIO(parts["truth.npz"]), allow_pickle=False) as arrays:
            truth = ClipTruth(**{name: arrays[name] for name in TRUTH_FIELDS})
        clip = Clip(
            key=key,
            frames=decode_video(parts["mp4"]),
            reference=_decode_png(parts["reference.png"]),
            truth=truth,
            voice=decode_flac(parts["voice.flac"]),
            partner=decode_flac(parts["partner.flac"]),
            meta=json.loads(parts["json"]),
        )
    except (av.error.FFmpegError, BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        raise _damaged(path, f"clip {key}: {error}") from error
    if len(clip.frames) != len(truth.units):
        raise _damaged(path, f"clip {key} has {len(clip.frames)} pictures for {len(truth.units)} frames of truth")
    return clip


def _damaged(path: Path, reason: str) -> ShardDamagedError:
    return ShardDamagedError(f"shard {path} is damaged ({reason}); delete it and run `visavis data make` again")
