"""What every command of `visavis train` asks of its surroundings: the packages that training needs."""

from __future__ import annotations

from engine.errors import ExtraMissingError


def needs_training(error: ImportError, extras: str = "train") -> ExtraMissingError:
    """What to install, from the import that failed."""
    return ExtraMissingError(f"{error}; training needs more: pip install 'visavis[{extras}]'")
