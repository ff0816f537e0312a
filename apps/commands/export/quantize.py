"""`visavis export quantize`: a bundle's stages in 8 bits, and what each layer lost by it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from apps.commands.export.given import need_packages, show
from engine.errors import ArgumentError, OutputNotWritableError

if TYPE_CHECKING:
    from engine.bundle import Bundle
    from export.scenes import Scene

_STAGES = ("reference", "audio", "denoise", "decode")
_EXAMPLE = "example: visavis export quantize nano -o models/nano-int8 --precision int8 --target cpu --budget-db 34"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export quantize`."""
    quantize = commands.add_parser("quantize", help="a bundle's stages in 8 bits", epilog=_EXAMPLE)
    add = quantize.add_argument
    add("bundle", help="name or folder of a bundle")
    add("-o", "--out", type=Path, required=True, help="folder of the new bundle; replaced if it exists")
    add("--precision", choices=("int8", "fp8"), default="int8", help="default %(default)s")
    add("--target", choices=("cpu", "gpu"), default="cpu", help="whose arithmetic (default %(default)s)")
    add("--budget-db", type=float, default=34.0, help="PSNR that pictures must keep (default %(default)g)")
    add("--stages", nargs="+", choices=_STAGES, default=_STAGES, metavar="STAGE", help=f"of {', '.join(_STAGES)}")
    add("--blocks", type=int, default=24, help="blocks of each roll-out to calibrate on (default %(default)s)")
    add("--tried-blocks", type=int, default=4, help="blocks of the roll-out that is judged (default %(default)s)")
    add_inputs(quantize)
    add("--json", action="store_true", help="report as one JSON document")
    quantize.set_defaults(handler=run)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the options that say whom to roll out; by default the people and voices that are shipped."""
    add = parser.add_argument
    add("--portraits", type=Path, nargs="+", metavar="FILE", help="pictures (default: those that are shipped)")
    add("--voices", type=Path, nargs="+", metavar="FILE", help="recordings (default: those that are shipped)")
    add("--size", type=int, default=128, help="side of the pictures that are compared (default %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Quantise; the exit code is 1 when the budget was missed. Raises AvatarError."""
    need_packages("torch", "onnx", "onnxruntime")
    if arguments.precision == "fp8" and arguments.target == "cpu":
        raise ArgumentError("no CPU computes in FP8; use --precision int8 or --target gpu")
    if not 1 <= arguments.tried_blocks <= arguments.blocks:
        raise ArgumentError("--tried-blocks must be at least 1 and at most --blocks")
    from rich.console import Console

    from engine.bundle import find_bundle
    from export.quantize.bundle import quantise_bundle
    from export.quantize.qdq import Scheme
    from export.quantize.report import to_dict, to_markdown
    from export.quantize.results import Request

    bundle = find_bundle(arguments.bundle)
    if arguments.out.exists() and not (arguments.out / "manifest.json").is_file():
        raise OutputNotWritableError(f"{arguments.out} exists and is no model bundle; choose another folder")
    scheme = Scheme(arguments.precision, arguments.target)
    scenes = read_scenes(arguments, bundle, arguments.blocks)
    request = Request(scheme, scenes, arguments.budget_db, arguments.stages, arguments.tried_blocks)
    with Console(stderr=True, quiet=arguments.json).status("starting") as status:
        result = quantise_bundle(bundle, arguments.out, request, status.update)
    if arguments.json:
        show({**to_dict(result), "bundle": str(arguments.out)}, as_json=True)
    else:
        show({"report": to_markdown(result), "bundle": str(arguments.out)}, as_json=False)
    return 0 if result.passes else 1


def read_scenes(arguments: argparse.Namespace, bundle: Bundle, blocks: int) -> list[Scene]:
    """A scene for each portrait, the voices in turn. Raises PortraitError, MediaError or FileError."""
    import assets
    from apps.media import read_sound
    from engine.portrait.portrait import open_portrait
    from export.scenes import block_lengths, make_scenes

    shipped = Path(assets.__file__).parent
    portraits = arguments.portraits or sorted((shipped / "portraits").glob("*.jpg"))
    voices = [read_sound(path).pcm for path in arguments.voices or sorted((shipped / "speech").glob("*.flac"))]
    lengths = block_lengths(bundle.sampling, blocks)
    crops = [open_portrait(path).crop(arguments.size) for path in portraits]
    of_voices = [make_scenes(crops, voice, lengths, arguments.size) for voice in voices]
    return [of_voices[number % len(voices)][number] for number in range(len(crops))]
