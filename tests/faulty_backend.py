"""A mock model that fails on command: a head turned by one of these angles is not a pose but an order.

`python -m engine.worker --backend-module faulty_backend` runs it in a worker's process.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import numpy as np

from engine.backends.base import Floats, Reference
from engine.backends.mock import MockBackend

CRASH, HANG, RAISE, MEMORY = 901.0, 902.0, 903.0, 904.0


class FaultyBackend(MockBackend):
    """Prints where it must not, as native libraries do."""

    def encode_reference(self, image: Floats) -> Reference:
        print("a stray line on stdout")
        sys.stdout.flush()
        os.write(1, b"VVW1 and one that looks like a frame\n")
        return super().encode_reference(image)

    def denoise(self, **inputs: Any) -> tuple[Floats, Floats, Floats]:
        orders = set(np.unique(inputs["pose"][:, :, 0]).tolist())
        if CRASH in orders:
            sys.stderr.write("about to crash\n")
            os._exit(7)
        if HANG in orders:
            threading.Event().wait()
        if RAISE in orders:
            raise RuntimeError("as ordered")
        if MEMORY in orders:
            raise MemoryError("as ordered")
        return super().denoise(**inputs)


def open_backend() -> FaultyBackend:
    return FaultyBackend()
