"""A photograph made ready: its face found and fitted (once, then cached), its padded canonical crop as a texture."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.crop import CropBox, canonical_crop
from engine.portrait.landmarks import MEDIAPIPE_INDEX
from training.data.puppets.errors import PortraitUnusable
from training.data.puppets.face_model import load_face_model
from training.data.puppets.fit import FaceFit, fit_face
from training.data.puppets.landmarks import find_faces

Floats = NDArray[np.float32]

PAD = 0.175
"""The texture reaches this fraction of the crop's side beyond each edge of the crop."""

_CACHE_VERSION = "3"
_NAMED = list(MEDIAPIPE_INDEX.values())


@dataclass(frozen=True, slots=True)
class PhotoFace:
    """points [478, 2]: landmarks as fractions of the canonical crop. crop: left, top, side in source pixels.

    scores [52]: expression scores of the landmark model. fit: in fractions of the canonical crop.
    faces: how many were found. size: width, height of the source in pixels.
    """

    points: Floats
    scores: Floats
    crop: CropBox
    fit: FaceFit
    faces: int
    size: tuple[int, int]

    @property
    def named(self) -> Floats:
        """The 28 points [28, 2] of engine.portrait.landmarks."""
        return self.points[_NAMED]


def read_photo(path: Path) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB. Raises PortraitUnusable."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise PortraitUnusable(f"{path} is missing or is no picture; give a JPEG or PNG of one person")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def analyse_photo(path: Path, assets: Path, cache: Path | None = None) -> PhotoFace:
    """Find and fit the largest face; with `cache` (a folder) the result is kept there under the picture's digest.

    Raises PortraitUnusable when there is no face, AssetsMissing when the landmark model is not there.
    """
    stored = None if cache is None else Path(cache) / f"{_digest(path)}.npz"
    if stored is not None and stored.is_file():
        return _load(stored)
    image = read_photo(path)
    found = find_faces(image, assets)
    if not found:
        raise PortraitUnusable(f"no face found in {path}; use a frontal portrait")
    face = max(found, key=lambda f: float(np.ptp(f.points[:, 0])))
    crop = canonical_crop(face.points[_NAMED])
    points = crop.to_crop(face.points)
    model = load_face_model(Path(assets))
    fit = fit_face(model, points[model.control_points])
    size = (image.shape[1], image.shape[0])
    result = PhotoFace(points, face.scores, crop, fit, len(found), size)
    if stored is not None:
        _save(stored, result)
    return result


def reframe(photo: PhotoFace, scale: float, shift: tuple[float, float]) -> PhotoFace:
    """The same face in a crop that is `scale` times as large and moved by `shift` (fractions of the crop)."""
    if scale == 1.0 and shift == (0.0, 0.0):
        return photo
    old = photo.crop
    side = old.side * scale
    middle = np.array([old.left, old.top]) + old.side * (0.5 + np.array(shift))
    new = CropBox(float(middle[0] - side / 2), float(middle[1] - side / 2), float(side))
    fit = replace(
        photo.fit,
        scale=photo.fit.scale / scale,
        translation=new.to_crop(old.to_source(photo.fit.translation)),
    )
    return replace(photo, points=new.to_crop(old.to_source(photo.points)), crop=new, fit=fit)


def crop_texture(image: NDArray[np.uint8], crop: CropBox, side_px: int, pad_px: int) -> NDArray[np.uint8]:
    """The crop at side_px x side_px with pad_px more on every edge; beyond the picture its blurred edge."""
    whole = side_px + 2 * pad_px
    step = crop.side / side_px
    oversample = max(1, int(np.ceil(step)))
    fine = step / oversample
    origin = np.array([crop.left, crop.top]) - pad_px * step + (fine - 1) / 2
    affine = np.array([[fine, 0, origin[0]], [0, fine, origin[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    taken = cv2.warpAffine(image, affine, (whole * oversample,) * 2, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    small = cv2.resize(taken, (whole, whole), interpolation=cv2.INTER_AREA) if oversample > 1 else taken
    return _soften_outside(small, image.shape, crop, pad_px, step)


def _soften_outside(
    texture: NDArray[np.uint8], shape: tuple[int, ...], crop: CropBox, pad_px: int, step: float
) -> NDArray[np.uint8]:
    whole = len(texture)
    place = (np.arange(whole) + 0.5 - pad_px) * step
    beyond_x = np.maximum(-(place + crop.left), place + crop.left - shape[1])
    beyond_y = np.maximum(-(place + crop.top), place + crop.top - shape[0])
    beyond = np.maximum(beyond_x[None, :], beyond_y[:, None]) / step / whole
    if beyond.max() <= 0:
        return texture
    blurred = cv2.GaussianBlur(texture, (0, 0), whole * 0.03).astype(np.float32)
    weight = np.clip(beyond / 0.05, 0, 1)[..., None]
    return np.clip(texture * (1 - weight) + blurred * weight + 0.5, 0, 255).astype(np.uint8)


def keep_analysis(path: Path, face: PhotoFace, cache: Path) -> None:
    """Put what is known about a picture where `analyse_photo` looks for it, so that nothing need find its face."""
    _save(Path(cache) / f"{_digest(path)}.npz", face)


def _digest(path: Path) -> str:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise PortraitUnusable(f"{path} cannot be read: {error}") from error
    return hashlib.sha256(content + _CACHE_VERSION.encode()).hexdigest()[:24]


def _save(path: Path, face: PhotoFace) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    crop = np.array([face.crop.left, face.crop.top, face.crop.side])
    fit = {f"fit_{f.name}": getattr(face.fit, f.name) for f in fields(FaceFit)}
    partial = path.with_suffix(".part.npz")
    np.savez(partial, points=face.points, scores=face.scores, crop=crop, faces=face.faces, size=face.size, **fit)
    partial.replace(path)


def _load(path: Path) -> PhotoFace:
    with np.load(path, allow_pickle=False) as raw:
        fit = {f.name: raw[f"fit_{f.name}"] for f in fields(FaceFit)}
        fit["scale"], fit["error"] = float(fit["scale"]), float(fit["error"])
        left, top, side = (float(x) for x in raw["crop"])
        size = (int(raw["size"][0]), int(raw["size"][1]))
        return PhotoFace(
            raw["points"], raw["scores"], CropBox(left, top, side), FaceFit(**fit), int(raw["faces"]), size
        )
