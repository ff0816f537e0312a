"""Cuts the person of a portrait out of its background, once, so that frames can be shown on anything.

The canonical crop says where the face is; GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH 2004) decides between colours
of the person and of the background from there; a guided filter (He, Sun and Tang, ECCV 2010) gives its hard edge the
softness that the picture has. Colours of the edge are freed from the background in them by blurred estimates of both
layers (Forte, ICIP 2021). The decoder's flow then moves the matte as it moves the pixels; see engine.backends.compose.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_CUT_PX = 256
"""Side at which person and background are told apart; the edge is then found again at the picture's own size."""
_ROUNDS = 5
_STRIPE_PX = 17

_FACE = ((0.5, 0.56), (0.155, 0.235))
_SKULL = ((0.5, 0.42), (0.175, 0.24))
_HEAD = ((0.5, 0.50), (0.33, 0.42))
_SHOULDERS = ((0.5, 1.12), (0.52, 0.28))
"""Ellipses as centre and half axes, fractions of the canonical crop (see engine.portrait.crop): the first is skin in
any portrait, the second is head even where there is no hair, the others hold most heads with their hair, and most
shoulders."""
_NECK_HALF = 0.08
_CHIN_Y = 0.80
_SIDE_STRIP, _STRIP_END_Y = 0.05, 0.60
"""What lies beside the head at the crop's edges, down to the shoulders, is background."""
_COLOURS = 5
"""Gaussians for the colours of the person, and as many for the background's."""
_ANY_COLOUR = -14.0
"""Logarithm of how likely a region is to hold a colour that was not seen in it; about one in as many colours as are."""
_MOST_EVIDENCE, _PLACE_WEIGHT = 6.0, 4.0
"""How much a colour can say, in natural logarithms, and the weight of the place beside it."""

_BAND = 0.02
"""Half the width of the strip along the edge whose opacity is found anew, as a fraction of the side."""
_EDGE_RADIUS = 0.02
_EDGE_EPSILON = 1e-4
"""Radius of the guided filter as a fraction of the side, and the variance of colour that it takes for flat."""
_STEEPNESS = 1.6
"""The filter leaves a veil on both sides of an edge; opacity is stretched by this about one half."""
_BLURS = (0.18, 0.012)
"""Windows of the two passes of colour estimation, as fractions of the side."""


def cut_out(picture: Pixels) -> Pixels:
    """The person of a canonical crop, RGB uint8 [P, P, 3], as RGBA uint8 [P, P, 4], the colours not multiplied by their
    opacity. Takes about half a second, most of it whatever P is.
    """
    guide = picture.astype(np.float32) / np.float32(255)
    opacity = _soften(_tell_apart(picture), guide)
    return _to_bytes(np.dstack((_free_colours(guide, opacity), opacity)))


def _tell_apart(picture: Pixels) -> Pixels:
    """1 where the person is and 0 elsewhere, uint8 [256, 256]."""
    small = cv2.resize(picture, (_CUT_PX, _CUT_PX), interpolation=cv2.INTER_AREA)
    # Means of colours are started at random places; a portrait must be cut the same way every time.
    cv2.setRNGSeed(0)
    labels = _guess(cv2.GaussianBlur(small, (0, 0), 1.0))
    cv2.grabCut(small, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), _ROUNDS, cv2.GC_INIT_WITH_MASK)
    return _one_piece(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8))


def _guess(small: Pixels) -> Pixels:
    """GrabCut's labels [256, 256] to begin with: what lies in the middle is the person, what lies at the sides is not,
    and what has the colours of either, or lies nearer to it, probably belongs to it. GrabCut alone would count long
    hair among the colours of the background, and never find it.
    """
    line = (np.arange(_CUT_PX, dtype=np.float32) + np.float32(0.5)) / np.float32(_CUT_PX)
    x, y = line[None], line[:, None]
    neck = (y > _CHIN_Y) & (np.abs(x - 0.5) < _NECK_HALF)
    person = _distance(_FACE, x, y) < 1
    person |= (_distance(_SKULL, x, y) < 1) | neck
    background = (np.minimum(x, 1 - x) < _SIDE_STRIP) & (y < _STRIP_END_Y)
    near = 1 - np.minimum(_distance(_HEAD, x, y), _distance(_SHOULDERS, x, y))
    evidence = _likelihood(small, person) - _likelihood(small, background)
    likely = evidence.clip(-_MOST_EVIDENCE, _MOST_EVIDENCE) + _PLACE_WEIGHT * near > 0
    labels = np.where(likely, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[background], labels[person] = cv2.GC_BGD, cv2.GC_FGD
    return labels


def _likelihood(small: Pixels, where: NDArray[np.bool_]) -> Floats:
    """Logarithm of how likely each colour is among those of a region, [256, 256], by a mixture of Gaussians."""
    colours = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    model: Any = cv2.ml.EM_create()  # type: ignore[attr-defined]
    model.setClustersNumber(_COLOURS)
    model.setTermCriteria((cv2.TERM_CRITERIA_COUNT, _ROUNDS, 0))
    model.trainEM(colours[where] + np.random.default_rng(0).normal(0, 2, (int(where.sum()), 3)).astype(np.float32))
    weights = np.log(model.getWeights().ravel())
    terms = [
        weight - 0.5 * (np.log(np.linalg.det(spread)) + _squared(colours - mean, np.linalg.inv(spread)))
        for weight, mean, spread in zip(weights, model.getMeans(), model.getCovs(), strict=True)
    ]
    return np.asarray(np.logaddexp(np.logaddexp.reduce(terms), _ANY_COLOUR), np.float32)


def _squared(offsets: NDArray[np.floating], inverse: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(((offsets @ inverse) * offsets).sum(-1))


def _distance(ellipse: tuple[tuple[float, float], tuple[float, float]], x: Floats, y: Floats) -> Floats:
    """From the centre, 1 on the ellipse."""
    (centre_x, centre_y), (half_x, half_y) = ellipse
    return np.asarray(np.hypot((x - centre_x) / half_x, (y - centre_y) / half_y), np.float32)


def _one_piece(person: Pixels) -> Pixels:
    """The piece that the face belongs to, its holes filled."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    person = cv2.morphologyEx(person, cv2.MORPH_OPEN, kernel)
    _, pieces = cv2.connectedComponents(person, connectivity=4)
    row, column = round(_FACE[0][1] * _CUT_PX), round(_FACE[0][0] * _CUT_PX)
    whole = (pieces == pieces[row, column]).astype(np.uint8)
    outline, _ = cv2.findContours(whole, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(whole), outline, -1, 1, cv2.FILLED)
    # Stripes of clothes run out of the picture, so that no outline goes around them.
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_STRIPE_PX, _STRIPE_PX))
    below = round(_CHIN_Y * _CUT_PX)
    filled[below:] = cv2.morphologyEx(filled, cv2.MORPH_CLOSE, kernel)[below:]
    return np.asarray(filled, np.uint8)


def _soften(person: Pixels, guide: Floats) -> Floats:
    """Opacity [P, P] in [0, 1]: the hard cut, but along its edge what the picture says."""
    side = len(guide)
    hard = cv2.resize(person.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    soft = _guided(guide, (hard > 0.5).astype(np.float32), max(2, round(_EDGE_RADIUS * side)), _EDGE_EPSILON)
    soft = ((soft - 0.5) * _STEEPNESS + 0.5).clip(0, 1)
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, [2 * max(1, round(_BAND * side)) + 1] * 2)
    inner, outer = cv2.erode(hard, reach), cv2.dilate(hard, reach)
    return np.asarray(np.clip(soft, inner, outer), np.float32)


def _guided(guide: Floats, target: Floats, radius_px: int, epsilon: float) -> Floats:
    """The guided filter with a colour guide [P, P, 3]: in each window, the target as a linear function of colour."""
    window = (2 * radius_px + 1, 2 * radius_px + 1)

    def mean(values: Floats) -> Floats:
        averaged: Floats = cv2.blur(values, window)
        return averaged

    colour = mean(guide)
    level = mean(target)
    shared = mean(guide * target[..., None]) - colour * level[..., None]
    products = mean((guide[..., :, None] * guide[..., None, :]).reshape(*target.shape, 9)).reshape(*target.shape, 3, 3)
    spread = products - colour[..., :, None] * colour[..., None, :] + epsilon * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(spread, shared[..., None])[..., 0].astype(np.float32)
    offset = level - (slope * colour).sum(-1)
    return np.asarray((mean(slope) * guide).sum(-1) + mean(offset), np.float32)


def _free_colours(picture: Floats, opacity: Floats) -> Floats:
    """Colours of the person alone [P, P, 3], first from far around and then from near."""
    side, share = len(picture), opacity[..., None]
    person = background = picture
    for window in (max(3, round(fraction * side)) for fraction in _BLURS):
        person = _blurred(person, share, window)
        background = _blurred(background, 1 - share, window)
        person = person + share * (picture - share * person - (1 - share) * background)
        person = person.clip(0, 1)
    return np.asarray(person, np.float32)


def _blurred(colours: Floats, weight: Floats, window_px: int) -> Floats:
    """Mean colour around each pixel, by weight [P, P, 1]."""
    window = (window_px, window_px)
    total = cv2.blur(np.ascontiguousarray(weight), window)[..., None]
    return np.asarray(cv2.blur(colours * weight, window) / (total + 1e-4), np.float32)


def _to_bytes(values: Floats) -> Pixels:
    return np.asarray(np.round(values.clip(0, 1) * 255), np.uint8)
