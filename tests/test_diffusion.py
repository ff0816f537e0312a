"""Flow matching and samplers on cases with a closed form, in plain numpy (no torch at run time)."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from engine.diffusion.flow import add_noise, shift_time, timesteps, to_noise, to_x0, velocity
from engine.diffusion.rollout import Cache, generate_block
from engine.diffusion.sampler import consistency, euler

rng = np.random.default_rng(0)


def test_conversions_invert_the_path() -> None:
    x0, noise, t = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), 0.3
    x_t, v = add_noise(x0, noise, t), velocity(x0, noise)
    np.testing.assert_allclose(to_x0(x_t, v, t), x0)
    np.testing.assert_allclose(to_noise(x_t, v, t), noise)


def test_timesteps_descend_from_one_and_shift_towards_noise() -> None:
    plain, shifted = timesteps(4), timesteps(4, 3.0)
    assert plain == [1.0, 0.75, 0.5, 0.25]
    np.testing.assert_allclose(shifted, [1.0, 0.9, 0.75, 0.5])
    with pytest.raises(ValueError, match="at least one"):
        timesteps(0)
    assert shift_time(0.5, 1.0) == 0.5


def gaussian_velocity(mean: float, std: float):
    """Exact velocity field for data N(mean, std^2): E[eps - x0 | x_t]."""

    def v(x, t):
        variance = (1 - t) ** 2 * std**2 + t**2
        gain = (t - (1 - t) * std**2) / variance
        return gain * (x - (1 - t) * mean) - mean

    return v


def test_euler_reaches_the_data_distribution() -> None:
    noise = rng.normal(size=20_000)
    out = euler(gaussian_velocity(2.0, 0.5), noise, timesteps(64))
    assert abs(out.mean() - 2.0) < 0.02
    assert abs(out.std() - 0.5) < 0.02


def test_consistency_sampling_with_an_exact_function_is_exact_in_one_step() -> None:
    """For N(m, s^2) the probability-flow map is affine: x0 = m + s (x_1), so v(x, 1) = x - m - s x."""

    def v(x, t):
        scale = np.sqrt((1 - t) ** 2 * 0.25 + t**2)
        x0 = 2.0 + 0.5 * (x - (1 - t) * 2.0) / scale
        return (x - x0) / t

    noise = rng.normal(size=1000)
    one, two = consistency(v, noise, [1.0]), consistency(v, noise, [1.0, 0.5])
    np.testing.assert_allclose(one, 2.0 + 0.5 * noise)
    assert abs(two.mean() - 2.0) < 0.1 and abs(two.std() - 0.5) < 0.1


def test_block_loop_runs_on_numpy_with_an_immutable_cache() -> None:
    keys = rng.normal(size=(2, 1, 2, 4, 3)).astype(np.float32)
    cache = Cache.start(keys, keys.copy(), context_slots=8)
    np.testing.assert_array_equal(cache.valid, [[1] * 4 + [0] * 8])

    def model(x, t, k, v, valid):
        fresh = np.full((2, 1, 2, 4, 3), float(x.mean()), np.float32)
        return 0.1 * x, fresh, fresh

    noise = rng.normal(size=(1, 1, 2, 2, 2)).astype(np.float32)
    latents, after = generate_block(model, euler, noise, timesteps(2), cache)
    np.testing.assert_allclose(latents, noise * 0.95 * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(after.valid, [[1] * 4 + [0] * 4 + [1] * 4])
    np.testing.assert_array_equal(cache.valid, [[1] * 4 + [0] * 8])
    np.testing.assert_array_equal(after.keys[:, :, :, :4], keys)


def test_diffusion_loads_no_torch() -> None:
    code = "import sys, engine.diffusion.rollout, engine.diffusion.sampler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_taking_back_leaves_what_was_before_and_less_context() -> None:
    keys = np.ones((2, 1, 2, 4, 3), np.float32)
    cache = Cache.start(keys, keys, 8)
    fresh = [np.full((2, 1, 2, 4, 3), float(i), np.float32) for i in (2, 3, 4)]
    for block in fresh:
        cache = cache.append(block, block)
    back = cache.take_back(4)
    np.testing.assert_array_equal(back.keys[0, 0, 0, :, 0], [1] * 4 + [0] * 4 + [3] * 4)
    np.testing.assert_array_equal(back.valid, [[1] * 4 + [0] * 4 + [1] * 4])
    np.testing.assert_array_equal(cache.take_back(99).valid, [[1] * 4 + [0] * 8])
    np.testing.assert_array_equal(cache.take_back(0).keys, cache.keys)


def test_join_and_split_are_inverse() -> None:
    random = np.random.default_rng(0)
    caches = [
        Cache.start(*(random.standard_normal((2, 1, 2, 4, 3)).astype(np.float32) for _ in range(2)), 8)
        for _ in range(3)
    ]
    for a, b in zip(caches, Cache.join(caches).split(), strict=True):
        np.testing.assert_array_equal(a.keys, b.keys)
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(a.valid, b.valid)


def test_ema_sink_takes_in_what_leaves_and_nothing_before_the_context_is_full() -> None:
    reference = np.ones((1, 1, 1, 2, 1), np.float32)
    cache = Cache.start(reference, reference, 4)
    for value in (2.0, 3.0):
        cache = cache.append(np.full_like(reference, value), np.full_like(reference, value), sink_decay=0.9)
        np.testing.assert_array_equal(cache.keys[0, 0, 0, :2, 0], [1, 1])
    fresh = np.full((1, 1, 1, 4, 1), 9.0, np.float32)
    sunk = cache.append(fresh, fresh, sink_decay=0.9)
    expected = (1 * 0.9 + 2 * 0.1) * 0.9 + 3 * 0.1
    np.testing.assert_allclose(sunk.keys[0, 0, 0, :, 0], [expected] * 2 + [9] * 4, rtol=1e-6)
    np.testing.assert_array_equal(cache.append(fresh, fresh).keys[0, 0, 0, :2, 0], [1, 1])


def test_a_hundred_blocks_leave_a_cache_as_large_as_it_was_and_an_exact_average() -> None:
    reference = np.zeros((1, 1, 1, 2, 1), np.float32)
    cache = Cache.start(reference, reference, 4)
    held, sink, decay = cache.keys.nbytes + cache.values.nbytes, 0.0, 0.9
    for value in range(1, 101):
        fresh = np.full_like(reference, value)
        cache = cache.append(fresh, -fresh, sink_decay=decay)
        # Two frames of context: what leaves is two blocks old, and the first two leave nothing.
        sink = decay * sink + (1 - decay) * (value - 2) if value > 2 else sink
        assert cache.keys.nbytes + cache.values.nbytes == held
    np.testing.assert_allclose(cache.keys[0, 0, 0, :, 0], [sink, sink, 99, 99, 100, 100], rtol=1e-5)
    np.testing.assert_allclose(cache.values, -cache.keys)
    # Nothing but what went in: an average lies between the first and the last that left.
    assert 1 < sink < 98
    constant = Cache.start(reference + 5, reference + 5, 4)
    for _ in range(100):
        constant = constant.append(reference + 5, reference + 5, sink_decay=decay)
    np.testing.assert_allclose(constant.keys, 5, rtol=1e-5)


def test_easing_brings_a_block_s_first_frames_nearer_to_the_last_one_and_nothing_without_one() -> None:
    keys = np.ones((1, 2, 1, 1, 1), np.float32)
    cache = Cache.start(keys, keys, 4)
    first = np.ones((2, 2, 1, 1, 1), np.float32)
    np.testing.assert_array_equal(cache.ease(first, 0.5), first)
    two = np.concatenate([keys, keys], 3)
    cache = cache.append(two, two, first)
    block = np.full((2, 3, 1, 1, 1), 3.0, np.float32)
    np.testing.assert_allclose(cache.ease(block, 0.5)[0, :, 0, 0, 0], [2.0, 2.5, 2.75])
    np.testing.assert_array_equal(cache.ease(block, 0.0), block)
    # One row has taken its frames back and has nothing to be eased from; the other still has.
    rows = cache.split()
    eased = Cache.join([rows[0].take_back(2), rows[1]]).ease(block, 0.5)
    np.testing.assert_allclose(eased[:, 0, 0, 0, 0], [3.0, 2.0])
    # After taking back one frame the one before it counts.
    cache = cache.append(two, two, np.stack([np.full((2, 1, 1, 1), v, np.float32) for v in (5, 9)], 1))
    np.testing.assert_allclose(cache.take_back(1).ease(block, 0.5)[0, 0, 0, 0, 0], 4.0)
