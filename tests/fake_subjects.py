"""A person of coloured ellipses with exact flow, and a performance for it: the data engine tested without GL."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from engine.portrait.landmarks import INDEX, LANDMARKS
from engine.types import FPS, SAMPLES_PER_FRAME
from training.data.clips import identity_grid
from training.data.people import Sources, SubjectPlan
from training.data.truth import UNIT, Drawn, Floats, FramePose, Performance, Phone

_CENTRE, _MOUTH = np.array([0.5, 0.52], np.float32), np.array([0.5, 0.66], np.float32)


class FakeSubject:
    """The face moves with yaw and pitch (0.004 of the picture a degree); the mouth opens with jawOpen."""

    kind = "head"

    def __init__(self, seed: int, size: int) -> None:
        self.name = f"fake-{seed}"
        self._size = size
        self._colours = np.random.default_rng(seed).integers(60, 230, (2, 3)).astype(np.uint8)
        self._reference_shift = np.zeros(2, np.float32)

    def set_reference(self, pose: FramePose | None) -> Drawn:
        self._reference_shift = self._shift(pose or FramePose.rest())
        return self.draw(pose or FramePose.rest())

    def draw(self, pose: FramePose, truth: bool = False) -> Drawn:
        shift, opening = self._shift(pose), float(pose.units[UNIT["jawOpen"]])
        grid = identity_grid(self._size)
        face = _ellipse(grid, _CENTRE + shift, (0.26, 0.34))
        mouth = _ellipse(grid, _MOUTH + shift, (0.08, 0.005 + 0.06 * opening))
        image = np.where(face[..., None], self._colours[0], self._colours[1])
        image = np.where(mouth[..., None], self._colours[0] // 4, image).astype(np.uint8)
        landmarks = _landmarks(shift, opening)
        return Drawn(image, landmarks, *self._maps(shift, opening)) if truth else Drawn(image, landmarks)

    def close(self) -> None:
        self._colours = np.zeros((2, 3), np.uint8)

    def _maps(self, shift: Floats, opening: float) -> tuple[Floats, Floats, Floats]:
        grid = identity_grid()
        face = _ellipse(grid, _CENTRE + shift, (0.26, 0.34))
        mouth = _ellipse(grid, _MOUTH + shift, (0.08, 0.005 + 0.06 * opening)).astype(np.float32)
        flow = np.where(face[..., None], grid - shift + self._reference_shift, grid).astype(np.float32)
        return flow, 1.0 - mouth, mouth

    def _shift(self, pose: FramePose) -> Floats:
        return (0.004 * pose.head[:2]).astype(np.float32)


def _ellipse(grid: Floats, centre: Floats, radii: tuple[float, float]) -> np.ndarray:
    return (((grid - centre) / radii) ** 2).sum(-1) < 1.0


def _landmarks(shift: Floats, opening: float) -> Floats:
    points = np.tile(_CENTRE, (len(LANDMARKS), 1)).astype(np.float32)
    points[INDEX["forehead"]] = _CENTRE - (0, 0.3)
    points[INDEX["chin"]] = _CENTRE + (0, 0.3)
    points[INDEX["lip_upper_inner"]] = _MOUTH - (0, 0.06 * opening)
    points[INDEX["lip_lower_inner"]] = _MOUTH + (0, 0.06 * opening)
    return points + shift


def fake_performance(seed: int, seconds: float, split: str = "train", cache: Path | None = None) -> Performance:
    """Half speaking with an open-close jaw and a tone that follows it, then listening, with two blinks."""
    frames = round(seconds * FPS)
    rng = np.random.default_rng(seed)
    speaking = np.arange(frames) < frames // 2
    jaw = np.where(speaking, 0.5 - 0.5 * np.cos(np.arange(frames) * rng.uniform(0.5, 1.0)), 0.0)
    units = np.zeros((frames, len(UNIT)), np.float32)
    units[:, UNIT["jawOpen"]] = jaw
    for at in (frames // 4, 3 * frames // 4):
        units[at : at + 2, [UNIT["eyeBlinkLeft"], UNIT["eyeBlinkRight"]]] = 1.0
    head = np.cumsum(rng.normal(0, 0.5, (frames, 3)), 0)
    tone = 0.4 * np.sin(np.arange(frames * SAMPLES_PER_FRAME) * 0.05)
    return Performance(
        units=units,
        head=head.astype(np.float32),
        gaze=rng.normal(0, 2, (frames, 2)).astype(np.float32),
        tongue=np.zeros(frames, np.float32),
        state=np.where(speaking, 0, 1).astype(np.int8),
        expression=np.zeros((frames, 8), np.float32),
        voice=(tone * np.repeat(jaw, SAMPLES_PER_FRAME)).astype(np.float32),
        partner=(tone * np.repeat(~speaking, SAMPLES_PER_FRAME)).astype(np.float32),
        phones=(Phone("a", 0.0, 0.1),),
        meta={"voice": f"fake-{seed % 3}", "text": "a", "seed": seed},
    )


def open_fake(wanted: SubjectPlan, size: int, assets: Path | None, cache: Path) -> FakeSubject:
    return FakeSubject(wanted.seed, size)


def open_fragile(wanted: SubjectPlan, size: int, assets: Path | None, cache: Path) -> FakeSubject:
    """Two of three subjects cannot be set up."""
    if wanted.seed % 3:
        raise RuntimeError("no face fits")
    return FakeSubject(wanted.seed, size)


def open_never(wanted: SubjectPlan, size: int, assets: Path | None, cache: Path) -> FakeSubject:
    raise RuntimeError("no OpenGL here")


def open_deadly_once(wanted: SubjectPlan, size: int, assets: Path | None, cache: Path) -> FakeSubject:
    """The first process to come here dies, as after a fault of a graphics driver."""
    cache.mkdir(parents=True, exist_ok=True)
    mark = cache / "died"
    if not mark.exists():
        mark.touch()
        os._exit(11)
    return FakeSubject(wanted.seed, size)


def no_portraits(assets: Path, split: str, cache: Path) -> list[Path]:
    return []


FAKES = Sources(open_fake, fake_performance, no_portraits)
FRAGILE = Sources(open_fragile, fake_performance, no_portraits)
HOPELESS = Sources(open_never, fake_performance, no_portraits)
DEADLY = Sources(open_deadly_once, fake_performance, no_portraits)
