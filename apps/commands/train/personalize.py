"""`visavis train personalize`: from a person's portrait or film to a bundle whose decoder knows that person."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands.train.given import needs_training
from engine.errors import ArgumentError, FileMissingError

if TYPE_CHECKING:
    from engine.backends.base import Floats
    from engine.bundle import Bundle
    from export.scenes import Scene
    from training.personal.adapt import Adapted, PersonalConfig
    from training.personal.pairs import PersonPairs

_EXAMPLE = "example: visavis train personalize anna.mp4 --assets ASSETS --minutes 5 --out models/anna"
_BLOCKS = 24
"""Blocks of generated motion on which the decoder must stay as it was: about 8 s."""
_CALIBRATION_BLOCKS = 12
_MOVED_PX = 256
PORTRAIT = "portrait.png"
"""In a bundle made from a film: the frame that talks."""


def register(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `personalize` to the stages of `train`."""
    parser = stages.add_parser("personalize", help="adapt the decoder to one person, in minutes", epilog=_EXAMPLE)
    add = parser.add_argument
    add("sources", type=Path, nargs="+", metavar="PORTRAIT-OR-FILM", help="one person: portraits, or better films")
    add("--out", type=Path, required=True, help="folder of the bundle to write; replaced if it exists")
    add("--model", default="auto", metavar="NAME|PATH", help="bundle, or checkpoint of a run (default %(default)s)")
    add("--minutes", type=float, default=5.0, help="training time (default %(default)s)")
    add("--steps", type=int, default=100_000, help="step budget; whichever ends first")
    add("--assets", type=Path, help="folder with models/ (face finder) and, for portraits, ict/")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=0, help="CPU threads, 0 for all")
    add("--sheet", type=Path, metavar="PNG", help="also draw held-out frames: true, before, after")
    add("--json", action="store_true", help="report as one JSON document")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Adapt and write the bundle. Raises AvatarError; nothing is written when nothing was gained."""
    _check(args)
    try:
        from export.codec import read_codec
        from training.personal.adapt import PersonalConfig, adapt
        from training.personal.pairs import pairs_of
    except ImportError as error:
        raise needs_training(error, "train,export") from error
    bundle = _base(args.model, args.out)
    codec = read_codec(bundle)
    config = PersonalConfig(minutes=args.minutes, steps=args.steps, seed=args.seed, threads=args.threads)
    sources = [pairs_of(path, args.assets, size_px=_MOVED_PX) for path in args.sources]
    adapted = adapt(codec, sources, _generated_motion(bundle, sources[0]), config)
    write(bundle, adapted, sources, config, args.out)
    if args.sheet:
        from training.personal.sheet import save_sheet

        save_sheet(codec, adapted.codec, sources, args.sheet)
    _report(args, bundle, adapted)
    return 0


def write(
    bundle: Bundle, adapted: Adapted, sources: Sequence[PersonPairs], config: PersonalConfig, out: Path
) -> Bundle:
    """The personalised bundle, with what it was made from and what that gained in its manifest. Stages that the base
    has in 8 bits are quantised anew.
    """
    from engine.backends.staged import INT8_KEY
    from export.codec import manifest_hash, write_adapted
    from export.tune import quantise_again

    seen = [{"name": s.source.name, "sha256": _sha256(s.source), "frames": len(s)} for s in sources]
    personal = {
        "from": seen, "base": bundle.name, "base_manifest_sha256": manifest_hash(bundle), "steps": adapted.steps,
        "settings": asdict(config), "weights": list(adapted.names), "held_out": asdict(adapted.gain),
    }  # fmt: skip
    measured = {
        f"PSNR of this person's held-out {region}, dB (before {before})": after
        for region, (before, after) in adapted.gain.psnr_db.items()
    }
    notes = {
        "name": out.resolve().name,
        "personal": personal,
        "metrics": measured,
        "trained_on": f"{bundle.manifest.get('trained_on', '')} Its decoder was then adapted to one person, from"
        f" {', '.join(entry['name'] for entry in seen)}.",
    }
    whole = next((s.portrait for s in sources if s.portrait is not None), None)
    extra = {} if whole is None else {PORTRAIT: _png(whole)}
    written = write_adapted(bundle, adapted.codec, adapted.names, out, notes, extra)
    again: Bundle = quantise_again(written, bundle.manifest.get(INT8_KEY, ()), _speaking(bundle, sources[0]))
    return again


def _speaking(bundle: Bundle, pairs: PersonPairs) -> Scene:
    """This person and a voice that is shipped."""
    from apps.media import read_sound
    from engine.bundle import shipped_models
    from export.scenes import block_lengths, make_scenes

    voices = sorted((shipped_models().parent / "speech").glob("*.flac"))
    pcm = read_sound(voices[0]).pcm if voices else None
    return make_scenes([pairs.reference], pcm, block_lengths(bundle.sampling, _CALIBRATION_BLOCKS), _MOVED_PX)[0]


def _check(args: argparse.Namespace) -> None:
    if args.minutes <= 0 or args.steps < 1:
        raise ArgumentError("--minutes and --steps must be positive")
    for path in args.sources:
        if not path.is_file():
            raise FileMissingError(f"there is no portrait or film {path}")


def _base(model: str, out: Path) -> Bundle:
    """The bundle to start from; a checkpoint is exported beside `out` first."""
    from engine.bundle import find_bundle

    if not model.endswith(".safetensors"):
        return find_bundle(model)
    from export.bundle import Choices, export_bundle
    from export.sampling import sampling_of

    checkpoint, folder = Path(model), out.with_name(f"{out.name}-base")
    if not checkpoint.is_file():
        raise FileMissingError(f"there is no checkpoint {checkpoint}")
    base: Bundle = export_bundle(checkpoint, folder, Choices(folder.name, sampling_of(checkpoint))).bundle
    return base


def _generated_motion(bundle: Bundle, pairs: PersonPairs) -> Floats:
    """Motion latents [M, C, G, G] as the base model speaks with this portrait."""
    import numpy as np

    from engine.backends.registry import open_backend
    from export.parity import roll_out
    from export.scenes import block_lengths, make_scenes

    scene = make_scenes([pairs.reference], None, block_lengths(bundle.sampling, _BLOCKS), _MOVED_PX)[0]
    backend = open_backend("auto", bundle, None)
    try:
        return np.concatenate([block.latents for block in roll_out(backend, scene)])
    finally:
        backend.close()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _png(picture: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _report(args: argparse.Namespace, bundle: Bundle, adapted: Adapted) -> None:
    gain = adapted.gain
    if args.json:
        report = {"bundle": str(args.out), "base": bundle.name, "steps": adapted.steps, **asdict(gain)}
        sys.stdout.write(json.dumps(report) + "\n")
        return
    sys.stdout.write(
        f"{args.out}: {bundle.name} adapted in {adapted.steps} steps; on {gain.frames} held-out frames: "
        f"{gain.sentence()}; worse by more than 0.3 dB: {gain.frames_worse:.0%} of frames, at most "
        f"{max(0.0, -gain.worst_db):.1f} dB\n"
    )
