"""One evaluation from start to end: choose held-out clips, open the sources, measure, sum up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.engine import load
from engine.errors import DataSettingsError, FileMissingError
from engine.model.avatar import load_model
from training.data.clips import Clip
from training.data.shards import iterate_shards, list_shards, shard_keys
from training.evaluate.measure import ClipFigures, measure_clip, summarise
from training.evaluate.pictures import codec_clips, measure_people, people_of, summarise_people
from training.evaluate.report import Evaluation
from training.evaluate.sources import CODEC_ROW, Checkpoint, CodecOnly, GroundTruth, Runtime, RuntimeCodec, Source
from training.generate import STUDENT_SAMPLING, TEACHER_SAMPLING
from training.instruments.probe import Probe
from training.instruments.states import StateNamer, load_namer

STEPS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """data: folder of held-out shards, or one shard. model: bundle by name or path, run by the engine with `backend`.
    checkpoints: torch checkpoints of any stage. instruments: folder with probe.safetensors and states.safetensors.
    codec_people: held-out people rendered at 256 px for the codec's section, 0 to use the clips of `data`;
    assets: photographs for it. size_px: size of the engine's frames, the clips' own when None.
    """

    data: Path
    instruments: Path
    model: str | None = None
    backend: str = "auto"
    checkpoints: tuple[Path, ...] = ()
    clips: int = 24
    steps: tuple[int, ...] = STEPS
    teacher_steps: int = TEACHER_SAMPLING.steps
    codec_people: int = 0
    assets: Path | None = None
    work: Path | None = None
    size_px: int | None = None
    seed: int = 0


def shipped_instruments() -> Path:
    """The folder of the instruments that come with this installation."""
    return Path(__file__).resolve().parents[2] / "assets" / "instruments"


def choose_clips(data: Path, count: int) -> list[Clip]:
    """`count` clips spread over all shards, so that many people are among them. Raises DataSettingsError when empty."""
    shards = list_shards(data)
    keys = [(shard, key) for shard in shards for key in shard_keys(shard)]
    if not keys:
        raise DataSettingsError(f"there are no clips in {data}; make some with `visavis data make --split test`")
    picked = {keys[i] for i in np.linspace(0, len(keys) - 1, min(count, len(keys))).round().astype(int)}
    return [clip for shard in shards for clip in iterate_shards([shard]) if (shard, clip.key) in picked]


def open_sources(config: EvaluateConfig, size_px: int) -> list[Source]:
    """The rows below the ground truth: the codec once, then each checkpoint and the bundle at each number of steps."""
    sources: list[Source] = []
    for path in config.checkpoints:
        model, meta = load_model(path)
        if not sources:
            sources.append(CodecOnly(model))
        if meta.get("stage") == "teacher":
            how = replace(TEACHER_SAMPLING, steps=config.teacher_steps)
            sources.append(Checkpoint(f"teacher {_steps(how.steps)}", model, how, config.seed))
        elif meta.get("stage") == "consistency":
            sources += [
                Checkpoint(f"student {_steps(n)}", model, replace(STUDENT_SAMPLING, steps=n), config.seed)
                for n in config.steps
            ]
    if config.model is not None:
        engine = load(config.model, config.backend)
        name = f"{engine.model} ({engine.backend.name})"
        if not sources and RuntimeCodec.fits(engine.backend):
            sources.append(RuntimeCodec(engine.backend))
        sources += [Runtime(f"{name} {_steps(n)}", engine, n, size_px, config.seed) for n in config.steps]
    return sources


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def evaluate(config: EvaluateConfig, progress: Callable[[str, float], None] = lambda what, done: None) -> Evaluation:
    """Measure every source on the same clips. progress gets what is being done and the fraction of it.

    Raises FileMissingError without instruments, and what opening the shards, checkpoints and bundle raises.
    """
    probe = _open_probe(config.instruments)
    namer, states_meta = _open_namer(config.instruments)
    clips = choose_clips(config.data, config.clips)
    sources: list[Source] = [GroundTruth(), *open_sources(config, config.size_px or clips[0].frames.shape[1])]
    figures: dict[str, list[ClipFigures]] = {}
    for source in sources:
        figures[source.name] = []
        for i, clip in enumerate(clips):
            progress(source.name, i / len(clips))
            figures[source.name].append(measure_clip(probe, clip, source.frames(clip), source.paired))
    truth = figures[sources[0].name]
    codec = next((s for s in sources if s.name == CODEC_ROW), None)
    people = measure_people(codec, _codec_subjects(config)) if codec else []
    return Evaluation(
        rows=tuple(summarise(name, part, truth, namer) for name, part in figures.items()),
        clips=figures,
        references=tuple(clips),
        codec=tuple(summarise_people(people)),
        people=tuple(people),
        instruments={"probe": probe.errors, "state classifier": states_meta} if namer else {"probe": probe.errors},
    )


def _open_probe(folder: Path) -> Probe:
    path = folder / "probe.safetensors"
    if not path.exists():
        raise FileMissingError(f"there is no probe at {path}; train one with `visavis train probe`")
    return Probe.load(path)


def _open_namer(folder: Path) -> tuple[StateNamer | None, dict[str, float]]:
    """The state classifier with its own errors; without it that column stays empty."""
    path = folder / "states.safetensors"
    if not path.exists():
        return None, {}
    namer, meta = load_namer(path)
    return namer, meta["errors"]


def _codec_subjects(config: EvaluateConfig) -> Iterable[Clip]:
    if not config.codec_people:
        return people_of(list_shards(config.data))
    folder = (config.work or config.data) / "codec-256"
    return people_of(codec_clips(folder, config.assets, config.codec_people))
