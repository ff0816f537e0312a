"""`visavis train recipe` and `visavis train assemble`: a published run, stage by stage, and its checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from apps.commands.train.given import needs_training

_EXAMPLE = """example: visavis train recipe h200 --stage codec --cast cast --out runs/h200
then the same with --stage teacher and --stage student, then: visavis train assemble runs/h200 --out runs/base"""


def register(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `recipe` and `assemble`."""
    _recipe(stages)
    _assemble(stages)


def _recipe(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = stages.add_parser("recipe", help="one stage of a published run (training/recipes)", epilog=_EXAMPLE)
    add = parser.add_argument
    add("name", help="which run, such as h200")
    add("--stage", dest="part", required=True, choices=("codec", "teacher", "student"))
    add("--cast", type=Path, required=True, help="folder of a cast (visavis data cast)")
    add("--out", type=Path, required=True, help="folder of the run; each stage leaves a folder of small files in it")
    add("--resume", type=Path, help="folder of an earlier run: stages that --out lacks are taken from there")
    add("--work", type=Path, help="folder that lets a stopped stage go on (default: among the temporary files)")
    add("--minutes", type=float, help="training time of the stage, instead of the recipe's")
    add("--batch", type=int, help="batch, instead of the recipe's")
    add("--workers", type=int, help="processes that draw, instead of the recipe's")
    add("--size", choices=("tiny", "nano", "base"), help="model size, instead of the recipe's")
    add("--device", default="auto", help="auto, cpu, cuda")
    add("--no-compile", action="store_true", help="leave torch.compile out")
    add(
        "--rehearse", action="store_true", help="every step with a tiny model and few steps, on a processor in a minute"
    )
    add("--json", action="store_true", help="figures as one JSON document")
    parser.set_defaults(handler=run_recipe)


def _assemble(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = stages.add_parser("assemble", help="one checkpoint from the small files of a run, for visavis export")
    parser.add_argument("folder", type=Path, help="the run's folder (visavis train recipe --out)")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.safetensors")
    parser.set_defaults(handler=run_assemble)


def run_recipe(args: argparse.Namespace) -> int:
    """Train one stage. Raises AvatarError."""
    try:
        from training.staged.plan import load_recipe, rehearsal
        from training.staged.run import run_stage
    except ImportError as error:
        raise needs_training(error) from error

    recipe = load_recipe(args.name)
    if args.rehearse:
        recipe = rehearsal(recipe)
    changes = {name: value for name in ("minutes", "batch") if (value := getattr(args, name)) is not None}
    whole = {name: value for name in ("workers", "size") if (value := getattr(args, name)) is not None}
    compiled = recipe.compile and not args.no_compile
    recipe = replace(recipe, compile=compiled, **whole, **{args.part: replace(recipe.plan(args.part), **changes)})
    figures = run_stage(
        recipe, args.part, args.cast, args.out, args.resume, args.work, args.device,
        lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    if args.json:
        print(json.dumps(figures))
        return 0
    shown = {k: v for k, v in figures.items() if isinstance(v, int | float | str)} | figures["test"]
    print("\n".join(f"{name}: {value}" for name, value in shown.items()))
    return 0


def run_assemble(args: argparse.Namespace) -> int:
    """Join the files of a run. Raises AvatarError."""
    try:
        from training.staged.product import assemble
    except ImportError as error:
        raise needs_training(error) from error

    path = assemble(args.folder, args.out)
    print(f"{path}\nnext: visavis export onnx {path} -o assets/models/base")
    return 0
