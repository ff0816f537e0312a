"""Sample grids: rows of pictures as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor


def to_uint8(images: Tensor) -> np.ndarray:
    """[N, 3, H, W] in [-1, 1] to uint8 [N, H, W, 3]."""
    scaled = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return scaled.permute(0, 2, 3, 1).cpu().numpy()


def save_grid(rows: Sequence[Tensor], path: Path) -> None:
    """Each row is [N, 3, H, W] in [-1, 1]."""
    lines = [np.concatenate(list(to_uint8(row)), axis=1) for row in rows]
    Image.fromarray(np.concatenate(lines, axis=0)).save(path)
