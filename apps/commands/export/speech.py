"""`visavis export speech`: a bundle's mouth without chance, see engine.diffusion.rollout.articulate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from apps.commands.export.given import need_packages

_EXAMPLE = "example: visavis export speech models/nano --checkpoint runs/nano/model.safetensors --data data/train"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `speech`."""
    parser = commands.add_parser("speech", help="find what speech moves, and draw it without chance", epilog=_EXAMPLE)
    add = parser.add_argument
    add("bundle", help="name or folder of a bundle, which gets the file and the setting")
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="what it was made of, or `export checkpoint`'s")
    add("--data", type=Path, required=True, metavar="DIR", help="clips of `visavis data make`")
    add("--cache", type=Path, default=Path("cache"), metavar="DIR", help="for latents (default %(default)s)")
    add("--stress", type=float, default=1.1, metavar="X", help="gain of the likeliest mouth (default %(default)s)")
    add("--people", type=int, default=16, metavar="N", help="whose pictures are asked (default %(default)s)")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Write the directions and the manifest. Raises AvatarError."""
    need_packages("torch", "onnx", "safetensors")
    from engine.bundle import find_bundle
    from engine.errors import ArgumentError
    from engine.model.avatar import load_model
    from export.speech import add_speech
    from training.data.shards import list_shards
    from training.denoising import latents_of
    from training.speech import SpeechConfig, find_speech

    if args.stress <= 0 or args.people < 1:
        raise ArgumentError("--stress and --people are above 0")
    bundle = find_bundle(args.bundle)
    clips = latents_of(list_shards(args.data), args.checkpoint, args.cache, "train")
    speech = find_speech(load_model(args.checkpoint)[0], clips, SpeechConfig(people=args.people))
    add_speech(bundle, speech, args.stress)
    sys.stdout.write(f"{bundle.root}: {speech.shape[1]} directions of speech, stress {args.stress:g}\n")
    return 0
