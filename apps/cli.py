"""`visavis`: the one command, which hands over to apps/commands.

Every module or package of apps.commands is a command of its name: `register(subparsers)` adds its options with a
`handler`, which takes the parsed arguments and returns an exit code. Modules import what is heavy inside the handler,
and only the module that was asked for is loaded, so that `visavis --help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import NoReturn

import apps.commands
import engine
from engine.errors import EXIT_INTERRUPTED, ArgumentError, AvatarError

Handler = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage as an AvatarError, like every other fault of the caller."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentError(f"{message}. See: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (see engine.errors)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        namespace = build_parser(arguments).parse_args(arguments)
        handler: Handler = namespace.handler
        return handler(namespace)
    except AvatarError as error:
        _report(error, as_json="--json" in arguments)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("visavis: interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left, as `| head` does; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser for a command line: with the named command only, or with all of them when it names none."""
    parser = _Parser(
        prog="visavis",
        description="One portrait and a voice in; a talking, listening, idling face out.",
        epilog="example: visavis talk face.jpg voice.wav -o talk.mp4",
    )
    parser.add_argument("--version", action="version", version=f"visavis {engine.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    names = sorted(module.name for module in iter_modules(apps.commands.__path__))
    wanted = [name for name in names if arguments and arguments[0] == name]
    for name in wanted or names:
        import_module(f"apps.commands.{name}").register(subparsers)
    return parser


def _report(error: AvatarError, as_json: bool) -> None:
    sys.stderr.write(f"visavis: {error.code}: {error}\n")
    if as_json:
        report = {"code": error.code, "message": str(error), "retryable": error.retryable}
        sys.stdout.write(json.dumps({"error": report}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
