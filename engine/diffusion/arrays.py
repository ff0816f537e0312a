"""numpy or torch, whichever an array belongs to: the few operations that the shared loops need have equal names."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


def namespace(array: Any) -> ModuleType:
    """The module that made the array."""
    return sys.modules[type(array).__module__.partition(".")[0]]
