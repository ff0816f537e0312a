"""Portraits: the library of a folder, and those that clients bring. Pictures are read in one thread of their own."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2

from apps.server.errors import UnknownPortraitError, UploadMismatchError
from apps.server.limits import UPLOAD_LIMITS
from apps.server.protocol import CHUNK_BYTES, LAST_PART, Media
from engine.backends.staged import ALIGNER
from engine.bundle import find_bundle
from engine.engine import AvatarEngine, load
from engine.errors import FileMissingError
from engine.pipeline.opening import MOCK
from engine.portrait.loading import load_image
from engine.worker.base import Face

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
THUMBNAIL_PX = 256
_THUMBNAIL_QUALITY = 85
_KEPT_FACES = 8
"""Faces of the library that are kept ready: some 3 MB each at 512 pixels."""

T = TypeVar("T")


def engine_for_faces(model: str, backend: str) -> AvatarEngine:
    """What reads portraits as the model's worker wants them, in as little memory as can be: only a model that brings a
    face-point network has to be opened for it. Raises BundleError or BackendError.
    """
    if backend == MOCK or not any(name.startswith(ALIGNER) for name in find_bundle(model).files):
        return load(backend=MOCK)
    return load(model, backend, threads=1)


class PortraitDesk:
    """Turns names and files into faces. The model's own face-point network is used, if it has one."""

    def __init__(self, folder: Path, engine: Callable[[], AvatarEngine]) -> None:
        """engine: see engine_for_faces; called once, in the desk's thread. Raises FileMissingError."""
        files = sorted(path for path in folder.glob("*") if path.suffix.lower() in ENDINGS) if folder.is_dir() else []
        if not files:
            raise FileMissingError(f"{folder} holds no portraits; give a folder of {', '.join(ENDINGS)} files")
        self._files = {path.stem: path for path in files}
        self._open_engine = engine
        self._engine: AvatarEngine | None = None
        self._faces: OrderedDict[tuple[str, int, bool], Face] = OrderedDict()
        self._thumbnails: dict[str, bytes] = {}
        # One thread: the face finder is not made for several, and nobody's picture may take all cores.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="visavis-portrait")

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def choose(self, name: str | None) -> str:
        """A name of the library, the first for None. Raises UnknownPortraitError."""
        if name is None:
            return self.names[0]
        if name not in self._files:
            raise UnknownPortraitError("there is no portrait of that name; GET /v1/info lists them")
        return name

    async def face(self, name: str, side_px: int, seed: int = 0, alpha: bool = False) -> Face:
        """Of the library; alpha: without the background. Raises PortraitError or UnknownPortraitError."""
        key = (name, side_px, alpha)
        face = self._faces.get(key)
        if face is None:
            path = self._files[self.choose(name)]
            face = await self._do(lambda: self._open().face(str(path), side_px, alpha=alpha))
            self._keep(key, face)
        return Face(face.reference, face.picture, seed)

    async def uploaded_face(self, data: bytes, side_px: int, seed: int = 0, alpha: bool = False) -> Face:
        """Of a client's picture. Raises PortraitError."""

        def look() -> Face:
            engine = self._open()
            pixels = load_image(data, UPLOAD_LIMITS)
            return engine.face(pixels, side_px, seed, alpha)

        return await self._do(look)

    async def thumbnail(self, name: str) -> bytes:
        """A JPEG of the face. Raises PortraitError or UnknownPortraitError."""
        path = self._files[self.choose(name)]
        if name not in self._thumbnails:
            self._thumbnails[name] = await self._do(lambda: _thumbnail(self._open(), path))
        return self._thumbnails[name]

    async def aclose(self) -> None:
        if self._engine is not None:
            await self._do(self._engine.close)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _open(self) -> AvatarEngine:
        if self._engine is None:
            self._engine = self._open_engine()
        return self._engine

    def _keep(self, key: tuple[str, int, bool], face: Face) -> None:
        self._faces[key] = face
        if len(self._faces) > _KEPT_FACES:
            self._faces.popitem(last=False)

    async def _do(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


class Upload:
    """The parts of one file, in order. Nothing is kept beyond what was announced."""

    def __init__(self, size_bytes: int) -> None:
        self._size, self._data = size_bytes, bytearray()
        self.whole = False

    @property
    def data(self) -> bytes:
        return bytes(self._data)

    def add(self, part: Media) -> None:
        """Raises UploadMismatchError."""
        after = len(self._data) + len(part.payload)
        if part.value != len(self._data) or len(part.payload) > CHUNK_BYTES or after > self._size:
            raise UploadMismatchError(
                f"parts come in order, of at most {CHUNK_BYTES} bytes, {self._size} in all; this one is of "
                f"{len(part.payload)} at {part.value}, and {len(self._data)} had come"
            )
        self._data += part.payload
        self.whole = bool(part.flags & LAST_PART)
        if self.whole and after != self._size:
            raise UploadMismatchError(f"{self._size} bytes were announced, and {after} came")


def _thumbnail(engine: AvatarEngine, path: Path) -> bytes:
    pixels = engine.open_portrait(str(path)).crop(THUMBNAIL_PX)
    settings = [cv2.IMWRITE_JPEG_QUALITY, _THUMBNAIL_QUALITY]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), settings)
    assert done
    return data.tobytes()
