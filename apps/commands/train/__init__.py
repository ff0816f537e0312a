"""`visavis train`: the stages of a model, its instruments, whole runs, and a model of one person."""

from __future__ import annotations

import argparse

from apps.commands.train import bench_lab, everything, lab, personalize, recipe, stages

_EXAMPLE = """examples:
  visavis train all --size base --assets ASSETS --clips 6000 --workers 16 --minutes 600 --batch 96 --out runs/base
                        (everything, from drawing clips to the student; on a GPU this is how `base` is trained)
  visavis train audio   --out runs/audio --minutes 10
  visavis train states  --data data/train --test data/test --probe runs/probe/probe.safetensors \\
                        --start runs/codec/model.safetensors --out runs/states
  visavis train sync    --data data/sync --out runs/sync
                        (clips of --split test and another --seed: it must not learn from whom the model learned)
  visavis train codec   --data data/train --test data/test --start runs/audio/model.safetensors --out runs/codec
  visavis train teacher --data data/train --test data/test --start runs/codec/model.safetensors --out runs/teacher
  visavis train distill --method consistency --data data/train --test data/test \\
                        --start runs/teacher/model.safetensors --out runs/student
  visavis train personalize anna.mp4 --assets ASSETS --minutes 5 --out models/anna
                        (adapts the shipped model's decoder to one person; a CPU is enough)
  torchrun --nproc-per-node 8 -m apps.cli train codec ...     (one process per GPU)
A run that was stopped continues when the same command is given again.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` and its stages."""
    parser = subparsers.add_parser(
        "train", help="train a model", epilog=_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for part in (stages, everything, recipe, lab, bench_lab, personalize):
        part.register(commands)
