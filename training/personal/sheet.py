"""Held-out frames beside what the decoder made of them before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.model.codec import PortraitCodec
from training.codec import to_tensor
from training.grids import save_grid
from training.personal.measure import reconstruct
from training.personal.pairs import PersonPairs

_COLUMNS = 6


def save_sheet(before: PortraitCodec, after: PortraitCodec, sources: Sequence[PersonPairs], path: Path) -> None:
    """A PNG with a row each of true frames, before and after, of the first source."""
    held_out = sources[0].split()[1]
    shown = held_out.part(np.linspace(0, len(held_out) - 1, min(_COLUMNS, len(held_out))).astype(int))
    save_grid([to_tensor(shown.frames), reconstruct(before, shown), reconstruct(after, shown)], path)
