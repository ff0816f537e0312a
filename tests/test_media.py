"""Sound out of any file, films of exact length, and resampling without seams."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from apps.media import Mp4Writer, read_sound
from engine.audio.resample import Resampler
from engine.errors import (
    AudioEmptyError,
    AudioFormatError,
    AudioTooLongError,
    FileMissingError,
    NoAudioStreamError,
    OutputFolderMissingError,
    OutputNotWritableError,
    UnreadableFileError,
    UnreadableMediaError,
)


def tone(seconds: float, rate_hz: int, channels: int = 1) -> np.ndarray:
    """A 440 Hz tone, float32 [N, channels]."""
    wave_form = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate_hz)) / rate_hz)
    return np.repeat(wave_form[:, None], channels, axis=1).astype(np.float32)


def write_wav(path: Path, pcm: np.ndarray, rate_hz: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(pcm.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((pcm * 32_767).astype("<i2").tobytes())
    return path


def write_audio(path: Path, codec: str, rate_hz: int, layout: str) -> Path:
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone(1, rate_hz, channels).T), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        for item in (frame, None):
            for packet in stream.encode(item):
                container.mux(packet)
    return path


def write_film(path: Path, frames: int, track: np.ndarray, rate_hz: int, size: tuple[int, int] = (64, 64)) -> None:
    with Mp4Writer(path, size, track, rate_hz) as film:
        for shade in range(frames):
            film.write(np.full((size[1], size[0], 3), shade, np.uint8))


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_of_any_rate(tmp_path: Path, rate_hz: int, channels: int) -> None:
    sound = read_sound(write_wav(tmp_path / "a.wav", tone(1.5, rate_hz, channels), rate_hz))
    assert len(sound.pcm) == pytest.approx(24_000, abs=2)
    expected = tone(1.5, 16_000)[:, 0]
    middle = slice(2_000, 22_000)
    assert np.abs(sound.pcm[middle] - expected[middle]).max() < 2e-3
    assert len(sound.track) / sound.track_rate_hz == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "layout"),
    [("a.flac", "flac", 44_100, "stereo"),
     ("a.ogg", "libopus", 48_000, "mono"), ("a.mp3", "libmp3lame", 44_100, "mono"),
     ("a.m4a", "aac", 48_000, "5.1"), ("a.mka", "aac", 24_000, "stereo")],
)  # fmt: skip
def test_other_formats(tmp_path: Path, name: str, codec: str, rate_hz: int, layout: str) -> None:
    sound = read_sound(write_audio(tmp_path / name, codec, rate_hz, layout))
    assert len(sound.pcm) == pytest.approx(16_000, abs=2_500)
    spectrum = np.abs(np.fft.rfft(sound.pcm[2_000:14_000] * np.hanning(12_000)))
    assert np.argmax(spectrum) * 16_000 / 12_000 == pytest.approx(440, abs=2)


def test_sound_of_a_film(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", 25, (tone(1, 48_000)[:, 0] * 32_767).astype(np.int16), 48_000)
    assert read_sound(tmp_path / "a.mp4").seconds == pytest.approx(1, abs=0.05)


def test_files_that_cannot_be_heard(tmp_path: Path) -> None:
    with pytest.raises(FileMissingError):
        read_sound(tmp_path / "none.wav")
    with pytest.raises(UnreadableFileError):
        read_sound(tmp_path)
    (tmp_path / "text.wav").write_text("not sound")
    with pytest.raises(UnreadableMediaError):
        read_sound(tmp_path / "text.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(UnreadableMediaError):
        read_sound(tmp_path / "empty.wav")
    with pytest.raises(AudioEmptyError):
        read_sound(write_wav(tmp_path / "zero.wav", tone(0, 16_000), 16_000))


def test_a_film_without_sound_has_no_voice(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "mute.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        for item in (av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8)), None):
            for packet in stream.encode(item):
                container.mux(packet)
    with pytest.raises(NoAudioStreamError):
        read_sound(tmp_path / "mute.mp4")


def test_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.media.MAX_SECONDS", 1)
    with pytest.raises(AudioTooLongError):
        read_sound(write_wav(tmp_path / "a.wav", tone(1.2, 16_000), 16_000))


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("frames", [1, 7, 33])
def test_pictures_and_sound_are_equally_long(tmp_path: Path, rate_hz: int, frames: int) -> None:
    track = np.zeros(round((frames - 0.5) / 25 * rate_hz), np.int16)
    write_film(tmp_path / "a.mp4", frames, track, rate_hz)
    with av.open(str(tmp_path / "a.mp4")) as film:
        video, audio = film.streams.video[0], film.streams.audio[0]
        assert video.average_rate == 25
        assert float(video.duration * video.time_base) == pytest.approx(frames / 25, abs=1e-6)
        assert float(audio.duration * audio.time_base) == pytest.approx(frames / 25, abs=1 / rate_hz)
        assert sum(1 for _ in film.decode(video=0)) == frames


def test_sound_is_in_step(tmp_path: Path) -> None:
    """A click on frame 20 is heard at 0.8 s, whatever the encoder's delay."""
    track = np.zeros(48_000 * 2, np.int16)
    track[38_400:38_500] = 30_000
    write_film(tmp_path / "a.mp4", 50, track, 48_000)
    pcm = read_sound(tmp_path / "a.mp4").pcm
    assert np.argmax(np.abs(pcm)) / 16_000 == pytest.approx(0.8, abs=0.005)


def test_films_say_that_they_are_generated(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", 2, np.zeros(100, np.int16), 16_000)
    with av.open(str(tmp_path / "a.mp4")) as film:
        assert film.metadata["ai_generated"] == "true"
        assert "AI-generated" in film.metadata["title"] and "AI-generated" in film.metadata["comment"]
        assert film.metadata["software"].startswith("visavis ")


def test_colours_survive(tmp_path: Path) -> None:
    skin = np.empty((64, 64, 3), np.uint8)
    skin[:] = (214, 150, 120)
    with Mp4Writer(tmp_path / "a.mp4", (64, 64), np.zeros(0, np.int16), 16_000) as film:
        film.write(skin)
    with av.open(str(tmp_path / "a.mp4")) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(picture.astype(int) - skin).max() <= 4


def test_odd_sizes_lose_a_line(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", 2, np.zeros(10, np.int16), 16_000, size=(67, 65))
    with av.open(str(tmp_path / "a.mp4")) as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == (66, 64)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Mp4Writer(tmp_path / "a.mp4", (64, 64), np.zeros(10, np.int16), 16_000) as film:
        film.write(np.zeros((64, 64, 3), np.uint8))
        raise RuntimeError("the model broke")
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(OutputFolderMissingError):
        Mp4Writer(tmp_path / "none" / "a.mp4", (64, 64), np.zeros(0, np.int16), 16_000)
    with pytest.raises(OutputNotWritableError):
        Mp4Writer(tmp_path, (64, 64), np.zeros(0, np.int16), 16_000)


@pytest.mark.parametrize("chunk", [1, 37, 480, 10_000])
def test_resampling_has_no_seams(chunk: int) -> None:
    pcm = np.random.default_rng(0).uniform(-1, 1, 30_000 if chunk > 1 else 2_000).astype(np.float32)

    def run(size: int) -> np.ndarray:
        resampler = Resampler(44_100)
        return np.concatenate(
            [*(resampler.push(pcm[i : i + size]) for i in range(0, len(pcm), size)), resampler.flush()]
        )

    whole = run(len(pcm))
    np.testing.assert_allclose(run(chunk), whole, atol=1e-4)
    assert len(whole) == pytest.approx(len(pcm) * 16_000 / 44_100, abs=1)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_sample_types(kind: type) -> None:
    scale, offset = {np.uint8: (127, 128), np.int16: (32_767, 0), np.int32: (2**31 - 1, 0)}.get(kind, (1, 0))
    pcm = (np.array([0, 0.5, -0.5]) * scale + offset).astype(kind)
    np.testing.assert_allclose(Resampler(16_000).push(pcm), [0, 0.5, -0.5], atol=0.01)


def test_bad_samples_are_silenced_and_counted() -> None:
    resampler = Resampler(16_000)
    np.testing.assert_array_equal(resampler.push(np.array([0.5, np.nan, np.inf, -0.5])), [0.5, 0, 0, -0.5])
    assert resampler.bad_samples == 2


def test_stereo_is_averaged() -> None:
    np.testing.assert_allclose(Resampler(16_000).push(np.array([[1.0, 0.0], [0.5, 0.5]])), [0.5, 0.5])


def test_formats_that_make_no_sense() -> None:
    for rate_hz in (0, -1, 1_000_000):
        with pytest.raises(AudioFormatError):
            Resampler(rate_hz)
    with pytest.raises(AudioFormatError):
        Resampler(16_000).push(np.zeros((2, 2, 2)))
    with pytest.raises(AudioFormatError):
        Resampler(16_000).push(np.zeros(3, np.complex64))
