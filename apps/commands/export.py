"""`visavis export onnx` and `visavis export parity`: checkpoints to model bundles, and how near a bundle comes."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ExtraMissingError, FileMissingError

if TYPE_CHECKING:
    from engine.backends.base import Sampling
    from export.scenes import Scene

_TRIED_BLOCKS = 5
_ONNX_EXAMPLE = "example: visavis export onnx runs/student/model.safetensors -o assets/models/nano --int8"
_PARITY_EXAMPLE = "example: visavis export parity runs/student/model.safetensors assets/models/nano --blocks 10 --json"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export` and its two commands."""
    export = subparsers.add_parser(
        "export", help="make a model bundle of a checkpoint, or compare the two", epilog=_ONNX_EXAMPLE
    )
    commands = export.add_subparsers(dest="export_command", required=True, metavar="onnx|parity")
    _register_onnx(commands)
    _register_parity(commands)


def _register_onnx(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    onnx = commands.add_parser("onnx", help="checkpoint to a bundle of ONNX graphs", epilog=_ONNX_EXAMPLE)
    onnx.add_argument("checkpoint", type=Path, help="model.safetensors of a training run")
    onnx.add_argument("-o", "--out", type=Path, required=True, help="folder of the bundle; replaced if it exists")
    onnx.add_argument("--name", help="the model's name (default: the folder's)")
    onnx.add_argument("--aligner", type=Path, metavar="FILE", help="face-point network, .onnx or .safetensors")
    onnx.add_argument("--int8", action="store_true", help="try the decoder in 8 bits; kept if faster and near enough")
    onnx.add_argument("--untried", action="store_true", help="compute in float32 and measure nothing")
    onnx.add_argument("--keep-checkpoint", action="store_true", help="put the checkpoint into the bundle, for torch")
    onnx.add_argument("--float32", action="store_true", help="weights in float32 instead of float16")
    _add_scene(onnx)
    for name, text in (
        ("--steps", "denoising steps"), ("--first-steps", "denoising steps of the first block"),
        ("--block-frames", "frames of a block"), ("--first-block-frames", "frames of the first block"),
    ):  # fmt: skip
        onnx.add_argument(name, type=int, metavar="N", help=f"{text} (default: as for the kind of training)")
    onnx.add_argument("--time-shift", type=float, metavar="X", help="as in training (default: as trained)")
    onnx.add_argument("--json", action="store_true", help="report as one JSON document")
    onnx.set_defaults(handler=run_onnx)


def _register_parity(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parity = commands.add_parser("parity", help="compare a bundle with its checkpoint", epilog=_PARITY_EXAMPLE)
    parity.add_argument("checkpoint", type=Path, help="model.safetensors of a training run")
    parity.add_argument("bundle", type=Path, help="folder of a bundle made of it")
    parity.add_argument("--backend", action="append", metavar="NAME", help="may be repeated (default: all installed)")
    parity.add_argument("--blocks", type=int, default=10, help="blocks to stream (default %(default)s)")
    _add_scene(parity)
    parity.add_argument("--threads", type=int, default=2, help="CPU threads (default %(default)s)")
    parity.add_argument("--json", action="store_true", help="report as one JSON document")
    parity.set_defaults(handler=run_parity)


def _add_scene(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--portraits", type=Path, nargs="+", default=[], metavar="FILE", help="pictures to measure on")
    parser.add_argument("--voice", type=Path, metavar="FILE", help="recording to measure on")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures (default %(default)s)")


def run_onnx(arguments: argparse.Namespace) -> int:
    """Make the bundle. Raises AvatarError."""
    _need_export()
    from export.bundle import Choices, export_bundle
    from export.sampling import sampling_of

    _need_file(arguments.checkpoint)
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
        scenes=() if arguments.untried else _scenes(arguments, sampling, blocks=_TRIED_BLOCKS),
    )
    exported = export_bundle(arguments.checkpoint, arguments.out, choices)
    trials = [{**asdict(trial), "passes": trial.passes} for trial in exported.trials]
    report = {"bundle": str(arguments.out), "name": choices.name, "bytes": exported.bytes, "trials": trials}
    _print(report, arguments.json)
    return 0


def run_parity(arguments: argparse.Namespace) -> int:
    """Compare; the exit code is 1 when a backend misses its mark. Raises AvatarError."""
    _need_export()
    from engine.backends.torch import open_checkpoint
    from engine.bundle import find_bundle
    from export.parity import FLOAT_DB, INT8_DB, compare_installed

    _need_file(arguments.checkpoint)
    bundle = find_bundle(arguments.bundle)
    truth = open_checkpoint(arguments.checkpoint, bundle.sampling, arguments.threads)
    scene = _scenes(arguments, bundle.sampling, arguments.blocks)[0]
    results = compare_installed(truth, bundle, scene, arguments.backend, arguments.threads)
    needed = INT8_DB if bundle.manifest.get("int8_stages") else FLOAT_DB
    backends = {name: {**r.to_dict(), "passes": r.worst_db >= needed} for name, r in results.items()}
    _print({"bundle": str(arguments.bundle), "blocks": arguments.blocks, "needed_db": needed, "backends": backends},
           arguments.json)  # fmt: skip
    return 0 if all(result["passes"] for result in backends.values()) else 1


def _scenes(arguments: argparse.Namespace, sampling: Sampling, blocks: int) -> list[Scene]:
    from apps.media import read_sound
    from engine.portrait.portrait import open_portrait
    from export.scenes import block_lengths, make_scenes

    crops = [open_portrait(path).crop(arguments.size) for path in arguments.portraits]
    pcm = read_sound(arguments.voice).pcm if arguments.voice else None
    return make_scenes(crops, pcm, block_lengths(sampling, blocks), arguments.size)


def _need_export() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise ExtraMissingError(f"exporting needs {error.name}; install visavis[export]") from error


def _need_file(path: Path) -> None:
    if not path.is_file():
        raise FileMissingError(f"there is no checkpoint {path}")


def _print(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
        return
    for key, value in report.items():
        rows = value if isinstance(value, list) else [value] if not isinstance(value, dict) else value.items()
        sys.stdout.write(f"{key}: " + "\n  ".join(str(row) for row in rows) + "\n")
