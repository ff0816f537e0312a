"""Recorded phrases and their phones as files of the voice cache, so that recognition is done once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from engine.errors import FileMissingError
from training.data.speech.recognition import Phrase
from training.data.truth import Phone

_FULL_SCALE = 32767


def write_phrase(folder: Path, voice_name: str, phrase_name: str, phrase: Phrase) -> None:
    """Keep a phrase as `voice_phrase.npz`."""
    about = {"phones": [[p.symbol, p.start_s, p.end_s] for p in phrase.phones], "stress": phrase.stress}
    path = _path(folder, voice_name, phrase_name)
    scratch = path.with_suffix(".tmp")
    with scratch.open("wb") as file:
        np.savez(
            file,
            audio=np.round(np.clip(phrase.audio, -1, 1) * _FULL_SCALE).astype(np.int16),
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
        )
    scratch.replace(path)


def read_phrase(folder: Path, voice_name: str, phrase_name: str) -> Phrase:
    """A kept phrase. Raises FileMissingError if it is not there."""
    path = _path(folder, voice_name, phrase_name)
    if not path.exists():
        raise FileMissingError(f"{path} is not there: prepare recorded speech again")
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes().decode())
        audio = file["audio"].astype(np.float32) / _FULL_SCALE
    return Phrase(audio, tuple(Phone(*p) for p in about["phones"]), tuple(about["stress"]))


def _path(folder: Path, voice_name: str, phrase_name: str) -> Path:
    return folder / f"{voice_name}_{phrase_name}.npz"
