"""`visavis export tensorrt`: a bundle to engines for NVIDIA GPUs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

from apps.commands.export.given import need_packages, show

_EXAMPLE = """examples:
  visavis export tensorrt assets/models/nano
  visavis export tensorrt assets/models/nano -o engines/nano --library tensorrt_rtx --target sm_86 --target sm_89
Engines in the bundle's own folder `tensorrt`, the default, are found by --backend tensorrt; others by $VISAVIS_ENGINES.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export tensorrt`."""
    tensorrt = commands.add_parser(
        "tensorrt",
        help="bundle to TensorRT engines; tensorrt_rtx builds them without a GPU",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tensorrt.add_argument("bundle", help="name or folder of a bundle")
    tensorrt.add_argument("-o", "--out", type=Path, help="folder of the engines; replaced if it exists")
    tensorrt.add_argument(
        "--precision", default="fp16", choices=("fp16", "bf16", "fp32"), help="of products (default %(default)s)"
    )
    tensorrt.add_argument(
        "--library", choices=("tensorrt", "tensorrt_rtx"), help="which TensorRT (default: what is installed)"
    )
    tensorrt.add_argument(
        "--target", action="append", default=[], metavar="SM", help="as sm_86; may be repeated; tensorrt_rtx only"
    )
    tensorrt.add_argument("--json", action="store_true", help="report as one JSON document")
    tensorrt.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Build the engines. Raises AvatarError."""
    need_packages("onnx")
    from engine.backends.gpu.build import ENGINE
    from engine.backends.gpu.folder import OWN_FOLDER
    from engine.backends.gpu.library import NAMES, open_library
    from engine.bundle import find_bundle
    from export.tensorrt.engines import export_engines

    bundle = find_bundle(arguments.bundle)
    library = open_library((arguments.library,) if arguments.library else NAMES)
    out = arguments.out or bundle.root / OWN_FOLDER
    began = perf_counter()
    artefact = export_engines(bundle, library, out, arguments.precision, arguments.target, _say)
    report = {
        "engines": str(out),
        "library": library.name,
        "version": library.version,
        "precision": arguments.precision,
        "targets": artefact.origin.device.split(),
        "seconds": round(perf_counter() - began, 1),
        "bytes": {name: artefact.file(name).stat().st_size for name in artefact.files if name.endswith(ENGINE)},
    }
    show(report, arguments.json)
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"visavis: {line}\n")
