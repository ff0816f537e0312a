"""`import visavis`: the public API of `engine` under the project's name."""

from __future__ import annotations

from typing import Any

import engine

__all__ = list(engine.__all__)


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(engine, name)
    raise AttributeError(f"module 'visavis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
