"""Chance that is the same on every machine and in every run: it depends on names only."""

from __future__ import annotations

import hashlib

import numpy as np


def stable_unit(text: str) -> float:
    """A number in [0, 1) that depends on the text only, on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def stable_rng(*parts: object) -> np.random.Generator:
    """A generator seeded by the given parts."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
