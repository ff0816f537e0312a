"""Pictures of strangers (reliability test 13): bombs are refused from the header, at once; odd ones are read."""

from __future__ import annotations

import gc
import io
import os
import struct
import tracemalloc
import zlib
from time import perf_counter

import numpy as np
import pytest
from faces import draw_face
from PIL import Image

from apps.server.limits import UPLOAD_LIMITS
from engine.errors import AvatarError
from engine.portrait.loading import load_image
from engine.supervisor import resident_bytes

REFUSAL_S = 0.2
"""20 ms on a quiet machine; a decoded bomb takes 300 and more."""

MAX_GROWTH_BYTES = 10 << 20


def png_header(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG that claims a size and has little behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def many_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan is there many times over."""
    data = encoded(draw_face(256), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


BOMBS = {
    "20 000 squared": (png_header(20_000, 20_000), "image_too_large"),
    "12 000 squared, which Pillow only warns of": (png_header(12_000, 12_000), "image_too_large"),
    "1 x 65 535": (png_header(1, 65_535), "image_too_large"),
    "65 535 x 64": (png_header(65_535, 64), "image_too_large"),
    "4 097 a side": (png_header(4_097, 100), "image_too_large"),
    "2^31 squared": (png_header(2**31 - 1, 2**31 - 1), "image_too_large"),
    "GIF with a large screen": (b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b";", "not_an_image"),
    "BMP that claims more than it has": (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 58, 0, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "image_too_large",
    ),
    "JPEG of 1 000 scans": (many_scans(1000), "image_too_large"),
    "more than 8 MB": (bytes(8_388_609), "image_too_large"),
    "PNG of 8 MB of text": (png_header(100, 100)[:33] + b"x" * 8_000_000, "not_an_image"),
    "cut short": (encoded(draw_face(300), "PNG")[:2000], "not_an_image"),
    "no picture": (b"hello" * 100, "not_an_image"),
    "empty": (b"", "not_an_image"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "not_an_image"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"/>', "not_an_image"),
    "ZIP that ends as a PNG": (b"PK\x03\x04" + encoded(draw_face(100), "PNG"), "not_an_image"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(name: str) -> None:
    data, code = BOMBS[name]
    gc.collect()
    tracemalloc.start()
    began = perf_counter()
    with pytest.raises(AvatarError) as refusal:
        load_image(data, UPLOAD_LIMITS)
    took_s, (_, peak_bytes) = perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refusal.value.code == code and took_s < REFUSAL_S and peak_bytes < MAX_GROWTH_BYTES


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.skipif(resident_bytes(os.getpid()) is None, reason="this system does not tell a process's memory")
def test_refusing_a_bomb_takes_no_memory_of_the_process() -> None:
    """What a decoder takes is not in tracemalloc, so a whole bomb is tried against the process itself."""
    data = encoded(Image.new("1", (12_000, 12_000)), "PNG")
    gc.collect()
    before = resident_bytes(os.getpid())
    for _ in range(20):
        with pytest.raises(AvatarError):
            load_image(data, UPLOAD_LIMITS)
    assert resident_bytes(os.getpid()) - before < MAX_GROWTH_BYTES


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(draw_face(200).crop((0, 0, 200, 100)), "JPEG", exif=exif)


GREY_16 = Image.fromarray(np.linspace(0, 65_535, 128 * 128).astype(np.uint16).reshape(128, 128))
ODD = {
    "grey": (encoded(draw_face(128).convert("L"), "PNG"), (128, 128)),
    "16 bits": (encoded(GREY_16, "PNG"), (128, 128)),
    "CMYK": (encoded(draw_face(128).convert("CMYK"), "JPEG"), (128, 128)),
    "palette": (encoded(draw_face(128).convert("P"), "GIF"), (128, 128)),
    "animated": (encoded(draw_face(128), "WEBP", save_all=True, append_images=[draw_face(128)]), (128, 128)),
    "turned by EXIF": (rotated(), (200, 100)),
    "the largest": (encoded(Image.new("RGB", (4096, 4096)), "PNG"), (2048, 2048)),
    "a dozen scans": (encoded(draw_face(128), "JPEG", progressive=True), (128, 128)),
    "bytes behind its end": (encoded(draw_face(128), "PNG") + b"PK\x05\x06" + bytes(18), (128, 128)),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_are_read(name: str) -> None:
    data, (height, width) = ODD[name]
    pixels = load_image(data, UPLOAD_LIMITS)
    assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8
