"""`visavis evaluate --listening`: does a bundle react to whom it listens to?"""

from __future__ import annotations

import argparse
import json
import sys

from apps.commands.evaluate.asked import Asked
from engine.errors import ArgumentError


def add_options(command: argparse.ArgumentParser) -> None:
    """Add `--listening` to `evaluate`."""
    command.add_argument(
        "--listening", type=int, default=0, metavar="N",
        help="measure instead, on N portraits, whether the bundle reacts to whom it listens to",
    )  # fmt: skip


def run(asked: Asked) -> int:
    """Measure and report. Raises AvatarError."""
    from engine.engine import load
    from training.evaluate.reactions import measure_reactions
    from training.evaluate.run import choose_clips, open_probe, shipped_instruments

    arguments = asked.arguments
    if not asked.models:
        raise ArgumentError("--listening needs a bundle: --model NAME")
    out = arguments.out
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    probe = open_probe(arguments.instruments or shipped_instruments())
    with load(asked.models[0], arguments.backend) as engine:
        chosen = choose_clips(arguments.data, arguments.listening)
        film = out / "listening.gif" if out else None
        figures = measure_reactions(engine, probe, chosen, arguments.size or 256, film)
    sys.stdout.write(json.dumps(figures.as_json()) + "\n")
    return 0
