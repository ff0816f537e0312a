"""Model bundles: a folder of graphs with a manifest that names, sizes and hashes every file.

manifest.json, format 1:
    {"format": 1, "name": "base", "config": {ModelConfig}, "sampling": {Sampling}, "licence": "Apache-2.0",
     "files": {"denoise.onnx": {"sha256": "...", "bytes": 123}, ...}, ...}
Other keys (precisions, metrics, what it was trained on) are for people and are left alone.
Nothing is unpickled or executed; a file whose hash differs is refused before any parser sees it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Sampling
from engine.diffusion.rollout import Manner
from engine.errors import AvatarError, BundleCorruptError, BundleMissingError
from engine.model.config import ModelConfig

FORMAT = 1
MANIFEST = "manifest.json"
FOLDER_VARIABLE = "VISAVIS_MODELS"
"""Environment variable with a folder that is searched for bundles before the shipped ones."""

AUTO = "auto"
PREFERRED = ("base", "nano")
"""Model names in the order in which `auto` takes them."""

SPEECH = "speech.npy"
"""Directions of latents in which lips part, float16 [2, K, C * G * G]: see engine.diffusion.rollout.articulate."""

_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose manifest has been read; files are verified when they are asked for."""

    root: Path
    name: str
    config: ModelConfig
    sampling: Sampling
    files: Mapping[str, str]
    """File name to sha256."""
    manifest: Mapping[str, Any]

    def manner(self) -> Manner:
        """How blocks are drawn. Raises BundleCorruptError when it wants directions of speech that are not there."""
        return self.sampling.manner(self._speech() if self.sampling.stress else None)

    def _speech(self) -> NDArray[np.float32]:
        path, numbers = self.file(SPEECH), self.config.latent_channels * self.config.latent_grid**2
        try:
            found = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BundleCorruptError(f"{path} is no array ({error}); export the bundle again") from error
        if found.ndim != 3 or found.shape[0] != 2 or found.shape[2] != numbers or not np.isfinite(found).all():
            raise BundleCorruptError(f"{path} has no directions of {numbers} numbers; export the bundle again")
        speech: NDArray[np.float32] = found.astype(np.float32)
        return speech

    def file(self, name: str) -> Path:
        """Path of a verified file. Raises BundleCorruptError when it is not in the manifest, absent or altered."""
        if name not in self.files:
            raise BundleCorruptError(f"model bundle {self.root} has no {name}; export it again")
        path = self.root / name
        if not path.is_file():
            raise BundleCorruptError(f"model bundle {self.root} lacks {name}; copy or export it again")
        if sha256_of(path) != self.files[name]:
            raise BundleCorruptError(f"{path} is not the file its manifest describes; copy or export it again")
        return path


def shipped_models() -> Path:
    """The folder of the bundles that come with this installation."""
    return Path(__file__).resolve().parent.parent / "assets" / "models"


def find_bundle(model: str | os.PathLike[str] = AUTO) -> Bundle:
    """Open a bundle by path, or by name in $VISAVIS_MODELS and then among the shipped ones; `auto` is the best one."""
    if model == AUTO:
        return _best_bundle()
    text = os.fspath(model)
    if Path(text).is_dir() and (Path(text) / MANIFEST).is_file():
        return read_bundle(Path(text))
    if Path(text).name != text:
        raise BundleMissingError(f"there is no model bundle at {text}: a bundle is a folder with a {MANIFEST}")
    folders = _model_folders()
    for folder in folders:
        if (folder / text / MANIFEST).is_file():
            return read_bundle(folder / text)
    names = sorted({m.parent.name for folder in folders for m in folder.glob(f"*/{MANIFEST}")})
    raise BundleMissingError(
        f"there is no model named {text}; found: {', '.join(names) or 'none'}. Give a name or a path"
    )


def _best_bundle() -> Bundle:
    for name in PREFERRED:
        for folder in _model_folders():
            if (folder / name / MANIFEST).is_file():
                return read_bundle(folder / name)
    names = " and ".join(PREFERRED)
    raise BundleMissingError(f"no model bundle is installed (looked for {names}); name one by its path")


def _model_folders() -> list[Path]:
    own = os.environ.get(FOLDER_VARIABLE)
    return ([Path(own)] if own else []) + [shipped_models()]


def read_bundle(root: Path) -> Bundle:
    """Read and check the manifest of a bundle folder."""
    opened = opened_manifest(root / MANIFEST, FORMAT, BundleCorruptError, "copy or export the bundle again")
    with opened as (manifest, files):
        config = ModelConfig.from_dict(manifest["config"])
        sampling = Sampling.from_dict(manifest.get("sampling", {}))
        return Bundle(root, str(manifest["name"]), config, sampling, files, manifest)


@contextmanager
def opened_manifest(
    path: Path, form: int, corrupt: type[AvatarError], what_to_do: str
) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """A manifest of that format, and its files' hashes by name; for what is read out of it in the `with` block, too,
    a missing key or a value of another type raises `corrupt`.
    """
    try:
        if path.stat().st_size > _MANIFEST_BYTES:
            raise corrupt(f"{path} is too large for a manifest; {what_to_do}")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != form:
            raise corrupt(f"{path} has format {manifest['format']}; this version reads {form}")
        files = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
        if outside := [name for name in files if not is_inside(name)]:
            raise corrupt(f"{path} names a file outside its folder: {outside[0]!r}")
        yield manifest, files
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise corrupt(f"{path} is not a valid manifest ({error!r}); {what_to_do}") from error


def is_inside(name: str) -> bool:
    """Whether a name in a manifest stays in the manifest's folder, on every system."""
    parts = PurePosixPath(name).parts
    outside = ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name or ":" in name
    return bool(parts) and not outside


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
