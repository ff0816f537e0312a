"""One evaluation from start to end: choose held-out clips, open the sources, measure, sum up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from engine.engine import load
from engine.errors import ArgumentError, DataSettingsError, FileMissingError
from engine.model.avatar import load_model
from training.data.clips import Clip
from training.data.shards import iterate_shards, list_shards, shard_keys
from training.evaluate.compare import FEWEST_CLIPS, Difference, Figure, compare_rows, figures_of
from training.evaluate.drift import gather, measure_drift
from training.evaluate.drift_report import drift_section
from training.evaluate.frechet import Observer
from training.evaluate.likeness import Gallery
from training.evaluate.measure import ClipFigures, RowFigures, summarise
from training.evaluate.pictures import Person, codec_clips, measure_people, people_of, summarise_people
from training.evaluate.provenance import facts
from training.evaluate.report import Evaluation
from training.evaluate.sections import Section
from training.evaluate.sources import CODEC_ROW, Checkpoint, CodecOnly, GroundTruth, Runtime, Source, bundle_codec
from training.evaluate.walk import Walk
from training.generate import TEACHER_SAMPLING, student_sampling
from training.instruments.probe import Probe
from training.instruments.states import StateNamer, load_namer

Progress = Callable[[str, float], None]
"""Gets what is being done and the fraction of it."""


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """data: folder of held-out shards, or one shard. models: bundles by name or path, run by the engine with `backend`.
    checkpoints: torch checkpoints of any stage. instruments: folder with probe.safetensors and states.safetensors.
    steps: denoising steps of students and bundles; empty for one row each, with the number that they ship with.
    codec_people: held-out people rendered at 256 px for the codec's section, 0 to use the clips of `data`;
    assets: photographs for it. size_px: size of the engine's frames, the clips' own when None.
    minutes: how long to stream `people` people with each bundle for the section on drift, 0 for none.
    expressions: how many clips to generate once more with their expression given. films: clips to show side by side.
    command: how to run this again, for the report.
    """

    data: Path
    instruments: Path
    models: tuple[str, ...] = ()
    backend: str = "auto"
    checkpoints: tuple[Path, ...] = ()
    clips: int = 24
    steps: tuple[int, ...] = ()
    teacher_steps: int = TEACHER_SAMPLING.steps
    codec_people: int = 0
    assets: Path | None = None
    work: Path | None = None
    size_px: int | None = None
    seed: int = 0
    minutes: float = 0.0
    people: int = 1
    expressions: int = 8
    films: int = 3
    command: str = ""


def shipped_instruments() -> Path:
    """The folder of the instruments that come with this installation."""
    return Path(__file__).resolve().parents[2] / "assets" / "instruments"


def choose_clips(data: Path, count: int) -> list[Clip]:
    """`count` clips spread over all shards, so that many people are among them. Raises DataSettingsError when empty."""
    return list(iterate_chosen(data, count))


def iterate_chosen(data: Path, count: int) -> Iterator[Clip]:
    """The same, one in memory at a time."""
    shards = list_shards(data)
    keys = [(shard, key) for shard in shards for key in shard_keys(shard)]
    if not keys:
        raise DataSettingsError(f"there are no clips in {data}; make some with `visavis data make --split test`")
    picked = {keys[i] for i in np.linspace(0, len(keys) - 1, min(count, len(keys))).round().astype(int)}
    for shard in shards:
        wanted = {key for other, key in picked if other == shard}
        for clip in iterate_shards([shard]) if wanted else ():
            if clip.key in wanted:
                yield clip


def open_sources(config: EvaluateConfig, size_px: int, stack: ExitStack) -> list[Source]:
    """The rows below the ground truth: the codec once, then each checkpoint and bundle at each number of steps. Rows
    that would share a name also say which file or folder they come from. stack: closes the engines.
    """
    rows: list[tuple[Source, str]] = []
    for path in config.checkpoints:
        rows += [(source, _where(path)) for source in _checkpoint_rows(config, path, codec=not rows)]
    for model in config.models:
        engine = stack.enter_context(load(model, config.backend))
        # The first codec is the one that the other rows are held against; a further bundle may bring its own.
        codec = bundle_codec(model, engine.backend, f"{CODEC_ROW}, {_where(Path(model))}" if rows else CODEC_ROW)
        if codec is not None:
            rows.append((codec, _where(Path(model))))
        name = f"{engine.model} ({engine.backend.name})"
        for steps in config.steps or (engine.backend.sampling.steps,):
            row = Runtime(f"{name} {_steps(steps)}", engine, steps, size_px, config.seed)
            rows.append((row, _where(Path(model))))
    return _with_own_names(rows)


def _checkpoint_rows(config: EvaluateConfig, path: Path, codec: bool) -> list[Source]:
    model, meta = load_model(path)
    rows: list[Source] = [CodecOnly(model)] if codec else []
    if meta.get("stage") == "teacher":
        how = replace(TEACHER_SAMPLING, steps=config.teacher_steps)
        rows.append(Checkpoint(f"teacher {_steps(how.steps)}", model, how, config.seed))
    elif meta.get("stage") == "consistency":
        own = student_sampling(meta)
        for steps in config.steps or (own.steps,):
            how = replace(own, steps=steps)
            rows.append(Checkpoint(f"student {_steps(steps)}", model, how, config.seed))
    return rows


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _where(path: Path) -> str:
    """The last part of a path that says most: checkpoints of several runs have one file name."""
    return path.parent.name if path.suffix else path.name


def _with_own_names(rows: list[tuple[Source, str]]) -> list[Source]:
    names = [source.name for source, _ in rows]
    for source, where in rows:
        if names.count(source.name) > 1:
            source.name = f"{source.name}, {where}"
    seen: dict[str, int] = {}
    for source, _ in rows:
        seen[source.name] = seen.get(source.name, 0) + 1
        if seen[source.name] > 1:
            source.name = f"{source.name} ({seen[source.name]})"
    return [source for source, _ in rows]


@dataclass(frozen=True, slots=True)
class _Instruments:
    """What measures, and its own errors by name."""

    observer: Observer
    namer: StateNamer | None
    errors: dict[str, dict[str, float]]


def evaluate(config: EvaluateConfig, progress: Progress = lambda what, done: None) -> Evaluation:
    """Measure every source on the same clips.

    Raises FileMissingError without instruments, and what opening the shards, checkpoints and bundle raises.
    """
    instruments = _open_instruments(config.instruments)
    clip_px = next(iterate_chosen(config.data, 1)).frames.shape[1]
    size_px = config.size_px or clip_px
    with ExitStack() as stack:
        sources = [GroundTruth(), *open_sources(config, size_px, stack)]
        walk = _walk(config, instruments.observer, sources, progress)
        people = _people(config, walk, sources)
        more = tuple(_drift(config, instruments.observer, sources, progress)) if config.minutes else ()
    gallery = Gallery.of(walk.portraits, walk.who, [c.faces for c in walk.figures[sources[0].name]])
    figures = figures_of(gallery, instruments.namer)
    generated = tuple(source.name for source in sources if not source.paired)
    return Evaluation(
        rows=_summaries(walk, instruments.namer, gallery),
        clips=walk.figures,
        references=tuple(walk.references),
        codec=tuple(summarise_people(people)),
        people=tuple(people),
        instruments=instruments.errors,
        gallery=gallery,
        expressions=tuple(walk.expressions),
        films=tuple(walk.films),
        comparison=_compare(walk.figures, generated, figures),
        comparable=tuple(figures),
        generated=generated,
        clip_px=clip_px,
        size_px=size_px,
        command=config.command,
        facts=(*facts(), ("seed of the noise", str(config.seed))),
        more=more,
    )


def _walk(config: EvaluateConfig, observer: Observer, sources: Sequence[Source], progress: Progress) -> Walk:
    total = min(config.clips, sum(len(shard_keys(shard)) for shard in list_shards(config.data)))
    # Spread over the clips, so that people of every kind are among them.
    films = set(np.linspace(0, total - 1, min(config.films, total)).round().astype(int).tolist())
    walk = Walk(observer, sources, config.expressions, films, people=not config.codec_people)
    for i, clip in enumerate(iterate_chosen(config.data, config.clips)):
        progress(f"clip {i + 1} of {total}", i / total)
        walk.measure(clip)
    return walk


def _people(config: EvaluateConfig, walk: Walk, sources: Sequence[Source]) -> Sequence[Person]:
    """For the codec's section: those of the clips, or others rendered for it."""
    codec = next((source for source in sources if source.name == CODEC_ROW), None)
    if not config.codec_people or codec is None:
        return walk.people
    folder = (config.work or config.data) / "codec-256"
    return measure_people(codec, people_of(codec_clips(folder, config.assets, config.codec_people)))


def _summaries(walk: Walk, namer: StateNamer | None, gallery: Gallery) -> tuple[RowFigures, ...]:
    truth = next(iter(walk.figures.values()))
    return tuple(summarise(name, part, truth, namer, gallery) for name, part in walk.figures.items())


def _drift(
    config: EvaluateConfig, observer: Observer, sources: Sequence[Source], progress: Progress
) -> Iterator[Section]:
    """A section for each bundle, at the first number of steps. Raises ArgumentError when there is no bundle."""
    bundles = {source.engine: source for source in reversed(sources) if isinstance(source, Runtime)}
    if not bundles:
        raise ArgumentError("--minutes streams a bundle as users run it: name one with --model")
    sitters, speech = gather(observer, iterate_shards(list_shards(config.data)), config.people)
    for place, source in enumerate(reversed(bundles.values()), 1):
        drifts = []
        for number, sitter in enumerate(sitters, 1):
            tell = partial(progress, f"{source.name}, person {number}")
            drifts.append(measure_drift(source, observer, sitter, speech, config.minutes, tell))
        key = "drift" if place == 1 else f"drift-{place}"
        yield drift_section(source.name, drifts, source.size_px, config.command, key)


def _compare(
    rows: dict[str, list[ClipFigures]], candidates: Sequence[str], figures: Sequence[Figure]
) -> dict[str, list[Difference]]:
    """Every generated row against the first one; nothing when there are too few clips to tell."""
    truth = next(iter(rows.values()))
    if len(truth) < FEWEST_CLIPS:
        return {}
    return {name: compare_rows(rows[candidates[0]], rows[name], truth, figures) for name in candidates[1:]}


def open_probe(folder: Path) -> Probe:
    """The probe of a folder of instruments. Raises FileMissingError."""
    path = folder / "probe.safetensors"
    if not path.exists():
        raise FileMissingError(f"there is no probe at {path}; train one with `visavis train probe`")
    return Probe.load(path)


def _open_instruments(folder: Path) -> _Instruments:
    """The state classifier may be missing; its column stays empty then."""
    probe, path = open_probe(folder), folder / "states.safetensors"
    if not path.exists():
        return _Instruments(Observer(probe), None, {"probe": probe.errors})
    namer, meta = load_namer(path)
    return _Instruments(Observer(probe), namer, {"probe": probe.errors, "state classifier": meta["errors"]})
