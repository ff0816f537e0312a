"""Figures ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_DIGITS = 5
"""Significant ones: figures are compared, and none is known better."""


def tidy(value: Any) -> Any:
    """Ready for JSON: numbers with as many digits as they deserve, null for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): tidy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
