"""`visavis export`: checkpoints to model bundles, bundles to what other libraries run, and how near they come."""

from __future__ import annotations

import argparse

from apps.commands.export import (
    checkpoint,
    drift,
    onnx,
    openvino,
    parity,
    pipeline,
    quantize,
    speech,
    tensorrt,
    torch_tensorrt,
)

_EXAMPLE = """examples:
  visavis export onnx runs/student/model.safetensors -o models/nano --int8
  visavis export openvino nano -o models/nano-openvino
  visavis export tensorrt models/nano
  visavis export checkpoint nano -o runs/nano/model.safetensors      (to train on from)
  visavis export speech models/nano --checkpoint runs/nano/model.safetensors --data data/train
  visavis export parity runs/student/model.safetensors models/nano --blocks 10 --json
"""

_PARTS = (onnx, openvino, tensorrt, torch_tensorrt, quantize, pipeline, parity, drift, checkpoint, speech)
"""The subcommands, in the order of the help: modules of this package with `register(commands)`, which load what is
heavy inside their handlers."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export` and its subcommands."""
    export = subparsers.add_parser(
        "export",
        help="make a model bundle of a checkpoint, or what other libraries run of a bundle",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = export.add_subparsers(dest="export_command", required=True, metavar="WHAT")
    for part in _PARTS:
        part.register(commands)
