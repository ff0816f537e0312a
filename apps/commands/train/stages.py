"""`visavis train STAGE`: one stage of the model, or one of the instruments that measure it."""

from __future__ import annotations

import argparse
from pathlib import Path

from apps.commands.train.given import needs_training
from engine.errors import DataSettingsError

METHODS = ("consistency", "dmd", "reward", "asd", "mogan", "phased", "tdm", "accvideo", "vdit", "vdot")


def register(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add every stage and every instrument."""
    _audio(_stage(stages, "audio", "audio encoder from voices alone", batch=2048, lr=1e-3, minutes=10))
    _with_data(_stage(stages, "codec", "portrait codec from rendered pairs", batch=32, lr=6e-4, minutes=40))
    teacher = _with_data(_stage(stages, "teacher", "denoiser by flow matching", batch=32, lr=6e-4, minutes=40))
    teacher.add_argument("--articulation", type=float, default=0.0, help="stress on the errors of speech units")
    distill = _with_data(_stage(stages, "distill", "few-step student", batch=32, lr=2e-4, minutes=20))
    distill.add_argument("--method", choices=METHODS, default="consistency", help="see docs/lab (default %(default)s)")
    distill.add_argument("--draw-steps", type=int, default=2, help="that the student is drawn with (default 2)")
    distill.add_argument(
        "--first-steps", type=int, default=0, help="of a clip's first block in roll-outs, 0: as others"
    )
    distill.add_argument("--sink-decay", type=float, default=1.0, help="of an EMA-Sink in roll-outs, 1 for none")
    distill.add_argument("--segments", type=int, default=1, help="of the path, for multistep consistency (default 1)")
    distill.add_argument("--critic-updates", type=int, default=5, help="for each of the student's (default 5)")
    distill.add_argument("--guidance", type=float, default=1.5, help="guidance scale baked into the student")
    distill.add_argument("--articulation", type=float, default=0.0, help="weight of the recorded clip's speech units")
    distill.add_argument("--steady", type=float, default=0.0, help="weight of the mouth without chance")
    distill.add_argument("--stress", type=float, default=1.0, help="how much more than the clip's mouth to aim at")
    distill.add_argument(
        "--even-states", type=float, default=0.0, metavar="SHARE",
        help="of the sequences, 0 to 1, that are drawn for their state, each state as often",
    )  # fmt: skip
    distill.add_argument("--student", type=Path, help="a student to go on from; --start is its teacher")
    distill.add_argument("--audio", type=Path, help="checkpoint whose audio encoder the student shall hear through")
    probe = _with_data(_stage(stages, "probe", "the instrument of `visavis evaluate`", batch=64, lr=1e-3, minutes=5))
    probe.add_argument("--refine", action="store_true", help="train the look at the whole crop of --start further")
    states = _with_data(_stage(stages, "states", "the instrument that names states", batch=512, lr=5e-3, minutes=5))
    states.add_argument("--probe", type=Path, required=True, help="the probe that it reads faces with")
    states.add_argument("--clips", type=int, default=400, help="clips to learn from (default %(default)s)")
    sync = _stage(stages, "sync", "the instrument that hears whether lips fit", batch=16, lr=1e-3, minutes=10)
    sync.add_argument("--data", type=Path, required=True, help="folder of held-out shards; it learns from half of them")
    _with_data(_stage(stages, "aligner", "face points of a rough crop, for portraits", batch=64, lr=1e-3, minutes=5))


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
    parser.set_defaults(handler=run)
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
        raise needs_training(error) from error

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


def _run_audio(args: argparse.Namespace, config: object) -> None:
    from training.audio import load_or_make, train_audio

    bank = load_or_make(args.out / "bank", args.hours, "train", args.workers, args.voices, args.seed)
    test = load_or_make(args.out / "bank-test", args.hours / 10, "test", args.workers, args.voices, args.seed)
    train_audio(bank, test, config, args.size, args.start)


def shards(folder: Path) -> list[Path]:
    """The shards of a data set. Raises DataSettingsError when there are none."""
    found = sorted(folder.glob("*.tar"))
    if not found:
        raise DataSettingsError(f"{folder} holds no shards; make some with: visavis data make --out {folder}")
    return found


def _cache(args: argparse.Namespace) -> Path:
    return args.cache or args.out.parent / "cache"


def _run_codec(args: argparse.Namespace, config: object) -> None:
    from training.codec import train_codec

    train_codec(shards(args.data), shards(args.test), config, args.size, _cache(args) / "pairs", args.start)


def _run_denoiser(args: argparse.Namespace, config: object) -> None:
    from training.denoising import Inherited, latents_of, train_consistency, train_teacher
    from training.objectives.consistency import ConsistencyConfig
    from training.objectives.flow_matching import FlowMatchingConfig

    clips = latents_of(shards(args.data), args.start, _cache(args), "train")
    held_out = latents_of(shards(args.test), args.start, _cache(args), "test")
    if args.stage == "teacher":
        train_teacher(clips, held_out, config, args.start, FlowMatchingConfig(articulation=args.articulation))
        return
    inherited = Inherited(args.student, args.audio) if args.student or args.audio else None
    if args.method not in ("consistency", "vdit"):
        from engine.diffusion.rollout import Manner
        from training.distilling import train_matching
        from training.duel import CriticConfig
        from training.objectives.dmd import MatchingConfig
        from training.objectives.selfroll import Rolling

        manner = Manner(sink_decay=args.sink_decay)
        rolling = Rolling(args.draw_steps, manner=manner, first_steps=args.first_steps)
        matching = MatchingConfig(rolling=rolling, guidance=args.guidance)
        train_matching(
            clips, held_out, config, args.start, args.method, matching, inherited, args.even_states,
            CriticConfig(steps=args.critic_updates),
        )  # fmt: skip
    else:
        how = ConsistencyConfig(
            guidance=args.guidance, articulation=args.articulation, steady=args.steady, stress=args.stress,
            segments=args.segments,
        )  # fmt: skip
        if args.method == "consistency":
            train_consistency(clips, held_out, config, args.start, how, inherited, args.even_states)
        else:
            from training.objectives.tile_distillation import TileConfig
            from training.tiling import train_tiles

            train_tiles(clips, held_out, config, args.start, how, TileConfig(), inherited, args.even_states)


def _run_instrument(args: argparse.Namespace, config: object) -> None:
    from training.instruments import train_aligner, train_probe

    if args.stage == "probe":
        train_probe(shards(args.data), shards(args.test), config, _cache(args), args.start, args.refine)
    else:
        train_aligner(shards(args.data), shards(args.test), config, _cache(args) / "pairs")


def _run_states(args: argparse.Namespace, config: object) -> None:
    from engine.model.avatar import load_model
    from training.evaluate.sources import CodecOnly
    from training.instruments.states import train_states

    codec = CodecOnly(load_model(args.start)[0]).frames if args.start else None
    args.out.mkdir(parents=True, exist_ok=True)
    train_states(shards(args.data), shards(args.test), args.probe, args.out / "states.safetensors", args.clips, codec)


def _run_sync(args: argparse.Namespace, config: object) -> None:
    from training.instruments.sync import train_sync

    train_sync(shards(args.data), config)
