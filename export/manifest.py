"""The manifest of a bundle: what engine.bundle reads, and what people want to know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.backends.artefacts import ORIGIN_KEY, Origin, created_by
from engine.backends.base import Sampling
from engine.backends.staged import BF16_KEY, INT8_KEY
from engine.bundle import FORMAT, MANIFEST, sha256_of

if TYPE_CHECKING:
    from engine.model.avatar import AvatarModel

CARD = "MODEL_CARD.md"

LICENCE = "Apache-2.0"
TRAINED_ON = (
    "Synthetic only: heads rendered from parametric models, puppets made of portraits that are generated or in the"
    " public domain, and synthetic voices. No video of a real person."
)


def make_manifest(
    model: AvatarModel, name: str, sampling: Sampling, meta: Mapping[str, Any], origin: Origin
) -> dict[str, Any]:
    """Everything but the files. meta: what the checkpoint says of its training. origin: of the graphs."""
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    return {
        "format": FORMAT,
        "name": name,
        "config": model.config.to_dict(),
        "sampling": asdict(sampling),
        "licence": LICENCE,
        "made": date.today().isoformat(),
        "made_by": created_by(),
        ORIGIN_KEY: origin.to_dict(),
        "precisions": dict(origin.precisions),
        BF16_KEY: [],
        INT8_KEY: [],
        "parameters": parameters,
        "trained_on": TRAINED_ON,
        "training": dict(meta),
        "metrics": {},
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """The manifest with the size and hash of every file that lies in the folder."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    text = json.dumps({**manifest, "files": files}, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")


def replace_folder(new: Path, out: Path) -> None:
    """Put a finished folder in the place of another; the old one is gone only after the new one stands."""
    old = new.parent / "replaced"
    if out.exists():
        out.rename(old)
    new.rename(out)
