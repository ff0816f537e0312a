"""`visavis train tiles` and `visavis train drift`: what of the laboratory is measured beside its table."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from apps.commands.train.given import needs_training


def register(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tiles` and `drift`."""
    tiles = stages.add_parser("tiles", help="how long attention takes with tiles left out, beside dense attention")
    add = tiles.add_argument
    add("--frames", type=int, nargs="+", default=[8, 16, 32, 64], help="default 8 16 32 64")
    add("--globals", type=int, nargs="+", default=[2, 4], dest="counts", help="frames that all see (default 2 4)")
    add("--tokens", type=int, default=128, help="of a frame (default %(default)s)")
    add("--device", default="cpu", help="cpu, cuda (default %(default)s)")
    add("--threads", type=int, default=0, help="CPU threads, 0 for all")
    add("--json", action="store_true", help="one JSON document")
    tiles.set_defaults(handler=run_tiles)

    drift = stages.add_parser("drift", help="ten minutes of rolling on, with an EMA-Sink and without")
    add = drift.add_argument
    add("checkpoint", type=Path, help="a student")
    add("--test", type=Path, required=True, help="folder of held-out shards")
    add("--cache", type=Path, required=True, help="folder for latents")
    add(
        "--sinks", type=float, nargs="+", default=[1.0, 0.99, 0.0], help="decays; 1: static, 0: none (default 1 0.99 0)"
    )
    add("--minutes", type=int, default=10, help="default %(default)s")
    add("--people", type=int, default=4, help="at once (default %(default)s)")
    add("--threads", type=int, default=0, help="CPU threads, 0 for all")
    add("--json", action="store_true", help="one JSON document")
    drift.set_defaults(handler=run_drift)


def run_tiles(args: argparse.Namespace) -> int:
    """Time both ways. Raises AvatarError."""
    try:
        import torch

        from training.attention.measure import time_tiles
    except ImportError as error:
        raise needs_training(error) from error

    if args.threads:
        torch.set_num_threads(args.threads)
    timings = time_tiles(args.frames, args.counts, args.tokens, device=args.device)
    if args.json:
        sys.stdout.write(json.dumps([asdict(t) | {"speedup": t.speedup} for t in timings]) + "\n")
        return 0
    sys.stdout.write(
        "| frames | global | left out | dense, ms | tiles, ms | times as fast |\n|---|---|---|---|---|---|\n"
    )
    for t in timings:
        sys.stdout.write(
            f"| {t.frames} | {t.count} | {t.sparsity:.0%} | {t.dense_ms:.1f} | {t.tiled_ms:.1f} | {t.speedup:.1f} |\n"
        )
    return 0


def run_drift(args: argparse.Namespace) -> int:
    """Roll on and measure. Raises AvatarError."""
    try:
        import torch

        from apps.commands.train.stages import shards
        from engine.model.avatar import load_model
        from training.denoising import latents_of
        from training.generate import student_sampling
        from training.lab.drift import drift
        from training.probing import ensure_probe
    except ImportError as error:
        raise needs_training(error) from error

    if args.threads:
        torch.set_num_threads(args.threads)
    model, meta = load_model(args.checkpoint)
    clips = latents_of(shards(args.test), args.checkpoint, args.cache, "test")
    ensure_probe(model, clips)
    how = student_sampling(meta)
    found = {
        decay: [asdict(m) for m in drift(model, clips, how, decay, args.minutes, args.people)] for decay in args.sinks
    }
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    sys.stdout.write("| sink | minute | away | energy | FID-like |\n|---|---|---|---|---|\n")
    for decay, minutes in found.items():
        name = {1.0: "static", 0.0: "none"}.get(decay, f"EMA {decay:g}")
        for m in minutes:
            sys.stdout.write(f"| {name} | {m['minute']} | {m['away']:.2f} | {m['energy']:.2f} | {m['frechet']:.1f} |\n")
    return 0
