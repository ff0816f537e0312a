"""What a plug says when the package that it fits is not installed."""

from __future__ import annotations

from engine.errors import ExtraMissingError


def needs(extra: str, error: ImportError) -> ExtraMissingError:
    """The error for an import that failed; extra: of this project, which brings the package."""
    return ExtraMissingError(f"this plug needs {error.name or error}: pip install 'visavis[{extra}]'")
