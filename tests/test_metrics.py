"""The figures of `visavis evaluate` on curves whose answer is known."""

import numpy as np
import pytest

from engine.portrait.landmarks import INDEX
from engine.types import FPS
from training.data.truth import UNIT
from training.evaluate import metrics


def _speech(seconds: float, delay_ms: float = 0.0, seed: int = 0) -> np.ndarray:
    """A sum of slow sines, so that it can be delayed by any fraction of a frame."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * FPS)) / FPS - delay_ms / 1000
    rates, phases = rng.uniform(0.7, 4.0, 6), rng.uniform(0, 6.3, 6)
    return np.sin(2 * np.pi * rates[:, None] * time_s + phases[:, None]).sum(0)


@pytest.mark.parametrize("delay_ms", [-130.0, -40.0, 0.0, 12.0, 25.0, 87.0, 200.0])
def test_lag_scan_finds_a_known_delay(delay_ms: float) -> None:
    found_ms, r = metrics.lag_of(metrics.lag_scores(_speech(8, delay_ms), _speech(8)))
    assert found_ms == pytest.approx(delay_ms, abs=5.0)
    assert r > 0.9


def test_lag_scores_only_count_the_chosen_frames() -> None:
    truth, seen = _speech(8), _speech(8, 80)
    seen[:100] = _speech(8, seed=5)[:100]
    late = np.arange(200) >= 115
    lag_ms, r = metrics.lag_of(metrics.lag_scores(seen, truth, late))
    assert lag_ms == pytest.approx(80, abs=2) and r == pytest.approx(1.0)
    assert metrics.lag_of(metrics.lag_scores(seen, truth))[1] < 0.9


def test_correlation_ignores_offset_and_scale_and_survives_constants() -> None:
    curve = _speech(4)
    assert metrics.correlation(curve, 3 * curve + 7) == pytest.approx(1.0)
    assert metrics.correlation(curve, -curve) == pytest.approx(-1.0)
    assert metrics.correlation(curve, np.ones_like(curve)) == 0.0


def test_silence_ratio_compares_stretches_around_their_own_mean() -> None:
    state = np.repeat([0, 1, 0, 2], 50).astype(np.int8)
    busy = _speech(8).astype(np.float32)
    half = np.where(state == 0, busy, 5 + 0.5 * busy).astype(np.float32)
    still = np.where(state == 0, busy, 5.0).astype(np.float32)
    assert metrics.silence_ratio([(still, state)]) == 0.0
    assert metrics.silence_ratio([(half, state)]) == pytest.approx(0.25, abs=0.15)
    assert np.isnan(metrics.silence_ratio([(busy, np.zeros(200, np.int8))]))


def test_silence_ratio_leaves_the_change_of_state_out() -> None:
    state = np.repeat([0, 1], 60).astype(np.int8)
    closing = np.where(np.arange(120) < 63, _speech(4.8), 0.0).astype(np.float32)
    assert metrics.silence_ratio([(closing, state)]) == 0.0


def test_mouth_opening_is_relative_to_the_eyes() -> None:
    points = np.random.default_rng(0).uniform(0.3, 0.7, (3, 28, 2)).astype(np.float32)
    points[:, :2], points[:, 2:4] = (0.3, 0.4), (0.7, 0.4)
    np.testing.assert_allclose(metrics.mouth_opening(points), metrics.mouth_opening(0.5 * points + 0.2), rtol=1e-4)


def test_blinks_are_counted_once_each() -> None:
    units = np.zeros((100, 52), np.float32)
    lids = [UNIT["eyeBlinkLeft"], UNIT["eyeBlinkRight"]]
    for at in (10, 40, 80):
        units[at : at + 3, lids] = np.array([0.5, 0.95, 0.45])[:, None]
        units[at + 3, lids] = 0.3
    assert metrics.count_blinks(metrics.blink_curve(units)) == 3
    assert metrics.count_blinks(metrics.blink_curve(units * 0.3)) == 0


def test_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    dimmed = (picture * 0.9).astype(np.uint8)
    assert metrics.psnr(picture, picture) == 99.0
    assert metrics.psnr(np.zeros_like(picture), np.full_like(picture, 255)) == pytest.approx(0.0, abs=1e-6)
    assert metrics.ssim(picture, picture) == pytest.approx(1.0)
    assert metrics.ssim(picture, dimmed) < 0.999
    left = np.zeros((64, 64), np.float32)
    left[:, :32] = 1
    half = np.concatenate((picture[:, :32], dimmed[:, 32:]), 1)
    assert metrics.psnr(half, picture, left) == 99.0 > metrics.psnr(half, picture)


def test_mouth_weight_covers_the_mouth_and_little_else() -> None:
    points = np.full((2, 28, 2), 0.5, np.float32)
    points[:, INDEX["mouth_right"]], points[:, INDEX["mouth_left"]] = (0.4, 0.7), (0.6, 0.7)
    points[:, INDEX["lip_upper_outer"]], points[:, INDEX["lip_lower_outer"]] = (0.5, 0.66), (0.5, 0.74)
    weight = metrics.mouth_weight(points, 100)
    assert weight[0, 70, 50] == 1 and weight[0, 70, 30] == 0 and weight[0, 50, 50] == 0
    assert weight.mean() == pytest.approx(0.34 * 0.22, rel=0.1)
