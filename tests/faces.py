"""A drawn face that the detector takes for one, so that tests need no photograph."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_SKIN, _SHADE, _DARK, _LIP, _WALL = (214, 170, 140), (176, 128, 100), (50, 36, 32), (160, 80, 78), (120, 140, 150)


def draw_face(side_px: int) -> Image.Image:
    """A frontal face that fills most of a square picture."""
    image = Image.new("RGB", (400, 400), _WALL)
    draw = ImageDraw.Draw(image)
    draw.ellipse((85, 20, 315, 330), fill=_DARK)
    draw.ellipse((100, 50, 300, 350), fill=_SKIN)
    for x in (150, 250):
        draw.ellipse((x - 34, 140, x + 34, 190), fill=_SHADE)
        draw.rectangle((x - 34, 134, x + 34, 143), fill=_DARK)
        draw.ellipse((x - 22, 155, x + 22, 178), fill=(240, 236, 230))
        draw.ellipse((x - 12, 154, x + 12, 179), fill=_DARK)
    draw.polygon(((193, 160), (207, 160), (224, 238), (176, 238)), fill=(226, 184, 154))
    draw.ellipse((174, 228, 226, 250), fill=_SHADE)
    draw.ellipse((155, 274, 245, 306), fill=_LIP)
    draw.rectangle((160, 288, 240, 292), fill=_DARK)
    return image.filter(ImageFilter.GaussianBlur(4)).resize((side_px, side_px), Image.Resampling.LANCZOS)


def draw_crowd(faces: int, side_px: int) -> Image.Image:
    """Faces of one size in a row, with wall around them."""
    image = Image.new("RGB", (side_px * faces + side_px // 2, side_px * 2), _WALL)
    for i in range(faces):
        image.paste(draw_face(side_px), (side_px // 4 + i * side_px, side_px // 2))
    return image


def noise_picture(side_px: int) -> Image.Image:
    """A picture of nothing."""
    random = np.random.default_rng(5)
    return Image.fromarray(random.integers(0, 255, (side_px, side_px, 3), np.uint8))
