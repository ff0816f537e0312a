"""Figures of the report on sets, pictures and motions whose answer is known."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from engine.model.face_reader import FaceReader, ReaderConfig
from engine.portrait.landmarks import INDEX
from engine.types import FPS
from training.evaluate import motion
from training.evaluate.compare import Figure, compare_rows
from training.evaluate.drift import trend
from training.evaluate.frechet import Gaussian, Observer, distance_to, films, frechet_distance
from training.evaluate.identity import describe, upright
from training.evaluate.likeness import Gallery, tell
from training.instruments.probe import PROBE, Probe


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    """Diagonal covariances: the squared distance of the means plus that of the standard deviations."""
    a = Gaussian(100, np.array([0.0, 1.0]), np.diag([4.0, 1.0]))
    b = Gaussian(100, np.array([3.0, 1.0]), np.diag([1.0, 9.0]))
    assert frechet_distance(a, b) == pytest.approx(9 + (2 - 1) ** 2 + (1 - 3) ** 2)
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    turned = [Gaussian(g.count, turn @ g.mean, turn @ g.covariance @ turn.T) for g in (a, b)]
    assert frechet_distance(*turned) == pytest.approx(14)


def test_frechet_distance_survives_fewer_points_than_features() -> None:
    few = Gaussian.of(np.random.default_rng(0).normal(size=(5, 20)))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)


def test_distance_counts_features_in_units_of_their_spread() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(20_000, 2)).astype(np.float32)
    shifted = truth + np.array([1.0, 0.0], np.float32)
    wide = np.array([100.0, 0.01], np.float32)
    assert distance_to([truth], [shifted]) == pytest.approx(1.0, rel=0.02)
    assert distance_to([truth * wide], [shifted * wide]) == pytest.approx(1.0, rel=0.02)
    assert np.isnan(distance_to([truth[:1]], [truth]))


def test_films_are_means_and_speeds() -> None:
    ramp = np.arange(32, dtype=np.float32)[:, None] * 2
    points = films(ramp)
    assert points.shape == (3, 2)
    assert points[0] == pytest.approx([15.0, 2 * 15 / 16])
    assert points[1] == pytest.approx([31.0, 2.0])


def test_the_observer_keeps_what_the_last_layer_reads() -> None:
    torch.manual_seed(0)
    reader = FaceReader(ReaderConfig(px=64, outputs=PROBE.outputs, widths=(8, 8, 16), squeezed=8, hidden=32))
    frames = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    seen = Observer(Probe(reader, {})).read(frames)
    last = [layer for layer in reader.head if isinstance(layer, nn.Linear)][-1]
    outputs = last(torch.from_numpy(seen.features)).detach().numpy()
    assert seen.features.shape == (3, 32)
    assert seen.reading.head == pytest.approx(outputs[:, -5:-2] * 10, abs=1e-4)


def test_jerkiness_of_noise_and_of_steady_motion() -> None:
    noise = np.random.default_rng(0).normal(size=(4000, 4, 2))
    steady = np.cumsum(np.ones((50, 4, 2)), 0)
    assert motion.jerkiness(noise) == pytest.approx(10, rel=0.05)
    assert motion.jerkiness(steady) == pytest.approx(0, abs=1e-9)


def test_seams_are_found_where_blocks_end() -> None:
    """Grey rises by 1 a frame, and by 3 across the edges of blocks of 4, the first one of 2 frames."""
    edges = motion.block_edges(22, 2, 4)
    assert np.flatnonzero(edges).tolist() == [1, 5, 9, 13, 17]
    level = np.concatenate([[0], np.cumsum(np.where(edges, 3, 1))])
    frames = np.broadcast_to(level[:, None, None, None], (22, 8, 8, 3)).astype(np.uint8)
    assert motion.seam_ratio([motion.seam(frames, edges)]) == pytest.approx(3.0)
    assert np.isnan(motion.seam_ratio([motion.Seam()]))


def test_head_energy_is_kept_apart_by_state() -> None:
    time_s = np.arange(400) / FPS
    state = np.repeat([0, 1], 200).astype(np.int8)
    head = np.zeros((400, 3), np.float32)
    head[:, 0] = 5 * np.sin(2 * np.pi * 0.5 * time_s)
    twice = head * np.where(state == 1, 2.0, 1.0)[:, None].astype(np.float32)
    speaking, listening, idle = motion.head_energy([motion.head_speed(twice, state)], [motion.head_speed(head, state)])
    assert speaking == pytest.approx(1.0, rel=0.05)
    assert listening == pytest.approx(4.0, rel=0.05)
    assert np.isnan(idle)


_POINTS = {
    "eye_right_outer": (0.34, 0.45), "eye_right_inner": (0.42, 0.45), "eye_left_inner": (0.58, 0.45),
    "eye_left_outer": (0.66, 0.45), "mouth_right": (0.4, 0.68), "mouth_left": (0.6, 0.68),
}  # fmt: skip


def _face(
    seed: int, shift: tuple[float, float] = (0.0, 0.0), scale: float = 1.0, mouth_px: int = 2, side: int = 96
) -> tuple[np.ndarray, np.ndarray]:
    """A drawn face with brows, eyes and nose of its own: its picture and its landmarks."""
    rng = np.random.default_rng(seed)
    picture = np.full((side, side, 3), rng.integers(90, 200, 3), np.uint8)
    colour = rng.integers(0, 90, 3).tolist()
    eye, brow, tilt, nose = rng.uniform((0.03, 0.06, -0.05, -0.05), (0.07, 0.13, 0.05, 0.05))
    thick = max(1, round(rng.uniform(1, 5) * scale))

    def place(x: float, y: float) -> np.ndarray:
        return scale * (np.array([x, y]) - 0.5) + 0.5 + shift

    def at(x: float, y: float) -> list[int]:
        return np.round(place(x, y) * side).astype(int).tolist()

    for sign in (-1, 1):
        cv2.circle(picture, at(0.5 + sign * 0.12, 0.45), int(eye * side * scale), colour, -1)
        cv2.line(picture, at(0.5 + sign * 0.06, 0.45 - brow), at(0.5 + sign * 0.2, 0.45 - brow + tilt), colour, thick)
    cv2.line(picture, at(0.5, 0.45), at(0.5 + nose, 0.58), colour, 2)
    cv2.ellipse(picture, at(0.5, 0.68), (int(0.1 * side * scale), mouth_px), 0, 0, 360, colour, -1)
    points = np.full((28, 2), 0.5, np.float32)
    for name, where in _POINTS.items():
        points[INDEX[name]] = place(*where)
    return picture, points


def test_a_face_is_itself_wherever_it_is_and_whatever_it_says() -> None:
    rest = describe(*_face(1))
    moved = describe(*_face(1, shift=(0.06, -0.05), scale=1.1, mouth_px=9))
    others = [float(rest @ describe(*_face(seed))) for seed in range(2, 8)]
    assert float(np.linalg.norm(rest)) == pytest.approx(1)
    assert float(rest @ moved) > max(others)


def test_alignment_puts_the_eyes_where_they_belong() -> None:
    picture, points = _face(3, shift=(0.1, 0.05), scale=0.8)
    face = upright(picture, points).astype(int)
    eye, cheek = face[27, 21], face[50, 21]
    assert cheek - eye > 30


def test_identity_is_one_for_true_frames_and_zero_for_others() -> None:
    portraits = [np.array(v, np.float32) for v in ([1, 0, 0], [0, 1, 0], [0.6, 0.8, 0])]
    truth = [p[None] for p in portraits]
    telling = tell(truth, portraits, ["a", "b", "c"])
    assert telling.same == pytest.approx(1) and telling.other == pytest.approx((0 + 0.6 + 0.8) / 3)
    assert telling.auc == 1.0
    gallery = Gallery.of(portraits, ["a", "b", "c"], truth)
    assert gallery.identity(truth) == pytest.approx(1) and gallery.recognised(truth) == 1.0
    swapped = [truth[1], truth[0], truth[2]]
    assert gallery.recognised(swapped) == pytest.approx(1 / 3)
    assert np.isnan(tell(truth, portraits, ["a", "a", "a"]).auc)


def test_a_trend_is_flat_only_within_its_noise() -> None:
    minutes = np.arange(50) * 0.2
    noise = np.random.default_rng(1).normal(0, 0.1, 50)
    still, rising = trend(minutes, 2 + noise), trend(minutes, 2 + 0.05 * minutes + noise)
    assert still.flat and still.mean == pytest.approx(2, abs=0.05)
    assert not rising.flat and rising.slope_per_10min == pytest.approx(0.5, abs=0.12)
    assert still.band == pytest.approx(1.96 * 0.1 / np.sqrt(5), rel=0.25)
    assert trend([0.1, 0.3], [1.0, 5.0]).flat


def test_differences_are_told_from_luck() -> None:
    """Rows of numbers stand for clips: one is better in every clip by 1, the other only on average by a little."""
    rng = np.random.default_rng(0)
    truth = [0.0] * 30
    base = rng.normal(0, 5, 30)
    mean = Figure("mean", lambda c, t, i: (c, 1.0), lambda s: s[0] / s[1], float("inf"))
    near_four = Figure("near", lambda c, t, i: (c, 1.0), lambda s: s[0] / s[1], 4.0)
    better, near = compare_rows(base, base + 1 + rng.normal(0, 0.1, 30), truth, [mean, near_four])
    assert better.difference == pytest.approx(1, abs=0.1) and better.verdict == "better"
    assert better.low < 1 < better.high and better.high - better.low < 0.2
    assert near.verdict == "better"
    luck = compare_rows(base, rng.permutation(base) + 0.1, truth, [mean])[0]
    assert luck.verdict == "" and luck.low < 0 < luck.high
    less = Figure("less", lambda c, t, i: (c, 1.0), lambda s: s[0] / s[1], float("-inf"))
    assert compare_rows(base, base + 1, truth, [less])[0].verdict == "worse"
