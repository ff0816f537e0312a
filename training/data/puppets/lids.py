"""A second picture of the person with both eyes shut, made from the skin around them.

An open lid is a few pixels of lashes and crease; stretched over a shut eye it would be a dark smear. So the opening
and its lashes are filled with the skin that surrounds them (a membrane: Laplace's equation with that skin as its
border, as in Perez et al., Poisson Image Editing, SIGGRAPH 2003), given the grain of the cheek, the shade of a rounded
lid, its crease, and lashes along the line where the rig's lids meet.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.puppets.eyes import OUTLINES

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_PATCH_PX = 56
"""Width at which the membrane is solved; skin under it has no finer shape."""
_ROUNDS = 400
_CHEEK = {"right": 50, "left": 280}
_LASHES = 26


def shut_eyes(texture: Bytes, points: Floats, seams: dict[str, Floats], pad_px: int) -> Bytes:
    """The texture [W, W, 3] with both eyes shut.

    points [478, 2]: landmarks in fractions of the crop, which lies pad_px inside the texture. seams: by side, the line
    [n, 2] on which the lids meet, in the same fractions, by rising x.
    """
    out = texture.copy()
    side_px = len(texture) - 2 * pad_px
    for side, (outline, _) in OUTLINES.items():
        opening = points[list(outline)] * side_px + pad_px
        cheek = points[_CHEEK[side]] * side_px + pad_px
        _shut_one(out, opening, seams[side] * side_px + pad_px, cheek)
    return out


def _shut_one(picture: Bytes, opening: Floats, seam: Floats, cheek: Floats) -> None:
    width = float(np.ptp(opening[:, 0]))
    low, high = opening.min(0) - 0.55 * width, np.maximum(opening.max(0), seam.max(0)) + 0.45 * width
    left, top = np.clip(low, 0, len(picture) - 1).astype(int)
    right, bottom = np.clip(high, 0, len(picture)).astype(int)
    if right - left < 8 or bottom - top < 8:
        return
    patch = picture[top:bottom, left:right].astype(np.float32)
    origin = np.array([left, top])
    opening, seam = opening - origin, seam - origin
    hole = _hole(patch.shape[:2], opening, seam)
    skin = membrane(patch, hole) + _grain(picture, cheek, patch.shape[:2], width)
    skin *= _shade(patch.shape[:2], opening, seam)[..., None]
    soft = cv2.GaussianBlur(hole.astype(np.float32), (0, 0), 0.05 * width)[..., None]
    shut = patch + (skin - patch) * np.clip(soft * 1.5, 0, 1)
    lashes = np.minimum(_lash_colour(patch, opening), 0.5 * np.median(skin[hole], axis=0))
    drawn = _lash_cover(patch.shape[:2], seam)[..., None]
    shut += (lashes - shut) * drawn
    picture[top:bottom, left:right] = np.clip(shut + 0.5, 0, 255).astype(np.uint8)


def membrane(patch: Floats, hole: NDArray[np.bool_]) -> Floats:
    """The patch [h, w, 3] with the hole [h, w] filled by Laplace's equation from the bright parts of its border."""
    height, width = patch.shape[:2]
    shape = (_PATCH_PX, max(8, round(_PATCH_PX * height / width)))
    small = cv2.resize(patch, shape, interpolation=cv2.INTER_AREA)
    open_ = cv2.resize(hole.astype(np.float32), shape, interpolation=cv2.INTER_AREA) > 0.05
    light = small.mean(-1)
    near = cv2.dilate(open_.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
    border = light[near & ~open_]
    if border.size:
        # Brows, frames of glasses and lashes are far darker than the skin beside them and must not bleed into it.
        open_ |= near & (light < 0.72 * np.median(border))
    out = small.copy()
    out[open_] = np.median(small[~open_], axis=0) if (~open_).any() else small.mean((0, 1))
    for _ in range(_ROUNDS):
        out[open_] = cv2.blur(out, (3, 3), borderType=cv2.BORDER_REPLICATE)[open_]
    smooth = cv2.resize(out, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth, 0, 255)


def _hole(shape: tuple[int, ...], opening: Floats, seam: Floats) -> NDArray[np.bool_]:
    """The opening, its lashes (longer above) and the strip down to the seam."""
    mask = np.zeros(shape, np.uint8)
    width = float(np.ptp(opening[:, 0]))
    inside = seam[(seam[:, 0] > opening[:, 0].min()) & (seam[:, 0] < opening[:, 0].max())]
    both = np.concatenate([opening, inside]) if len(inside) else opening
    cv2.fillPoly(mask, [np.round(opening).astype(np.int32)], 1)
    cv2.fillPoly(mask, [cv2.convexHull(both.astype(np.float32)).astype(np.int32)], 1)
    grow = max(1, round(0.09 * width))
    mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1)))
    raised = np.zeros_like(mask)
    lift = round(0.06 * width)
    raised[: len(mask) - lift] = mask[lift:]
    return (mask | raised) > 0


def _grain(picture: Bytes, cheek: Floats, shape: tuple[int, ...], width: float) -> Floats:
    """Fine texture [h, w, 3] of the cheek, mirrored where the patch is larger than it."""
    half = max(2, int(0.35 * width))
    x, y = np.clip(cheek.astype(int), half, len(picture) - half - 1)
    skin = picture[y - half : y + half, x - half : x + half].astype(np.float32)
    fine = np.clip(skin - cv2.GaussianBlur(skin, (0, 0), max(1.0, 0.05 * width)), -10, 10)
    rows, columns = (np.abs((np.arange(n) + half) % (4 * half - 2) - (2 * half - 1)) for n in shape[:2])
    return fine[np.minimum(rows, 2 * half - 1)][:, np.minimum(columns, 2 * half - 1)]


def _shade(shape: tuple[int, ...], opening: Floats, seam: Floats) -> Floats:
    """Light on a shut lid [h, w]: brightest on the ball, darker in the crease above and under the lashes."""
    x0, x1 = opening[:, 0].min(), opening[:, 0].max()
    width = x1 - x0
    column, row = np.arange(shape[1]), np.arange(shape[0])[:, None]
    along = np.clip((column - x0) / width, 0, 1)
    arch = np.sin(np.pi * along) ** 0.7
    edge = _line(seam, column)
    upper = opening[opening[:, 1] <= np.interp(opening[:, 0], [x0, x1], _ends(opening))]
    crease = _line(upper[np.argsort(upper[:, 0])], column) - 0.10 * width
    height = np.maximum(edge - crease, 0.12 * width)
    down = (row - crease) / height
    ball = 0.07 * np.sin(np.pi * np.clip(down, 0, 1)) - 0.03
    fold = -0.09 * np.exp(-(((row - crease) / (0.06 * width)) ** 2))
    under = -0.10 * np.exp(-(((row - edge - 0.04 * width) / (0.05 * width)) ** 2))
    return (1 + arch * (ball + fold + under)).astype(np.float32)


def _lash_cover(shape: tuple[int, ...], seam: Floats) -> Floats:
    """Opacity [h, w] of the lash line and its lashes, which fan out downwards."""
    fine = 4
    cover = np.zeros((shape[0] * fine, shape[1] * fine), np.uint8)
    x0, x1 = seam[:, 0].min(), seam[:, 0].max()
    width = x1 - x0
    along = np.linspace(0.03, 0.97, 64)
    line = np.stack([x0 + along * width, _line(seam, x0 + along * width)], 1)
    for k in range(len(line) - 1):
        thick = max(1, round(fine * width * 0.036 * (0.35 + 0.65 * np.sin(np.pi * along[k]))))
        _stroke(cover, line[k : k + 2] * fine, thick, 210)
    for t in np.linspace(0.08, 0.92, _LASHES):
        root = np.array([x0 + t * width, float(_line(seam, x0 + t * width))])
        length = width * (0.075 + 0.025 * np.sin(37.0 * t)) * np.sin(np.pi * (0.15 + 0.7 * t))
        lean = 1.5 * (t - 0.5) + 0.12 * np.sin(91.0 * t)
        tip = root + length * np.array([lean, 1.0]) / np.hypot(lean, 1.0)
        _stroke(cover, np.stack([root, tip]) * fine, max(1, round(0.010 * width * fine)), 150)
    small = cv2.resize(cover, shape[1::-1], interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small.astype(np.float32) / 255, (0, 0), max(0.35, 0.006 * width))


def _stroke(cover: Bytes, ends: Floats, thick_px: int, level: int) -> None:
    own = np.zeros_like(cover)
    cv2.line(own, *(tuple(int(round(v)) for v in end) for end in ends), level, thick_px, cv2.LINE_AA)
    np.maximum(cover, own, out=cover)


def _lash_colour(patch: Floats, opening: Floats) -> Floats:
    """Colour [3] of the darkest of the band around the upper edge of the opening."""
    band = np.zeros(patch.shape[:2], np.uint8)
    width = float(np.ptp(opening[:, 0]))
    edge = opening[
        opening[:, 1] <= np.interp(opening[:, 0], [opening[:, 0].min(), opening[:, 0].max()], _ends(opening))
    ]
    edge = edge[np.argsort(edge[:, 0])]
    cv2.polylines(band, [np.round(edge).astype(np.int32)], False, 1, max(1, round(0.08 * width)))
    dots = patch[band > 0]
    if len(dots) < 4:
        return np.full(3, 40.0, np.float32)
    light = dots.mean(1)
    return dots[light <= np.percentile(light, 20)].mean(0).astype(np.float32)


def _ends(opening: Floats) -> list[float]:
    """Heights of the left and right corners."""
    return [float(opening[opening[:, 0].argmin(), 1]), float(opening[opening[:, 0].argmax(), 1])]


def _line(points: Floats, x: NDArray | float) -> NDArray:
    return np.interp(x, points[:, 0], points[:, 1])
