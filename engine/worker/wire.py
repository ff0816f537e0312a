"""Frames on the pipe between a worker and its process: a small JSON header, then the bytes of some arrays.

    offset  bytes
         0      4  "VVW1"
         4      4  length of the header, little endian, at most HEADER_BYTES
         8      4  length of the body, little endian, at most BODY_BYTES
        12      -  header: {"type": "step", ..., "arrays": [["windows", "<f4", [8, 32, 80]], ...]}
         -      -  body: the arrays in that order, C order, nothing between them

Sans I/O: bytes in, frames out. Whatever is wrong with the bytes is a WireError, and the stream cannot be used after it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from engine.errors import WorkerError

MAGIC = b"VVW1"
HEADER_BYTES = 1 << 14
BODY_BYTES = 1 << 26
"""A portrait of 1024 pixels takes 12.6 MB as float32, a group of such pictures repeated as much."""
MOST_ARRAYS = 16
MOST_AXES = 6

DTYPES = ("<f4", "<i8", "|u1")

_PREFIX = struct.Struct("<4sII")


class WireError(WorkerError):
    """The bytes on the pipe are not what this version of the worker writes."""

    code = "worker_wire"


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: its type, plain JSON fields, and arrays by name (writable when they were read)."""

    type: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def encode(frame: Frame) -> list[bytes | memoryview]:
    """The frame as buffers to be written one after the other; the arrays are not copied when they are contiguous.

    Raises WireError when it is over a limit.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in frame.arrays.items()}
    shapes = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    header = json.dumps({**frame.fields, "type": frame.type, "arrays": shapes}, separators=(",", ":")).encode()
    body_bytes = sum(array.nbytes for array in arrays.values())
    if len(header) > HEADER_BYTES or body_bytes > BODY_BYTES:
        raise WireError(f"a {frame.type} message is too large: {len(header)} + {body_bytes} bytes")
    views = [memoryview(array).cast("B") for array in arrays.values() if array.nbytes]  # type: ignore[arg-type]
    return [_PREFIX.pack(MAGIC, len(header), body_bytes) + header, *views]


class Decoder:
    """Takes the stream's bytes in pieces of any size and gives the frames that they complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = _PREFIX.size
        """Bytes that the next thing to be parsed takes."""
        self._broken = False

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame; not 0 at the end of a stream means that it was cut off."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        """Iterate over it to the end. Raises WireError, and again whenever it is called after that."""
        if self._broken:
            _refuse("the stream was broken before")
        self._buffer += data
        while len(self._buffer) >= self._wanted:
            try:
                frame = self._advance()
            except WireError:
                self._broken = True
                raise
            if frame is not None:
                yield frame

    def _advance(self) -> Frame | None:
        header_bytes, body_bytes = _parse_prefix(self._buffer)
        total = _PREFIX.size + header_bytes + body_bytes
        if len(self._buffer) < total:
            self._wanted = total
            return None
        self._wanted = _PREFIX.size
        start = _PREFIX.size + header_bytes
        header, body = bytes(self._buffer[_PREFIX.size : start]), self._buffer[start:total]
        del self._buffer[:total]
        return parse(header, body)


def _parse_prefix(data: bytearray) -> tuple[int, int]:
    magic, header_bytes, body_bytes = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        _refuse(f"no frame starts with {magic!r}")
    if header_bytes > HEADER_BYTES or body_bytes > BODY_BYTES:
        _refuse(f"a frame of {header_bytes} + {body_bytes} bytes is over the limit")
    return header_bytes, body_bytes


def parse(header: bytes, body: bytearray) -> Frame:
    """A frame from its two parts; the arrays share the body's memory. Raises WireError."""
    try:
        fields = json.loads(header)
    except (ValueError, RecursionError):
        _refuse("a header is not JSON")
    if not isinstance(fields, dict):
        _refuse("a header is not a JSON object")
    kind, shapes = fields.pop("type", None), fields.pop("arrays", None)
    if not isinstance(kind, str) or not isinstance(shapes, list) or len(shapes) > MOST_ARRAYS:
        _refuse("a header lacks its type or its arrays")
    arrays, at = {}, 0
    for entry in shapes:
        name, dtype, shape = _parse_entry(entry)
        length = dtype.itemsize * prod(shape)
        if at + length > len(body):
            _refuse(f"the arrays of a {kind[:20]} message are larger than its body")
        arrays[name] = np.frombuffer(body, dtype, prod(shape), at).reshape(shape)
        at += length
    if at != len(body):
        _refuse(f"the arrays of a {kind[:20]} message are smaller than its body")
    return Frame(kind, fields, arrays)


def _parse_entry(entry: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    if not isinstance(entry, list) or len(entry) != 3:
        _refuse("an array is described by its name, type and shape")
    name, dtype, shape = entry
    if not isinstance(name, str) or dtype not in DTYPES or not isinstance(shape, list) or len(shape) > MOST_AXES:
        _refuse("an array has no name, or a type or shape that is not allowed")
    if not all(type(side) is int and 0 <= side <= BODY_BYTES for side in shape):
        _refuse("an array has an impossible shape")
    return name, np.dtype(dtype), tuple(shape)


def _refuse(what: str) -> NoReturn:
    raise WireError(f"the worker's pipe carries something else than its messages: {what}")
