"""`visavis export drift`: a bundle as it is run against the same in float32, over a long roll-out."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from apps.commands.export.given import need_packages, show
from apps.commands.export.quantize import add_inputs, read_scenes
from engine.errors import ArgumentError

if TYPE_CHECKING:
    from export.quantize.drift import Opening

_EXAMPLE = "example: visavis export drift models/nano-int8 --backend onnxruntime --blocks 250 --json"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export drift`."""
    drift = commands.add_parser("drift", help="what few bits become over a long run", epilog=_EXAMPLE)
    add = drift.add_argument
    add("bundle", help="name or folder of a bundle")
    add("--backend", default="openvino", help="what runs it (default %(default)s)")
    add("--blocks", type=int, default=250, help="length of the roll-out (default %(default)s)")
    add("--takes", type=int, default=1, help="pairs of portrait and voice (default %(default)s)")
    add(
        "--every", type=int, default=1, metavar="N", help="look at the pictures of each Nth block (default %(default)s)"
    )
    add("--budget-db", type=float, default=34.0, help="PSNR of the first block that passes (default %(default)g)")
    add_inputs(drift)
    add("--json", action="store_true", help="report as one JSON document")
    drift.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure; the exit code is 1 when a take does not pass. Raises AvatarError."""
    need_packages("torch", "onnx", "onnxruntime")
    if min(arguments.blocks, arguments.takes, arguments.every) < 1:
        raise ArgumentError("--blocks, --takes and --every must be at least 1")
    from rich.console import Console

    from engine.backends.registry import open_backend
    from engine.bundle import find_bundle
    from export.quantize.drift import measure_drift
    from export.quantize.running import open_stages, runtimes
    from export.quantize.takes import speech

    bundle = find_bundle(arguments.bundle)
    exact = open_stages(bundle, runtimes()[0])
    tried = open_backend(arguments.backend, bundle, 1)
    opening, found = mouth_opening(), []
    with Console(stderr=True, quiet=arguments.json).status("starting") as status:
        for scene in read_scenes(arguments, bundle, arguments.blocks)[: arguments.takes]:
            found.append(measure_drift(
                exact, tried, speech(scene, bundle.config), opening, arguments.every,
                lambda block: status.update(f"block {block}"),
            ))  # fmt: skip
    takes = [{"passes": drift.passes(arguments.budget_db), **drift.to_dict()} for drift in found]
    show({"bundle": bundle.name, "backend": arguments.backend, "takes": takes}, arguments.json)
    return 0 if all(take["passes"] for take in takes) else 1


def mouth_opening() -> Opening:
    """The shipped probe's reading of the distance between the lips."""
    from training.evaluate.metrics import mouth_opening as from_landmarks
    from training.evaluate.run import shipped_instruments
    from training.instruments.probe import Probe

    whole = Probe.load(shipped_instruments() / "probe.safetensors")
    points_only = Probe(whole.reader, whole.errors)
    return lambda pictures: from_landmarks(points_only.read(pictures).landmarks)
