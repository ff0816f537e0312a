"""Block lengths and quality from time and cost; drift from pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from engine.controller import BlockController
from engine.watchdog import DriftBounds, DriftWatchdog
from tests.fake_worker import FakeWorker

# The fake worker's block of n frames takes 2 + 3 (2 + 0.6 n) ms to its latents, and 8 ms a picture.


def controller() -> BlockController:
    return BlockController(FakeWorker().info)


def test_no_time_gives_the_shortest_block_and_much_time_the_longest() -> None:
    assert controller().choose(0, 100, fresh=False).length == 1
    assert controller().choose(1000, 100, fresh=False).length == 12


def test_the_longest_block_is_taken_whose_first_picture_is_in_time() -> None:
    c = controller()
    for slack_ms in range(20, 80, 2):
        length = c.choose(slack_ms, 100, fresh=False).length
        assert length == 1 or c.first_picture_ms(length, 2) < slack_ms
        longer = [n for n in (1, 2, 4, 8, 12) if n > length]
        assert not longer or 1.3 * c.first_picture_ms(longer[0], 2) + 4 > slack_ms


def test_no_more_frames_than_there_is_sound_for() -> None:
    assert [controller().choose(1000, n, fresh=False).length for n in (1, 3, 7, 11, 50)] == [1, 2, 4, 8, 12]


def test_the_first_block_gets_more_steps_when_there_is_time() -> None:
    assert controller().choose(1000, 100, fresh=True).steps == 4
    assert controller().choose(0, 100, fresh=True).steps == 2
    assert controller().choose(1000, 100, fresh=False).steps == 2


def test_costs_are_learned() -> None:
    c = controller()
    before = c.reaction_ms()
    for _ in range(60):
        c.observe(1, 2, {"denoise_ms": 60.0, "decode_ms": 30.0, "audio_ms": 4.0}, late=False)
    assert c.first_picture_ms(1, 2) == pytest.approx(94, abs=2)
    assert c.reaction_ms() > 2 * before


def test_quality_gives_way_only_when_late_for_long_and_comes_back_with_time_to_spare() -> None:
    c = controller()
    timing = {"denoise_ms": 8.0, "decode_ms": 8.0}
    for _ in range(3):
        c.observe(1, 2, timing, late=True)
    c.observe(1, 2, timing, late=False)
    assert c.level == 0
    for _ in range(4):
        c.observe(1, 2, timing, late=True)
    assert c.level == 1
    assert c.choose(1000, 100, fresh=True).steps == 1
    for _ in range(4):
        c.observe(1, 1, timing, late=True)
    assert c.choose(1000, 100, fresh=False).picture_every == 2
    for _ in range(24):
        c.observe(1, 1, timing, late=False)
    assert c.level == 0


def portrait() -> np.ndarray:
    noise = np.random.default_rng(0).uniform(0, 255, (16, 16, 3)).astype(np.float32)
    return cv2.resize(noise, (128, 128), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def test_a_picture_like_the_portrait_is_no_drift() -> None:
    dog = DriftWatchdog(portrait())
    shaken = cv2.warpAffine(portrait(), np.float32([[1, 0, 2], [0, 1, 0]]), (128, 128), borderMode=cv2.BORDER_REFLECT)
    assert not any(dog.check(shaken) for _ in range(20))
    assert dog.history[-1].colour < 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: np.clip(p.astype(int) + (60, 0, -40), 0, 255).astype(np.uint8),
        lambda p: cv2.GaussianBlur(p, (0, 0), 4),
        lambda p: np.clip(p + np.random.default_rng(1).normal(0, 40, p.shape), 0, 255).astype(np.uint8),
        lambda p: np.ascontiguousarray(p[::-1, ::-1]),
    ],
    ids=["colour", "blur", "noise", "another picture"],
)
def test_drift_is_noticed_when_it_stays(spoil: object) -> None:
    dog = DriftWatchdog(portrait(), DriftBounds())
    assert not any(dog.check(portrait()) for _ in range(5))
    spoiled = spoil(portrait())  # type: ignore[operator]
    assert [dog.check(p) for p in (spoiled, spoiled, portrait(), spoiled, spoiled, spoiled)] == [False] * 5 + [True]
    assert dog.anchored == 1


def test_who_is_late_for_long_takes_the_blocks_that_cost_least() -> None:
    c = controller()
    assert c.choose(0, 100, fresh=False).length == 1
    c.observe(1, 2, {"denoise_ms": 8.0, "decode_ms": 8.0}, late=True)
    assert c.choose(0, 100, fresh=False).length == 12
    assert c.choose(0, 3, fresh=False).length == 2
