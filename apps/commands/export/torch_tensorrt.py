"""`visavis export torch-tensorrt`: a checkpoint to programs for users who live inside torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

from apps.commands.export.given import need_file, need_packages, show

_EXAMPLE = "example: visavis export torch-tensorrt runs/student/model.safetensors -o programs/nano"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export torch-tensorrt`."""
    programs = commands.add_parser(
        "torch-tensorrt",
        help="checkpoint to programs that torch loads, with TensorRT inside",
        epilog=_EXAMPLE,
    )
    programs.add_argument("checkpoint", type=Path, help="model.safetensors of a training run")
    programs.add_argument("-o", "--out", type=Path, required=True, help="folder of the programs; replaced if it exists")
    programs.add_argument(
        "--precision", default="fp16", choices=("fp16", "bf16", "fp32"), help="where it is safe (default %(default)s)"
    )
    programs.add_argument("--json", action="store_true", help="report as one JSON document")
    programs.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Build the programs. Raises AvatarError."""
    need_packages("torch", "safetensors")
    from export.sampling import sampling_of
    from export.torch_tensorrt import export_programs

    need_file(arguments.checkpoint)
    began = perf_counter()
    artefact = export_programs(
        arguments.checkpoint, sampling_of(arguments.checkpoint), arguments.out, arguments.precision, _say
    )
    report = {
        "programs": str(arguments.out),
        "version": artefact.origin.library_version,
        "precision": arguments.precision,
        "device": artefact.origin.device,
        "seconds": round(perf_counter() - began, 1),
        "files": sorted(artefact.files),
    }
    show(report, arguments.json)
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"visavis: {line}\n")
