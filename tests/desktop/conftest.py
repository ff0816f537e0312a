"""The desktop app as its user meets it: on a screen and sound devices that are made for each test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from apps.bench.desktop.desk import Desk, missing
from apps.bench.desktop.talker import words
from apps.bench.setup import PICTURES, SOUNDS, shipped
from apps.media import read_sound

PERSON = str(shipped(None, "portraits", PICTURES))
QUICK = ("--backend", "mock", "--size", "256", "--portrait", PERSON)
"""The mock model moves the mouth with the loudness and holds still in silence."""


@pytest.fixture
def desk() -> Iterator[Desk]:
    if lacking := missing():
        pytest.skip(f"needs {', '.join(lacking)}; see `make test-desktop`")
    with Desk() as made:
        yield made


@pytest.fixture(scope="session")
def marker() -> np.ndarray:
    """A word that begins at once, float32 [N] at 16 kHz."""
    found = words(read_sound(shipped(None, "speech", SOUNDS)).pcm)
    return max(found, key=len)
