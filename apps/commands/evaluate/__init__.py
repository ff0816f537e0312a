"""`visavis evaluate`: figures of quality, against held-out people whose every frame is known or on real photographs."""

from __future__ import annotations

import argparse
from importlib import import_module

from apps.commands.evaluate import asked, clips, listening, real
from engine.errors import ArgumentError, ExtraMissingError

_EXAMPLE = """examples:
  visavis evaluate --model base --checkpoint teacher.safetensors --data clips/test --out report
  visavis evaluate --real --model base --assets ASSETS --out report
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `evaluate`."""
    command = subparsers.add_parser(
        "evaluate",
        help="measure lip sync, states and pictures",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for part in (clips, listening, real):
        part.add_options(command)
    command.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure what was asked for and report. Raises AvatarError."""
    request = asked.read(arguments)
    try:
        import_module("training.evaluate.report")
    except ImportError as error:
        raise ExtraMissingError(f"`visavis evaluate` needs {error.name}: pip install 'visavis[eval]'") from error
    if arguments.real:
        return real.run(request)
    if arguments.data is None:
        raise ArgumentError("say what to measure on: --data FOLDER with held-out clips, or --real")
    return listening.run(request) if arguments.listening else clips.run(request)
