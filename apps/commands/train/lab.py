"""`visavis train lab`: every method of distillation on one teacher, with equal budgets, in one table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from apps.commands.train.given import needs_training
from engine.errors import ArgumentError

_EXAMPLE = """example: visavis train lab --teacher runs/teacher/model.safetensors --data data/train --test data/test \\
                     --minutes 4 --out runs/lab
The same command goes on where it stopped; more seeds or methods are added to what is there."""


def register(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `lab`."""
    parser = stages.add_parser("lab", help="all methods of distillation in one table (docs/lab)", epilog=_EXAMPLE)
    add = parser.add_argument
    add("--teacher", type=Path, required=True, help="checkpoint of a teacher")
    add("--data", type=Path, required=True, help="folder of training shards (visavis data make)")
    add("--test", type=Path, required=True, help="folder of held-out shards")
    add("--out", type=Path, required=True, help="folder of the cells, table.md, table.png and cells.json")
    add("--cache", type=Path, help="unpacked shards and latents (default: OUT/../cache)")
    add("--methods", nargs="+", metavar="NAME", help="some of all (default: all)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default 0 1 2")
    add("--minutes", type=float, default=4.0, help="training time of a cell (default %(default)s)")
    add("--batch", type=int, default=8, help="default %(default)s")
    add("--clips", type=int, default=40, help="held-out clips to measure on (default %(default)s)")
    add("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Fill the table. Raises AvatarError."""
    try:
        from apps.commands.train.stages import shards
        from training.denoising import latents_of
        from training.lab.cells import LabConfig
        from training.lab.run import METHODS, run_lab
    except ImportError as error:
        raise needs_training(error) from error

    methods = args.methods or METHODS
    if unknown := set(methods) - set(METHODS):
        raise ArgumentError(f"unknown methods {sorted(unknown)}; there are {', '.join(METHODS)}")
    cache = args.cache or args.out.parent / "cache"
    clips, held_out = (
        latents_of(shards(folder), args.teacher, cache, split)
        for folder, split in ((args.data, "train"), (args.test, "test"))
    )
    config = LabConfig(
        args.out, args.teacher, minutes=args.minutes, batch=args.batch, seeds=tuple(args.seeds), clips=args.clips,
        threads=args.threads,
    )  # fmt: skip
    table = run_lab(config, methods, clips, held_out, lambda cell: print(cell, file=sys.stderr, flush=True))
    sys.stdout.write(table.read_text(encoding="utf-8"))
    return 0
