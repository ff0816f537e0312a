"""`visavis data`: make training clips and look at them, make a cast and measure how fast it is drawn."""

from __future__ import annotations

import argparse

from apps.commands.data import bench, cast, inspect, make, voices


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `data` and its commands."""
    data = subparsers.add_parser("data", help="make training clips, look at them; make a cast")
    commands = data.add_subparsers(dest="data_command", required=True, metavar="make|voices|inspect|cast|bench")
    for command in (make, voices, inspect, cast, bench):
        command.register(commands)
