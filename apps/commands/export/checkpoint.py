"""`visavis export checkpoint`: a bundle back as a checkpoint, so that training goes on from it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from apps.commands.export.given import need_packages

_EXAMPLE = "example: visavis export checkpoint nano -o runs/nano/model.safetensors"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `checkpoint`."""
    parser = commands.add_parser("checkpoint", help="a bundle back as a checkpoint, to train on from", epilog=_EXAMPLE)
    parser.add_argument("bundle", help="name or folder of a bundle")
    parser.add_argument("-o", "--out", type=Path, required=True, help="file to write (.safetensors)")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint. Raises AvatarError."""
    need_packages("torch", "onnx", "onnxscript", "safetensors")
    from engine.bundle import find_bundle
    from engine.model.avatar import save_model
    from export.restore import restore

    bundle = find_bundle(args.bundle)
    meta = {"stage": "restored", "bundle": bundle.name, "training": bundle.manifest.get("training", {})}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_model(restore(bundle), args.out, meta)
    sys.stdout.write(f"{args.out}: {bundle.name}, without a probe; training fits one anew\n")
    return 0
