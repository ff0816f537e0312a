"""`visavis data voices`: slow voices and recorded speech, prepared for `data make --cache`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from apps.commands.data.given import check_assets, needs_training

_EXAMPLE = "example: visavis data voices --cache cache --minutes 20 --assets ../assets --workers 2"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `voices`."""
    voices = commands.add_parser(
        "voices", help="prepare slow voices and recorded speech for `data make --cache`", epilog=_EXAMPLE
    )
    voices.add_argument("--cache", type=Path, required=True, help="folder to fill, as for `data make`")
    voices.add_argument(
        "--split", choices=("train", "test"), default="train", help="people and voices of the two differ"
    )
    voices.add_argument(
        "--minutes", type=float, default=20.0, help="of Kokoro speech, 0 for none (default %(default)s)"
    )
    voices.add_argument("--languages", action="store_true", help="a third of it in other languages than English")
    voices.add_argument("--assets", type=Path, help="folder whose `voices` are recorded speech to find the phones of")
    voices.add_argument("--workers", type=int, default=1, help="processes (default %(default)s)")
    voices.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Fill the cache with speech. Raises AvatarError."""
    check_assets(arguments)
    try:
        from training.data.recipe import VOICES
        from training.data.voice_cache import prepare_recorded, prewarm
    except ImportError as error:
        raise needs_training(error) from error
    folder, split, workers = arguments.cache / VOICES, arguments.split, arguments.workers
    if arguments.minutes > 0:
        held = prewarm(folder, split, arguments.minutes, workers, arguments.languages)
        sys.stdout.write(f"{held:.1f} minutes of synthetic speech\n")
    if arguments.assets:
        held = prepare_recorded(arguments.assets, folder, split, workers)
        sys.stdout.write(f"{held:.1f} minutes of recorded speech\n")
    return 0
