"""`visavis export parity`: how near a bundle comes to its checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from apps.commands.export.given import add_scene, need_file, need_packages, scenes, show

_EXAMPLE = "example: visavis export parity runs/student/model.safetensors assets/models/nano --blocks 10 --json"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export parity`."""
    parity = commands.add_parser("parity", help="compare a bundle with its checkpoint", epilog=_EXAMPLE)
    parity.add_argument("checkpoint", type=Path, help="model.safetensors of a training run")
    parity.add_argument("bundle", type=Path, help="folder of a bundle made of it")
    parity.add_argument("--backend", action="append", metavar="NAME", help="may be repeated (default: all installed)")
    parity.add_argument("--blocks", type=int, default=10, help="blocks to stream (default %(default)s)")
    add_scene(parity)
    parity.add_argument("--threads", type=int, default=2, help="CPU threads (default %(default)s)")
    parity.add_argument("--json", action="store_true", help="report as one JSON document")
    parity.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare; the exit code is 1 when a backend misses its mark. Raises AvatarError."""
    need_packages("torch", "onnx")
    from engine.backends.torch import open_checkpoint
    from engine.bundle import find_bundle
    from export.parity import FLOAT_DB, INT8_DB, compare_installed

    need_file(arguments.checkpoint)
    bundle = find_bundle(arguments.bundle)
    truth = open_checkpoint(arguments.checkpoint, bundle.sampling, arguments.threads, manner=bundle.manner())
    scene = scenes(arguments, bundle.sampling, arguments.blocks)[0]
    results = compare_installed(truth, bundle, scene, arguments.backend, arguments.threads)
    needed = INT8_DB if bundle.manifest.get("int8_stages") else FLOAT_DB
    backends = {name: {**r.to_dict(), "passes": r.worst_db >= needed} for name, r in results.items()}
    report = {"bundle": str(arguments.bundle), "blocks": arguments.blocks, "needed_db": needed, "backends": backends}
    show(report, arguments.json)
    return 0 if all(result["passes"] for result in backends.values()) else 1
