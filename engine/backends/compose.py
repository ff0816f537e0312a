"""The last step of decoding, at full size: move the portrait's pixels by the flow and lay the painted parts over them.

The networks work on coarse grids (see engine.model.codec); only this touches every pixel, in fixed-point arithmetic
that every CPU does quickly. It agrees with the torch decoder to better than 50 dB.
Moving is by cubic convolution: bilinear weights keep less than half of the energy of a face's finest detail, these two
thirds. See engine.portrait.enlarge for how it comes at the price of bilinear sampling.
"""

from __future__ import annotations

from functools import lru_cache
from weakref import ref

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Floats
from engine.portrait.enlarge import SCALE, enlarge
from engine.portrait.planes import to_pixels


def compose(displacement: Floats, paint: Floats, portrait: Floats) -> NDArray[np.uint8]:
    """RGB pictures [F, P, P, 3] from what the decoder's graph predicts.

    displacement [F, 2, g, g]: how far to look aside in the portrait, in halves of its side, x first. paint
    [F, 4, h, h]: RGB in [-1, 1] and, in [0, 1], how much of the moved portrait shows. portrait [1, 3, P, P] in [-1, 1],
    or [1, 4, P, P] with the opacity of engine.portrait.matte, which moves along: then the pictures are [F, P, P, 4].
    It is filtered when it is first met, so pass the same array again and do not write to it.
    """
    side = portrait.shape[-1]
    picture = _enlarged(portrait)
    opacity = to_pixels(portrait[0, 3:]) if portrait.shape[1] > 3 else None
    place = _places(side)
    out = np.empty((len(displacement), side, side, 3 if opacity is None else 4), np.uint8)
    for flow, layers, image in zip(displacement, paint, out, strict=True):
        shift = cv2.resize(flow.transpose(1, 2, 0) * np.float32(SCALE * side / 2), (side, side))
        positions = cv2.add(shift, place, shift)
        moved = cv2.remap(picture, positions, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        painted = cv2.resize(to_pixels(layers[:3]), (side, side))
        shows = cv2.resize(layers[3], (side, side))
        if opacity is None:
            cv2.blendLinear(moved, painted, shows, 1 - shows, image)
        else:
            # What is painted lies inside the outline, or is background: the flow alone knows where the outline is.
            colours = cv2.blendLinear(moved, painted, shows, 1 - shows)
            places = positions * np.float32(1 / SCALE)
            outline = cv2.remap(opacity, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            cv2.merge((*cv2.split(colours), outline), image)
    return out


@lru_cache(maxsize=4)
def _places(side: int) -> Floats:
    """Column and row of every pixel in the enlarged portrait, [side, side, 2]."""
    line = SCALE * np.arange(side, dtype=np.float32)
    return np.stack(np.meshgrid(line, line), -1)


_known: dict[int, tuple[ref[Floats], NDArray[np.uint8]]] = {}
"""Enlarged portraits by the identity of the array; each leaves with its array."""


def _enlarged(portrait: Floats) -> NDArray[np.uint8]:
    key = id(portrait)
    known = _known.get(key)
    # An array may have the address of one that has just gone.
    if known is not None and known[0]() is portrait:
        return known[1]
    picture = enlarge(to_pixels(portrait[0, :3]))
    _known[key] = (ref(portrait, lambda gone: _forget(key, gone)), picture)
    return picture


def _forget(key: int, gone: ref[Floats]) -> None:
    if key in _known and _known[key][0] is gone:
        del _known[key]
