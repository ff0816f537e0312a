"""The log-mel front end against librosa, streamed against whole, and the windows cut from it."""

from __future__ import annotations

import numpy as np
import pytest

from engine.audio.features import LOG_FLOOR, StreamingLogMel, log_mel
from engine.audio.windows import WINDOW_MELS, frame_windows, samples_needed


def voice_like(samples: int, seed: int = 0) -> np.ndarray:
    """A loud buzz with silences and faint noise, so that both the floor and the peaks are met."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(samples) / 16_000
    buzz = sum(np.sin(2 * np.pi * 130 * h * time_s) / h for h in range(1, 20))
    gate = np.sin(2 * np.pi * 3 * time_s) > 0
    return (0.3 * buzz * gate + 1e-4 * rng.standard_normal(samples)).astype(np.float32)


def test_equals_librosa() -> None:
    librosa = pytest.importorskip("librosa", reason="librosa is the oracle; install the [dev] extra")
    pcm = voice_like(16_000 * 3 + 77)
    power = librosa.feature.melspectrogram(
        y=pcm.astype(np.float64), sr=16_000, n_fft=512, win_length=400, hop_length=160, n_mels=80, fmin=0, fmax=8000,
        center=True, pad_mode="constant", power=2.0,
    )  # fmt: skip
    expected = np.log(np.maximum(power.T, 1e-5))[: len(pcm) // 160]
    assert np.abs(log_mel(pcm) - expected).max() < 1e-4


@pytest.mark.parametrize("chunk", [1, 159, 160, 161, 640, 5000, 100_000])
@pytest.mark.parametrize("samples", [0, 159, 160, 399, 4_160, 8_013])
def test_streaming_equals_whole(chunk: int, samples: int) -> None:
    pcm = voice_like(samples)
    stream = StreamingLogMel()
    parts = [stream.push(pcm[i : i + chunk]) for i in range(0, samples, chunk)]
    mel = np.concatenate([*parts, stream.flush()])
    assert mel.shape == (samples // 160, 80)
    np.testing.assert_allclose(mel, log_mel(pcm), atol=1e-5)


def test_a_frame_is_given_as_soon_as_its_window_is_full() -> None:
    stream = StreamingLogMel()
    assert len(stream.push(np.zeros(199))) == 0
    assert len(stream.push(np.zeros(1))) == 1
    assert len(stream.push(np.zeros(159))) == 0
    assert len(stream.push(np.zeros(1))) == 1


def test_reset_forgets() -> None:
    stream = StreamingLogMel()
    stream.push(voice_like(1000))
    stream.reset()
    pcm = voice_like(3000, seed=4)
    np.testing.assert_array_equal(np.concatenate([stream.push(pcm), stream.flush()]), log_mel(pcm))


def test_silence_is_the_floor() -> None:
    assert np.all(log_mel(np.zeros(1600, np.float32)) == np.float32(LOG_FLOOR))


def test_windows_hold_the_mel_frames_of_their_video_frame() -> None:
    mel = np.repeat(np.arange(100, dtype=np.float32)[:, None], 80, axis=1)
    windows = frame_windows(mel, first_frame=10, n_frames=3)
    assert windows.shape == (3, WINDOW_MELS, 80)
    np.testing.assert_array_equal(windows[:, 0, 0], [20, 24, 28])
    np.testing.assert_array_equal(windows[:, -1, 0], [51, 55, 59])


def test_windows_outside_the_signal_are_silent() -> None:
    mel = np.zeros((8, 80), np.float32)
    windows = frame_windows(mel, first_frame=0, n_frames=1)
    assert np.all(windows[0, :20] == np.float32(LOG_FLOOR))
    assert np.all(windows[0, 20:28] == 0)
    assert np.all(windows[0, 28:] == np.float32(LOG_FLOOR))


def test_windows_of_a_kept_tail_equal_those_of_the_whole() -> None:
    mel = log_mel(voice_like(32_000))
    np.testing.assert_array_equal(frame_windows(mel[60:], 20, 5, mel_start=60), frame_windows(mel, 20, 5))


def test_samples_needed_is_exact() -> None:
    pcm = voice_like(32_000)
    whole = frame_windows(log_mel(pcm), 7, 1)
    enough, needed = StreamingLogMel(), samples_needed(7)
    np.testing.assert_allclose(frame_windows(enough.push(pcm[:needed]), 7, 1), whole, atol=1e-5)
    assert len(StreamingLogMel().push(pcm[: needed - 1])) < 4 * 10
