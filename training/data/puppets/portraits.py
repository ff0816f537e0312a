"""Which photographs make good puppets, and which people are kept back for testing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from training.data.held_out import TEST_PORTRAITS
from training.data.puppets.errors import AssetsMissing, PortraitUnusable
from training.data.puppets.eyes import OUTLINES
from training.data.puppets.paint import CHEEKS
from training.data.puppets.photo import PhotoFace, analyse_photo, crop_texture, read_photo

Split = Literal["train", "test"]

FOLDERS = ("cc0", "stills")
_LOOK_PX = 256
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

# Looked at one by one: mirrored glasses, hair, hands or a straw over the face, drawn faces.
# 098 looks like the test person 088, office-woman is opentalking-woman's picture again.
_REJECTED = frozenset(
    "010 023 042 051 052 075 092 094 echomimic_v3-139 echomimic_v3-140 echomimic_v3-141 "
    "echomimic_v2-098 opentalking-office-woman".split()
)


@dataclass(frozen=True, slots=True)
class Screening:
    """Limits a portrait must keep.

    Shares are of the crop's side, lip_gap_share of the face's width.
    eye_brightness: of the brightest part of the eyes over that of the cheeks; sunglasses are below 0.3.
    """

    yaw_deg: float = 19.0
    pitch_deg: float = 20.0
    lip_gap_share: float = 0.10
    face_px: float = 100.0
    outside_share: float = 0.12
    fit_error: float = 0.022
    eye_brightness: float = 0.42


def list_portraits(assets: Path, split: Split | None = None, cache: Path | None = None) -> tuple[Path, ...]:
    """Usable portraits under `assets`/portraits in a stable order. split: "train", "test", or None for both.

    cache: folder for what was found on each photograph (also used by PuppetSubject). Raises AssetsMissing.
    """
    root = Path(assets) / "portraits"
    if not root.is_dir():
        raise AssetsMissing(f"{root} is missing; pass --assets with a folder that holds portraits/")
    usable = _usable(root, Path(assets), cache)
    return tuple(path for path in usable if split is None or (path.stem in TEST_PORTRAITS) == (split == "test"))


@lru_cache(maxsize=8)
def _usable(root: Path, assets: Path, cache: Path | None) -> tuple[Path, ...]:
    paths = [p for f in FOLDERS for p in sorted((root / f).glob("*")) if p.suffix.lower() in _SUFFIXES]
    return tuple(p for p in paths if p.stem not in _REJECTED and why_unusable(p, assets, cache) is None)


def why_unusable(path: Path, assets: Path, cache: Path | None = None, limits: Screening | None = None) -> str | None:
    """What is wrong with a portrait, in words; None when it can become a puppet."""
    try:
        face = analyse_photo(path, assets, cache)
    except PortraitUnusable as error:
        return str(error)
    return screen(face, limits or Screening()) or _hidden_eyes(path, face, limits or Screening())


def screen(face: PhotoFace, limits: Screening) -> str | None:
    """The checks that need no pixels."""
    yaw, pitch = head_angles_deg(face)
    gap = float(np.abs(face.points[13] - face.points[14]).max() / np.ptp(face.points[:468, 0]))
    crop = face.crop
    width, height = face.size
    outside = max(-crop.left, -crop.top, crop.left + crop.side - width, crop.top + crop.side - height) / crop.side
    checks = (
        (face.faces != 1, f"{face.faces} faces"),
        (abs(yaw) > limits.yaw_deg, f"turned by {yaw:.0f} degrees"),
        (abs(pitch) > limits.pitch_deg, f"tilted by {pitch:.0f} degrees"),
        (gap > limits.lip_gap_share, "mouth is wide open"),
        (float(np.ptp(face.points[:468, 0])) * crop.side < limits.face_px, "face is too small"),
        (outside > limits.outside_share, f"crop leaves the picture by {outside:.0%}"),
        (face.fit.error > limits.fit_error, f"face does not fit the model ({face.fit.error:.3f})"),
    )
    return next((reason for bad, reason in checks if bad), None)


def head_angles_deg(face: PhotoFace) -> tuple[float, float]:
    """Yaw and pitch of the head on the photograph, signs of engine.types.POSE_AXES."""
    forward = face.fit.rotation[:, 2]
    return float(np.degrees(np.arctan2(forward[0], forward[2]))), float(np.degrees(np.arcsin(-forward[1])))


def _hidden_eyes(path: Path, face: PhotoFace, limits: Screening) -> str | None:
    texture = crop_texture(read_photo(path), face.crop, _LOOK_PX, 0)
    light = cv2.cvtColor(texture, cv2.COLOR_RGB2LAB)[..., 0].astype(np.float32)
    places = face.points * _LOOK_PX
    mask = np.zeros(light.shape, np.uint8)
    for outline, _ in OUTLINES.values():
        cv2.fillPoly(mask, [np.round(places[list(outline)]).astype(np.int32)], 1)
    x, y = np.clip(places[list(CHEEKS)].astype(int), 0, _LOOK_PX - 1).T
    ratio = float(np.percentile(light[mask > 0], 90) / max(float(np.median(light[y, x])), 1.0)) if mask.any() else 0.0
    return f"eyes are hidden or dark ({ratio:.2f})" if ratio < limits.eye_brightness else None
