"""H.264 pictures as fragments of an MP4 file, for Media Source Extensions: one picture, one fragment, no delay.

FFmpeg's muxer keeps a picture back until the next one tells how long it lasts, so the few boxes are written here.
Box layouts: ISO/IEC 14496-12 (file format) and 14496-15, section 5.3.3 (avcC). Time scale: microseconds.
"""

from __future__ import annotations

import re
from struct import pack

TIME_SCALE = 1_000_000
_START_CODE = re.compile(rb"\x00\x00\x00?\x01")
_MATRIX = pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_SPS, _PPS = 7, 8
_SYNC_SAMPLE, _OTHER_SAMPLE = 0x02000000, 0x01010000
"""ISO/IEC 14496-12, 8.8.3.1: depends on no other; depends on others and is no sync sample."""


def nal_units(annex_b: bytes) -> list[bytes]:
    """The units of a byte stream (ITU-T H.264, annex B), without their start codes."""
    return [unit for unit in _START_CODE.split(annex_b) if unit]


def codec_string(extradata: bytes) -> str:
    """RFC 6381's name of the profile and level in the parameter sets, as `avc1.42C01E`."""
    sps = _parameter_sets(extradata)[0]
    return f"avc1.{sps[1]:02X}{sps[2]:02X}{sps[3]:02X}"


def init_segment(extradata: bytes, width: int, height: int) -> bytes:
    """`ftyp` and `moov` for parameter sets in Annex B."""
    ftyp = _box("ftyp", b"iso5", pack(">I", 512), b"iso5iso6mp41")
    mvhd = _full(
        "mvhd",
        0,
        0,
        pack(">4I", 0, 0, TIME_SCALE, 0),
        pack(">IHxx8x", 0x10000, 0x100),
        _MATRIX,
        bytes(24),
        pack(">I", 2),
    )
    trex = _full("trex", 0, 0, pack(">5I", 1, 1, 0, 0, 0))
    return ftyp + _box("moov", mvhd, _track(extradata, width, height), _box("mvex", trex))


class Fragments:
    """Makes fragments that follow one another without gaps: where pictures were left out, the next one begins where the
    last one ended. A picture of the same moment as the one before takes its place.
    """

    def __init__(self) -> None:
        self._count = 0
        self._start_us = self._end_us = -1
        self._pts_us: int | None = None

    def fragment(self, annex_b: bytes, pts_us: int, duration_us: int, key: bool) -> bytes:
        """`moof` and `mdat` of one access unit."""
        if self._pts_us is None:
            self._start_us = pts_us
        elif pts_us != self._pts_us:
            self._start_us = min(self._end_us, pts_us)
        start_us, end_us = self._start_us, pts_us + duration_us
        self._pts_us, self._end_us, self._count = pts_us, end_us, self._count + 1
        sample = b"".join(pack(">I", len(unit)) + unit for unit in nal_units(annex_b))
        flags = _SYNC_SAMPLE if key else _OTHER_SAMPLE
        size = len(self._moof(start_us, end_us - start_us, len(sample), flags, 0))
        # The sample's data begin after this box and the head of the next one.
        return self._moof(start_us, end_us - start_us, len(sample), flags, size + 8) + _box("mdat", sample)

    def _moof(self, start_us: int, duration_us: int, size: int, flags: int, offset: int) -> bytes:
        traf = _box(
            "traf",
            _full("tfhd", 0, 0x020000, pack(">I", 1)),
            _full("tfdt", 1, 0, pack(">Q", start_us)),
            _full("trun", 0, 0x000701, pack(">Ii", 1, offset), pack(">3I", duration_us, size, flags)),
        )
        return _box("moof", _full("mfhd", 0, 0, pack(">I", self._count)), traf)


def _track(extradata: bytes, width: int, height: int) -> bytes:
    tkhd = _full(
        "tkhd", 0, 3, pack(">5I8xhhhH", 0, 0, 1, 0, 0, 0, 0, 0, 0), _MATRIX, pack(">2I", width << 16, height << 16)
    )
    mdhd = _full("mdhd", 0, 0, pack(">4IHH", 0, 0, TIME_SCALE, 0, 0x55C4, 0))
    hdlr = _full("hdlr", 0, 0, pack(">I4s12x", 0, b"vide"), b"video\0")
    dinf = _box("dinf", _full("dref", 0, 0, pack(">I", 1), _full("url ", 0, 1)))
    empty = [_full(name, 0, 0, bytes(4)) for name in ("stts", "stsc", "stco")]
    stbl = _box(
        "stbl",
        _full("stsd", 0, 0, pack(">I", 1), _sample_entry(extradata, width, height)),
        *empty,
        _full("stsz", 0, 0, bytes(8)),
    )
    minf = _box("minf", _full("vmhd", 0, 1, bytes(8)), dinf, stbl)
    return _box("trak", tkhd, _box("mdia", mdhd, hdlr, minf))


def _sample_entry(extradata: bytes, width: int, height: int) -> bytes:
    sps, pps = _parameter_sets(extradata)
    avcc = _box("avcC", pack(">B3sBBH", 1, sps[1:4], 0xFF, 0xE1, len(sps)), sps, pack(">BH", 1, len(pps)), pps)
    head = pack(">6xH16xHHIIIH32xHh", 1, width, height, 0x480000, 0x480000, 0, 1, 0x18, -1)
    return _box("avc1", head, avcc)


def _parameter_sets(extradata: bytes) -> tuple[bytes, bytes]:
    units = {unit[0] & 31: unit for unit in nal_units(extradata)}
    return units[_SPS], units[_PPS]


def _box(name: str, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return pack(">I", 8 + len(body)) + name.encode() + body


def _full(name: str, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(name, pack(">I", version << 24 | flags), *parts)
