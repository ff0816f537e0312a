"""What the commands of `visavis data` ask of their surroundings: folders that exist, packages that training needs."""

from __future__ import annotations

import argparse

from engine.errors import ExtraMissingError, FileMissingError


def check_assets(arguments: argparse.Namespace) -> None:
    """Raises FileMissingError for an assets folder that is not there."""
    if arguments.assets and not arguments.assets.is_dir():
        raise FileMissingError(f"the assets folder {arguments.assets} does not exist")


def needs_training(error: ImportError) -> ExtraMissingError:
    """What to install, from the import that failed."""
    return ExtraMissingError(f"`visavis data` needs {error.name}: pip install 'visavis[train]'")
