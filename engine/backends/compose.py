"""The last step of decoding, at full size: move the portrait's pixels by the flow and lay the painted parts over them.

The networks work on coarse grids (see engine.model.codec); only this touches every pixel, in fixed-point arithmetic
that every CPU does quickly. It agrees with the torch decoder to better than 50 dB.
Moving is by cubic convolution (Keys, IEEE Trans. ASSP 29, 1981, with a = -0.75 as in torch): bilinear weights keep less
than half of the energy of a face's finest detail, these two thirds.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Floats
from engine.portrait.planes import to_pixels


def compose(displacement: Floats, paint: Floats, portrait: Floats) -> NDArray[np.uint8]:
    """RGB pictures [F, P, P, 3] from what the decoder's graph predicts.

    displacement [F, 2, g, g]: how far to look aside in the portrait, in halves of its side, x first. paint
    [F, 4, h, h]: RGB in [-1, 1] and, in [0, 1], how much of the moved portrait shows. portrait [1, 3, P, P] in [-1, 1],
    or [1, 4, P, P] with the opacity of engine.portrait.matte, which moves along: then the pictures are [F, P, P, 4].
    """
    side = portrait.shape[-1]
    picture = to_pixels(portrait[0])
    place = _pixel_positions(side)
    out = np.empty((len(displacement), side, side, picture.shape[-1]), np.uint8)
    for flow, layers, image in zip(displacement, paint, out, strict=True):
        shift = cv2.resize(flow.transpose(1, 2, 0) * np.float32(side / 2), (side, side))
        moved = cv2.remap(picture, cv2.add(shift, place), None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        painted = cv2.resize(to_pixels(layers[:3]), (side, side))
        if moved.shape[-1] == 4:
            # What is painted lies inside the outline, or is background; the flow knows which.
            painted = np.dstack((painted, moved[..., 3]))
        shows = cv2.resize(layers[3], (side, side))
        cv2.blendLinear(moved, painted, shows, 1 - shows, image)
    return out


@lru_cache(maxsize=4)
def _pixel_positions(side: int) -> Floats:
    """Column and row of every pixel, [side, side, 2]."""
    line = np.arange(side, dtype=np.float32)
    return np.stack(np.meshgrid(line, line), -1)
