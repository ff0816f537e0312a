"""`visavis export onnx`: a checkpoint to a model bundle."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from apps.commands.export.given import add_scene, need_file, need_packages, scenes, show

_TRIED_BLOCKS = 5
_EXAMPLE = "example: visavis export onnx runs/student/model.safetensors -o assets/models/nano --int8"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export onnx`."""
    onnx = commands.add_parser("onnx", help="checkpoint to a bundle of ONNX graphs", epilog=_EXAMPLE)
    onnx.add_argument("checkpoint", type=Path, help="model.safetensors of a training run")
    onnx.add_argument("-o", "--out", type=Path, required=True, help="folder of the bundle; replaced if it exists")
    onnx.add_argument("--name", help="the model's name (default: the folder's)")
    onnx.add_argument("--aligner", type=Path, metavar="FILE", help="face-point network, .onnx or .safetensors")
    onnx.add_argument("--int8", action="store_true", help="try stages in 8 bits; kept if faster and near enough")
    onnx.add_argument("--untried", action="store_true", help="compute in float32 and measure nothing")
    onnx.add_argument("--keep-checkpoint", action="store_true", help="put the checkpoint into the bundle, for torch")
    onnx.add_argument("--float32", action="store_true", help="weights in float32 instead of float16")
    add_scene(onnx)
    for name, text in (
        ("--steps", "denoising steps"), ("--first-steps", "denoising steps of the first block"),
        ("--block-frames", "frames of a block"), ("--first-block-frames", "frames of the first block"),
    ):  # fmt: skip
        onnx.add_argument(name, type=int, metavar="N", help=f"{text} (default: as for the kind of training)")
    onnx.add_argument("--time-shift", type=float, metavar="X", help="as in training (default: as trained)")
    onnx.add_argument("--json", action="store_true", help="report as one JSON document")
    onnx.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the bundle. Raises AvatarError."""
    need_packages("torch", "onnx", "onnxscript")
    from export.bundle import Choices, export_bundle
    from export.sampling import sampling_of

    need_file(arguments.checkpoint)
    names = ("steps", "first_steps", "block_frames", "first_block_frames", "time_shift")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    sampling = replace(sampling_of(arguments.checkpoint), **given)
    choices = Choices(
        name=arguments.name or arguments.out.resolve().name,
        sampling=sampling,
        aligner=arguments.aligner,
        half=not arguments.float32,
        int8=arguments.int8,
        keep_checkpoint=arguments.keep_checkpoint,
        scenes=() if arguments.untried else scenes(arguments, sampling, blocks=_TRIED_BLOCKS),
    )
    exported = export_bundle(arguments.checkpoint, arguments.out, choices)
    trials = [{**asdict(trial), "passes": trial.passes} for trial in exported.trials]
    report = {"bundle": str(arguments.out), "name": choices.name, "bytes": exported.bytes, "trials": trials}
    show(report, arguments.json)
    return 0
