"""`visavis train`: audio, codec, teacher, distill, and the instruments."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from apps import personalize
from engine.errors import ExtraMissingError

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


_RECIPE_EXAMPLE = """example: visavis train recipe h200 --stage codec --cast cast --out runs/h200
then the same with --stage teacher and --stage student, then: visavis train assemble runs/h200 --out runs/base"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` and its stages."""
    parser = subparsers.add_parser(
        "train", help="train a model", epilog=_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    _audio(_stage(stages, "audio", "audio encoder from voices alone", batch=2048, lr=1e-3, minutes=10))
    _with_data(_stage(stages, "codec", "portrait codec from rendered pairs", batch=32, lr=6e-4, minutes=40))
    teacher = _with_data(_stage(stages, "teacher", "denoiser by flow matching", batch=32, lr=6e-4, minutes=40))
    teacher.add_argument("--articulation", type=float, default=0.0, help="stress on the errors of speech units")
    distill = _with_data(_stage(stages, "distill", "few-step student", batch=32, lr=2e-4, minutes=20))
    distill.add_argument("--method", choices=("consistency",), default="consistency")
    distill.add_argument("--guidance", type=float, default=1.5, help="guidance scale baked into the student")
    distill.add_argument("--articulation", type=float, default=0.0, help="weight of the recorded clip's speech units")
    _with_data(_stage(stages, "probe", "measuring instrument of `visavis evaluate`", batch=64, lr=1e-3, minutes=5))
    states = _with_data(_stage(stages, "states", "the instrument that names states", batch=512, lr=5e-3, minutes=5))
    states.add_argument("--probe", type=Path, required=True, help="the probe that it reads faces with")
    states.add_argument("--clips", type=int, default=400, help="clips to learn from (default %(default)s)")
    sync = _stage(stages, "sync", "the instrument that hears whether lips fit", batch=16, lr=1e-3, minutes=10)
    sync.add_argument("--data", type=Path, required=True, help="folder of held-out shards; it learns from half of them")
    _with_data(_stage(stages, "aligner", "face points of a rough crop, for portraits", batch=64, lr=1e-3, minutes=5))
    _all(stages)
    _recipe(stages)
    _assemble(stages)
    personalize.register(stages)
    parser.set_defaults(handler=run)


def _all(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = stages.add_parser("all", help="every stage, from drawing clips to the student")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of everything; the same command continues an interrupted run")
    add("--size", default="nano", choices=("tiny", "nano", "base"), help="model size (default %(default)s)")
    add("--assets", type=Path, help="folder with portraits, skins and hair; without it plain heads only")
    add("--clips", type=int, default=800, help="training clips to make (default %(default)s)")
    add("--seconds", type=float, default=4.0, help="length of a clip (default %(default)s)")
    add("--hours", type=float, default=2.0, help="hours of speech for the audio encoder (default %(default)s)")
    add("--workers", type=int, default=2, help="processes that draw and speak (default %(default)s)")
    add("--minutes", type=float, default=120.0, help="training time, shared by the stages (default %(default)s)")
    add("--batch", type=int, default=24, help="batch per process (default %(default)s)")
    add("--seed", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda")


def _recipe(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = stages.add_parser("recipe", help="one stage of a published run (training/recipes)", epilog=_RECIPE_EXAMPLE)
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


def _assemble(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = stages.add_parser("assemble", help="one checkpoint from the small files of a run, for visavis export")
    parser.add_argument("folder", type=Path, help="the run's folder (visavis train recipe --out)")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.safetensors")


def _stage(
    stages: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str, text: str, *, batch: int, lr: float, minutes: float,
) -> argparse.ArgumentParser:  # fmt: skip
    parser = stages.add_parser(name, help=text)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the run: model.safetensors, log.jsonl, sample grids")
    add("--size", default="nano", choices=("tiny", "nano", "base"), help="model size, when not starting from another")
    add("--start", type=Path, help="checkpoint to start from")
    add("--minutes", type=float, default=minutes, help=f"time budget (default {minutes})")
    add("--steps", type=int, default=1_000_000, help="step budget; whichever ends first")
    add("--batch", type=int, default=batch, help=f"batch per process (default {batch})")
    add("--lr", type=float, default=lr, help=f"peak learning rate (default {lr})")
    add("--seed", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda")
    add("--threads", type=int, default=0, help="CPU threads, 0 for all")
    add("--sample-every", type=int, default=500, help="steps between measurements and sample grids")
    return parser


def _with_data(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--data", type=Path, required=True, help="folder of training shards (visavis data make)")
    parser.add_argument("--test", type=Path, required=True, help="folder of held-out shards")
    parser.add_argument("--cache", type=Path, help="unpacked shards and latents (default: OUT/../cache)")
    return parser


def _audio(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hours", type=float, default=2.0, help="hours of speech to synthesise")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--voices", type=Path, help="folder of kept voices (visavis data make --cache)")


def run(args: argparse.Namespace) -> int:
    """Run the stage that was asked for. Raises AvatarError."""
    try:
        from training.run import RunConfig
    except ImportError as error:
        raise ExtraMissingError(f"{error}; training needs more: pip install 'visavis[train]'") from error

    direct = {"all": _run_all, "recipe": _run_recipe, "assemble": _run_assemble, "personalize": personalize.run}
    if args.stage in direct:
        return direct[args.stage](args)
    config = RunConfig(
        out=args.out, steps=args.steps, minutes=args.minutes, batch=args.batch, lr=args.lr, seed=args.seed,
        device=args.device, threads=args.threads, sample_every=args.sample_every,
    )  # fmt: skip
    stages = {
        "audio": _run_audio, "codec": _run_codec, "teacher": _run_denoiser, "distill": _run_denoiser,
        "probe": _run_instrument, "aligner": _run_instrument, "states": _run_states,
        "sync": _run_sync,
    }  # fmt: skip
    stages[args.stage](args, config)
    return 0


def _run_all(args: argparse.Namespace) -> int:
    from training.pipeline import PipelineConfig, train_all

    names = ("out", "size", "assets", "clips", "seconds", "workers", "hours", "minutes", "batch", "seed", "device")
    config = PipelineConfig(**{name: getattr(args, name) for name in names})
    student = train_all(config, lambda stage: print(f"stage: {stage}", file=sys.stderr))
    print(f"student: {student}\nnext: visavis export onnx {student} -o assets/models/{config.size}")
    return 0


def _run_recipe(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from training.staged.plan import load_recipe, rehearsal
    from training.staged.run import run_stage

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


def _run_assemble(args: argparse.Namespace) -> int:
    from training.staged.product import assemble

    path = assemble(args.folder, args.out)
    print(f"{path}\nnext: visavis export onnx {path} -o assets/models/base")
    return 0


def _run_audio(args: argparse.Namespace, config: object) -> None:
    from training.audio import load_or_make, train_audio

    bank = load_or_make(args.out / "bank", args.hours, "train", args.workers, args.voices, args.seed)
    test = load_or_make(args.out / "bank-test", args.hours / 10, "test", args.workers, args.voices, args.seed)
    train_audio(bank, test, config, args.size, args.start)


def _shards(folder: Path) -> list[Path]:
    from engine.errors import DataSettingsError

    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise DataSettingsError(f"{folder} holds no shards; make some with: visavis data make --out {folder}")
    return shards


def _cache(args: argparse.Namespace) -> Path:
    return args.cache or args.out.parent / "cache"


def _run_codec(args: argparse.Namespace, config: object) -> None:
    from training.codec import train_codec

    train_codec(_shards(args.data), _shards(args.test), config, args.size, _cache(args) / "pairs", args.start)


def _run_denoiser(args: argparse.Namespace, config: object) -> None:
    from training.denoising import latents_of, train_consistency, train_teacher
    from training.objectives.consistency import ConsistencyConfig
    from training.objectives.flow_matching import FlowMatchingConfig

    clips = latents_of(_shards(args.data), args.start, _cache(args), "train")
    held_out = latents_of(_shards(args.test), args.start, _cache(args), "test")
    if args.stage == "teacher":
        train_teacher(clips, held_out, config, args.start, FlowMatchingConfig(articulation=args.articulation))
    else:
        how = ConsistencyConfig(guidance=args.guidance, articulation=args.articulation)
        train_consistency(clips, held_out, config, args.start, how)


def _run_instrument(args: argparse.Namespace, config: object) -> None:
    from training.instruments import train_aligner, train_probe

    if args.stage == "probe":
        train_probe(_shards(args.data), _shards(args.test), config, _cache(args), args.start)
    else:
        train_aligner(_shards(args.data), _shards(args.test), config, _cache(args) / "pairs")


def _run_states(args: argparse.Namespace, config: object) -> None:
    from engine.model.avatar import load_model
    from training.evaluate.sources import CodecOnly
    from training.instruments.states import train_states

    codec = CodecOnly(load_model(args.start)[0]).frames if args.start else None
    args.out.mkdir(parents=True, exist_ok=True)
    train_states(_shards(args.data), _shards(args.test), args.probe, args.out / "states.safetensors", args.clips, codec)


def _run_sync(args: argparse.Namespace, config: object) -> None:
    from training.instruments.sync import train_sync

    train_sync(_shards(args.data), config)
