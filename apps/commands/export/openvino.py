"""`visavis export openvino`: a model bundle in OpenVINO's own format."""

from __future__ import annotations

import argparse
from pathlib import Path

from apps.commands.export.given import need_packages, show

_EXAMPLE = "example: visavis export openvino nano -o models/nano-openvino"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export openvino`."""
    openvino = commands.add_parser("openvino", help="a bundle's graphs in OpenVINO's own format", epilog=_EXAMPLE)
    openvino.add_argument("model", help="name or folder of a model bundle")
    openvino.add_argument("-o", "--out", type=Path, required=True, help="folder to write; replaced if it exists")
    openvino.add_argument("--threads", type=int, metavar="N", help="CPU threads for comparing the two")
    openvino.add_argument("--json", action="store_true", help="report as one JSON document")
    openvino.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Write it and compare. Raises AvatarError."""
    need_packages("openvino", install="openvino")
    from engine.bundle import find_bundle
    from export.openvino import export_openvino

    made, parity = export_openvino(find_bundle(arguments.model), arguments.out, arguments.threads)
    report = {
        "bundle": str(arguments.out),
        "name": made.name,
        "bytes": sum(entry["bytes"] for entry in made.manifest["files"].values()),
        "origin": made.manifest["origin"],
        "worst_db": parity.worst_db,
    }
    show(report, arguments.json)
    return 0
