"""A bundle's directions of speech, and the setting that has them used."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from engine.bundle import SPEECH, Bundle
from export.card import model_card
from export.manifest import CARD, write_manifest


def add_speech(bundle: Bundle, speech: NDArray[np.float16], stress: float) -> None:
    """Write them into the bundle's folder, in place of older ones. speech: see training.speech.find_speech."""
    np.save(bundle.root / SPEECH, speech.astype(np.float16), allow_pickle=False)
    manifest = dict(bundle.manifest) | {"sampling": asdict(replace(bundle.sampling, stress=stress))}
    (bundle.root / CARD).write_text(model_card(manifest), encoding="utf-8")
    write_manifest(bundle.root, manifest)
