"""Moving a portrait's pixels and laying paint over them: sharp, and filtered once a portrait."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from faces import draw_face
from numpy.typing import NDArray

from engine.backends import compose as composing
from engine.backends.compose import compose
from engine.portrait.enlarge import enlarge
from engine.portrait.planes import to_planes

SIDE = 96


def grainy(side: int = SIDE) -> NDArray[np.uint8]:
    """A face with grain as fine as a photograph's."""
    grain = np.random.default_rng(3).normal(0, 25, (side, side, 1))
    soft = cv2.GaussianBlur(grain, (0, 0), 0.7)[..., None]
    return np.clip(np.asarray(draw_face(side)) + soft, 0, 255).astype(np.uint8)


def moved(picture: NDArray[np.uint8], shift: float, how: int) -> NDArray[np.uint8]:
    line = np.arange(len(picture), dtype=np.float32)
    columns, rows = np.meshgrid(line + np.float32(shift), line + np.float32(shift))
    return np.asarray(cv2.remap(picture, columns, rows, how, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def shown(portrait: NDArray[np.float32], shift: float, mask: float = 1.0) -> NDArray[np.uint8]:
    """By compose: everything aside by `shift` pixels, under black paint where the mask is not 1."""
    displacement = np.full((1, 2, 8, 8), shift * 2 / portrait.shape[-1], np.float32)
    paint = np.full((1, 4, 16, 16), -1, np.float32)
    paint[:, 3] = mask
    return compose(displacement, paint, portrait)[0]


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("shift", [0.0, 0.125, 0.25, 0.5, 2.75])
def test_pixels_are_moved_as_by_cubic_convolution(shift: float) -> None:
    picture = grainy()
    cubic = moved(picture, shift, cv2.INTER_CUBIC)
    result = shown(to_planes(picture), shift)
    assert psnr_db(result, cubic) > 40
    if shift % 1:
        assert psnr_db(result, cubic) > psnr_db(moved(picture, shift, cv2.INTER_LINEAR), cubic) + 5


def test_fine_detail_outlasts_being_moved() -> None:
    picture = grainy()

    def detail(image: NDArray[np.uint8]) -> float:
        pixels = image.astype(np.float32)
        return float((pixels - cv2.GaussianBlur(pixels, (0, 0), 1)).var())

    shifts = np.arange(16) / 16
    kept, cubic = (
        np.mean([detail(image) for image in images])
        for images in (
            [shown(to_planes(picture), shift) for shift in shifts],
            [moved(picture, shift, cv2.INTER_CUBIC) for shift in shifts],
        )
    )
    assert kept == pytest.approx(cubic, rel=0.08)


def test_an_even_picture_stays_even() -> None:
    flat = np.full((40, 30, 3), (7, 130, 255), np.uint8)
    assert (enlarge(flat) == np.asarray((7, 130, 255))).all() and enlarge(flat).shape == (80, 60, 3)


def test_paint_covers_what_the_mask_hides() -> None:
    picture = grainy()
    assert shown(to_planes(picture), 0.0, mask=0.0).max() == 0
    half = shown(to_planes(picture), 0.0, mask=0.5)
    assert np.abs(half - 0.5 * shown(to_planes(picture), 0.0)).max() <= 1


def test_a_portrait_is_filtered_once_and_forgotten_with_its_array(monkeypatch: pytest.MonkeyPatch) -> None:
    filtered = []
    monkeypatch.setattr(composing, "enlarge", lambda picture: filtered.append(1) or enlarge(picture))
    known = len(composing._known)
    one, other = to_planes(grainy()), to_planes(255 - grainy())
    first, second = shown(one, 0.3), shown(one, 0.6)
    assert len(filtered) == 1 and not np.array_equal(first, second)
    assert not np.array_equal(shown(other, 0.3), first) and len(filtered) == 2
    del one, other
    assert len(composing._known) == known
