"""`visavis doctor`: what this machine has, which backend will be used and why, how fast that is, what would help."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from engine.errors import EXIT_MODEL

EXIT_PACKAGES = 1

_EXAMPLE = """exit codes: 0 when `visavis talk` will work, 1 when a package is missing, 5 when there is no sound
model, or no backend that runs it.
example: visavis doctor --measure --json"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `doctor`."""
    doctor = subparsers.add_parser(
        "doctor",
        help="what this machine can do, and what to install for more",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument(
        "--measure", action="store_true", help="measure backends and frames a second, about 5 s; kept for next time"
    )
    doctor.add_argument("--json", action="store_true", help="report as one JSON document")
    doctor.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Look at everything and tell it; what is wrong is the exit code. Raises AvatarError when measuring fails."""
    from apps.doctor.text import lines

    report = full_report(measure=arguments.measure)
    sys.stdout.write(json.dumps(report) + "\n" if arguments.json else lines(report))
    return exit_code(report)


def full_report(measure: bool) -> dict[str, Any]:
    """What `--json` prints: apps.doctor.examine's report, and `speed`, None where it is not known."""
    from apps.doctor.examine import examine

    report = examine()
    speed = None
    if report["ready"]:
        from apps.doctor.speed import kept_speed, measure_speed
        from engine.bundle import find_bundle

        if measure:
            speed = measure_speed()
            report = examine()
        else:
            speed = kept_speed(find_bundle(), report["chosen"]["backend"])
    return {**report, "speed": speed}


def exit_code(report: dict[str, Any]) -> int:
    """0, EXIT_PACKAGES or EXIT_MODEL."""
    if report["missing_packages"]:
        return EXIT_PACKAGES
    return 0 if report["ready"] else EXIT_MODEL
