"""Microphones, codecs and networks. They change how speech sounds, never when: what they delay is moved back.

A codec's delay is known only to its implementation, so it is measured on each signal by cross-correlation, within
MAX_DELAY_S, and taken out.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import soxr
from scipy.fft import irfft, next_fast_len, rfft

from engine.types import SAMPLE_RATE_HZ
from training.data.truth import Floats

CODECS: tuple[str, ...] = ("opus", "mulaw", "none")
MAX_DELAY_S = 0.08
LOST_FRAME_S = 0.02
LONGEST_LOSS = 3
"""Lost frames in a row that are concealed; longer losses would tear words out."""
MULAW = 255.0
AGC_HZ = 200


@dataclass(frozen=True, slots=True)
class Channel:
    """codec: one of CODECS. bitrate: of Opus, bit/s. loss: share of 20 ms frames lost. drive_db: how far peaks go over
    full scale before they are clipped (0 for none). agc: whether an automatic gain evens out the level."""

    codec: str = "none"
    bitrate: int = 24_000
    loss: float = 0.0
    drive_db: float = 0.0
    agc: bool = False


def draw_channel(rng: np.random.Generator) -> Channel:
    """A random connection: mostly Opus, sometimes a telephone, rarely lossy or overdriven."""
    codec = str(rng.choice(CODECS, p=(0.6, 0.2, 0.2)))
    bitrate = int(rng.choice([8_000, 12_000, 16_000, 24_000, 32_000]))
    loss = float(rng.uniform(0.005, 0.04)) if rng.random() < 0.25 else 0.0
    drive_db = float(rng.uniform(1, 9)) if rng.random() < 0.15 else 0.0
    return Channel(codec, bitrate, loss, drive_db, bool(rng.random() < 0.3))


def transmit(audio: Floats, channel: Channel, rng: np.random.Generator) -> Floats:
    """Speech [N] in [-1, 1] at 16 kHz through a channel; same length, in time with the input to 1 ms."""
    if not audio.any():
        return audio
    out = even_out(audio) if channel.agc else audio
    out = clip(out, channel.drive_db) if channel.drive_db else out
    if channel.codec == "mulaw":
        out = telephone(out)
    elif channel.codec == "opus":
        out = undelayed(opus(out, channel.bitrate), out)
    return conceal(out, channel.loss, rng) if channel.loss else out


def clip(audio: Floats, drive_db: float) -> Floats:
    """Peaks pushed `drive_db` over the level at which they are cut off; the peak stays as it was."""
    peak = float(np.abs(audio).max())
    ceiling = peak * 10 ** (-drive_db / 20)
    return (np.clip(audio, -ceiling, ceiling) * (peak / max(ceiling, 1e-9))).astype(np.float32)


def even_out(audio: Floats) -> Floats:
    """Automatic gain: up to 12 dB for what is quiet, fast down and slow up, as in phones and browsers."""
    hop = SAMPLE_RATE_HZ // AGC_HZ
    count = -(-len(audio) // hop)
    level = np.sqrt(np.mean(np.pad(audio, (0, count * hop - len(audio))).reshape(count, hop) ** 2, 1))
    held, tracked = 0.0, np.empty(count)
    for i, value in enumerate(level):
        held = max(value, held * 10 ** (-1 / AGC_HZ))
        tracked[i] = held
    usual = max(float(np.percentile(tracked, 90)), 1e-6)
    gain = np.clip((usual / np.maximum(tracked, 1e-6)) ** 0.6, 0.7, 4.0)
    smooth = np.interp(np.arange(len(audio)), (np.arange(count) + 0.5) * hop, gain)
    out = audio * smooth
    return (out * min(1.0, 0.99 / max(float(np.abs(out).max()), 1e-6))).astype(np.float32)


def telephone(audio: Floats) -> Floats:
    """G.711 mu-law at 8 kHz between 300 and 3400 Hz (ITU-T G.711, in its continuous form with 8 bits)."""
    narrow = soxr.resample(_band(audio, 300.0, 3400.0), SAMPLE_RATE_HZ, 8000)
    packed = np.sign(narrow) * np.log1p(MULAW * np.minimum(np.abs(narrow), 1)) / np.log1p(MULAW)
    coded = np.round(packed * 127) / 127
    heard = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(MULAW)) / MULAW
    return _fit(soxr.resample(heard, 8000, SAMPLE_RATE_HZ).astype(np.float32), len(audio))


def opus(audio: Floats, bitrate: int) -> Floats:
    """Encoded and decoded by libopus at 16 kHz; late by the codec's delay, at least as long as the input."""
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = SAMPLE_RATE_HZ, "mono", "s16"
    encoder.bit_rate, encoder.time_base = bitrate, Fraction(1, SAMPLE_RATE_HZ)
    encoder.open()
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout = SAMPLE_RATE_HZ, "mono"
    size = encoder.frame_size or int(LOST_FRAME_S * SAMPLE_RATE_HZ)
    padded = np.pad(audio, (0, size * (-(-len(audio) // size) + 4) - len(audio)))
    pcm = np.round(np.clip(padded, -1, 1) * 32767).astype(np.int16)
    heard = []
    for start in range(0, len(pcm), size):
        frame = av.AudioFrame.from_ndarray(pcm[None, start : start + size], "s16", "mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, start
        heard += [f for packet in encoder.encode(frame) for f in decoder.decode(packet)]
    heard += [f for packet in encoder.encode(None) for f in decoder.decode(packet)]
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
    parts = [part.to_ndarray().ravel() for frame in [*heard, None] for part in resampler.resample(frame)]
    return _fit(np.concatenate(parts).astype(np.float32) / 32767, len(padded))


def undelayed(late: Floats, audio: Floats) -> Floats:
    """A delayed version of `audio` [N] moved back to where it correlates best; [N]."""
    limit = int(MAX_DELAY_S * SAMPLE_RATE_HZ)
    size = next_fast_len(len(late) + limit, real=True)
    likeness = irfft(rfft(late, size) * np.conj(rfft(audio, size)), size)
    delay = int(np.argmax(likeness[:limit]))
    return _fit(late[delay:], len(audio))


def conceal(audio: Floats, loss: float, rng: np.random.Generator) -> Floats:
    """Lost frames filled with fading copies of the last one that came, as simple players do."""
    size = int(LOST_FRAME_S * SAMPLE_RATE_HZ)
    out = audio.copy()
    count = len(audio) // size
    lost = rng.random(count) < loss
    lost |= np.concatenate([[False], lost[:-1] & (rng.random(max(count - 1, 0)) < 0.3)])
    run = 0
    for i in range(1, count):
        run = run + 1 if lost[i] and run < LONGEST_LOSS else 0
        if run:
            out[i * size : (i + 1) * size] = out[(i - 1) * size : i * size] * np.float32(0.6)
    return out


def _band(audio: Floats, low_hz: float, high_hz: float) -> Floats:
    """A zero-phase band-pass with soft edges."""
    size = next_fast_len(len(audio) + SAMPLE_RATE_HZ // 8, real=True)
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    low, high = (frequency / low_hz) ** 8, (frequency / high_hz) ** 12
    gain = (low / (1 + low) / (1 + high)).astype(np.float32)
    return irfft(rfft(audio, size) * gain, size)[: len(audio)].astype(np.float32)


def _fit(audio: Floats, length: int) -> Floats:
    return audio[:length] if len(audio) >= length else np.pad(audio, (0, length - len(audio)))
