"""Stages of one film on core sets of their own: what they cost, what a plan should bring, and what it brings.

Everything is measured in turns, so that what else the machine does meets all plans alike, and everything that counts is
in it, from the audio encoder to the encoded picture.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from apps.bench.script import Floats, part
from apps.bench.setup import PICTURES, Settings, read_voice, shipped
from apps.media import Mp4Writer
from engine.engine import AvatarEngine, load
from engine.errors import PipelinePlanError
from engine.pipeline.placing import on_cores, usable_cores
from engine.pipeline.plan import Place, Plan
from engine.portrait.portrait import Portrait
from engine.types import FPS, SAMPLE_RATE_HZ
from engine.worker.line import Line, LocalFront

if TYPE_CHECKING:
    from export.pipeline.costs import Costs

SIZES_PX = (256, 512)
ENCODERS = ("jpeg", "h264")
FILM_FRAMES = 108
"""A first block of 4 frames and 13 whole ones: the bubble at the start is in the figures, as it is in a short film."""
_CHECK_FRAMES = 28
_JPEG_QUALITY = 85

Write = Callable[[NDArray[np.uint8]], object]


@dataclass(frozen=True, slots=True)
class Case:
    size_px: int
    encoder: str


@dataclass(frozen=True, slots=True)
class Film:
    """One film that was made. fps: pictures a second, from the first step to the last encoded picture. first_ms: until
    the first picture was there. cpu_share: processor time of this process, per second; without a process apart, 1 where
    nothing waited for other programs. first, blocks: timing of the first block and of the whole ones, with `encode_ms`.
    """

    fps: float
    first_ms: float
    cpu_share: float
    first: dict[str, float]
    blocks: list[dict[str, float]]


@dataclass(frozen=True, slots=True)
class PlanRow:
    """Medians of films by one plan. fps_to_one: of its rate to that of the one worker on one core set in the same turn.
    error_share: how much more was predicted than measured, of what was measured. same: whether its pictures were those
    of the one worker, byte for byte; None where that was not asked, since other numbers of threads add up otherwise.
    """

    plan: str
    predicted_fps: float | None
    measured_fps: float
    error_share: float | None
    fps_to_one: float
    first_ms: float
    same: bool | None


@dataclass(frozen=True, slots=True)
class CaseReport:
    """costs: see export.pipeline.costs; medians of the one worker's blocks. best: the plan of two core sets that was
    predicted to be the fastest. busy: how much of its core sets that plan is predicted to use. cpu_share: how much of
    its core set one worker got, on whichever of the two it got less; well below 1 for one thread, the machine was not
    quiet, and the figures say little.
    """

    size_px: int
    encoder: str
    costs: Costs
    best: str
    busy: dict[str, float]
    cpu_share: float
    plans: list[PlanRow]


@dataclass(frozen=True, slots=True)
class Studio:
    """A model opened for each core set, a portrait and a voice."""

    engines: dict[Place, AvatarEngine]
    portrait: Portrait
    voice: Floats
    folder: Path
    prints: dict[tuple[int, Plan | None], str] = field(default_factory=dict)

    def engine(self, plan: Plan | None) -> AvatarEngine:
        """Without opening anything again. None for both core sets and no plan."""
        if plan is None:
            return self.engines[Place()]
        if plan.place_of("denoise").apart:
            return self.engines[plan.place_of("denoise")]
        fronts, backs = (self.engines[plan.place_of(work)] for work in ("denoise", "decode"))
        return AvatarEngine(Line(LocalFront(fronts.backend), backs.backend, plan), fronts.model)

    def film(self, case: Case, plan: Plan | None, frames: int = FILM_FRAMES) -> Film:
        """Make one, the caller's thread where the plan encodes."""
        place = plan.place_of("encode") if plan else Place()
        cv2.setNumThreads(place.threads or len(usable_cores()))
        with on_cores(place), encoder(case, self.folder, place.threads or 0) as write:
            return _shoot(self._frames(case.size_px, plan, frames), write)

    def fingerprint(self, case: Case, plan: Plan | None) -> str:
        """Of the pictures of a short film, made once for a size."""
        if (case.size_px, plan) not in self.prints:
            digest = hashlib.sha256()
            with on_cores(plan.place_of("encode") if plan else Place()):
                for frame in self._frames(case.size_px, plan, _CHECK_FRAMES):
                    digest.update(frame.image)
            self.prints[case.size_px, plan] = digest.hexdigest()
        return self.prints[case.size_px, plan]

    def _frames(self, size_px: int, plan: Plan | None, frames: int) -> Iterator[Any]:
        from engine.ahead import run_ahead

        pcm = part(self.voice, 0, frames / FPS)
        made = self.engine(plan).generate(self.portrait, pcm[: frames * SAMPLE_RATE_HZ // FPS], size=size_px)
        return run_ahead(made, 16) if plan is None else made


def core_sets() -> tuple[Place, Place]:
    """The usable cores in two halves. Raises PipelinePlanError where there is but one, or none can be kept to."""
    cores = usable_cores()
    if len(cores) < 2 or not hasattr(os, "sched_setaffinity"):
        raise PipelinePlanError("a pipeline of core sets needs Linux and two cores that this process may use")
    half = len(cores) // 2
    return Place("cpu", cores[:half]), Place("cpu", cores[half : 2 * half])


@contextmanager
def open_studio(settings: Settings, places: Sequence[Place], apart: Plan | None = None) -> Iterator[Studio]:
    """places: core sets; Place() for all cores without a plan. apart: a plan with a process of its own, kept open, too.
    Raises AvatarError.
    """
    with ExitStack() as stack:
        engines: dict[Place, AvatarEngine] = {}
        # OpenVINO counts the cores once, when it is first used: after a core set, all cores would be that one's.
        wide_first = sorted(places, key=lambda place: bool(place.cores))
        plans = {place: Plan.parse(f"denoise@{place}") if place.cores else None for place in wide_first}
        if apart is not None:
            plans[apart.place_of("denoise")] = apart
        backend = settings.backend
        for place, plan in plans.items():
            engines[place] = stack.enter_context(load(settings.model, backend, pipeline=plan))
            # `auto` might choose another one for the next place, and then nothing could be compared.
            backend = engines[place].backend.name
        portrait = next(iter(engines.values())).open_portrait(shipped(settings.portrait, "portraits", PICTURES))
        folder = stack.enter_context(TemporaryDirectory())
        yield Studio(engines, portrait, read_voice(settings), Path(folder))


@contextmanager
def encoder(case: Case, folder: Path, threads: int) -> Iterator[Write]:
    """What takes the pictures: JPEG as servers send it, a film as `visavis talk` writes it, or nothing (`none`)."""
    if case.encoder == "none":
        yield lambda image: None
        return
    if case.encoder == "jpeg":
        yield lambda image: cv2.imencode(
            ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        )
        return
    size = (case.size_px, case.size_px)
    with Mp4Writer(folder / "film.mp4", size, np.zeros(SAMPLE_RATE_HZ, np.int16), SAMPLE_RATE_HZ, threads) as film:
        yield film.write


def _shoot(frames: Iterator[Any], write: Write) -> Film:
    began, cpu_s, first_ms = perf_counter(), process_time(), 0.0
    blocks: list[dict[str, float]] = []
    lengths: list[int] = []
    timing: dict[str, float] = {}
    for frame in frames:
        first_ms = first_ms or 1e3 * (perf_counter() - began)
        if frame.timing != timing:
            timing = frame.timing
            blocks.append({**timing, "encode_ms": 0.0})
            lengths.append(0)
        encoding = perf_counter()
        write(frame.image)
        blocks[-1]["encode_ms"] += 1e3 * (perf_counter() - encoding)
        lengths[-1] += 1
    seconds = perf_counter() - began
    whole = [block for block, length in zip(blocks, lengths, strict=True) if length == lengths[1]][1:]
    return Film(sum(lengths) / seconds, first_ms, (process_time() - cpu_s) / seconds, blocks[0], whole)


def costs_of(films: Sequence[Film], engine: AvatarEngine, hand_over_ms: float = 0.0) -> Costs:
    """Medians of the one worker's blocks, where nothing runs beside them."""
    from export.pipeline.costs import Costs

    sampling = engine.backend.sampling
    blocks = [block for film in films for block in film.blocks]
    return Costs(
        _median_costs(blocks, sampling.block_frames, sampling.steps + 1),
        _median_costs([film.first for film in films], sampling.first_block_frames, sampling.first_steps + 1),
        hand_over_ms,
    )


def _median_costs(blocks: Sequence[dict[str, float]], frames: int, calls: int) -> Any:
    from export.pipeline.costs import BlockCosts

    works = ("audio_ms", "denoise_ms", "decode_ms", "compose_ms", "encode_ms")
    ms = {name: median(block[name] for block in blocks) for name in works}
    ms["denoise_ms"] -= ms["audio_ms"]
    return BlockCosts(frames, calls, **ms)


def predict_fps(plan: Plan, costs: Costs, frames: int = FILM_FRAMES) -> tuple[float, dict[str, float]]:
    """Of a film of so many frames, and how busy its places are."""
    from export.pipeline.layouts import of_plan
    from export.pipeline.simulate import simulate

    blocks = 1 + (frames - costs.first.frames) // costs.block.frames
    schedule = simulate(of_plan(plan, costs), blocks)
    return 1e3 * frames / schedule.makespan_ms, schedule.busy_share()


def measure_case(studio: Studio, case: Case, plans: Sequence[Plan], apart: Plan | None, repeats: int) -> CaseReport:
    """plans: ways to lay the works over two core sets, the first one all at the first. The best by prediction, the
    plain one (denoise, and all else), the one with a process apart, and no plan at all are measured in turns.
    """
    one = plans[0]
    second = next(stage.place for stage in plans[1].stages if stage.place != one.place_of("denoise"))
    other = Plan.parse(f"denoise@{second}")
    costs = costs_of([studio.film(case, one)], studio.engine(one))
    plain = next(plan for plan in plans if [len(stage.works) for stage in plan.stages] == [1, 3])
    best = max(plans[1:], key=lambda plan: predict_fps(plan, costs)[0])
    chosen = [one, *dict.fromkeys((plain, best)), *([apart] if apart else []), None]
    prints = {plan: studio.fingerprint(case, plan) for plan in chosen}
    films: dict[Plan | None, list[Film]] = {plan: [] for plan in chosen}
    others = [studio.film(case, other)]
    for _ in range(repeats):
        for plan, made in films.items():
            made.append(studio.film(case, plan))
    others.append(studio.film(case, other))
    costs = costs_of(films[one], studio.engine(one))
    rows = [_row(plan, films, one, costs, prints) for plan in chosen]
    cpu_share = min(film.cpu_share for film in [*films[one], *others])
    return CaseReport(case.size_px, case.encoder, costs, str(best), predict_fps(best, costs)[1], cpu_share, rows)


def _row(
    plan: Plan | None, films: dict[Plan | None, list[Film]], one: Plan, costs: Costs, prints: dict[Plan | None, str]
) -> PlanRow:
    measured = median(film.fps for film in films[plan])
    predicted = None if plan is None else predict_fps(plan, costs)[0]
    return PlanRow(
        plan=str(plan) if plan else "no plan, all cores",
        predicted_fps=predicted,
        measured_fps=measured,
        error_share=None if predicted is None else predicted / measured - 1,
        fps_to_one=median(a.fps / b.fps for a, b in zip(films[plan], films[one], strict=True)),
        first_ms=median(film.first_ms for film in films[plan]),
        same=None if plan is None else prints[plan] == prints[one],
    )


def measure_pipeline(settings: Settings, repeats: int, say: Callable[[str], None]) -> list[CaseReport]:
    """Both sizes with both encoders. Raises AvatarError."""
    from export.pipeline.layouts import candidates

    first, second = core_sets()
    plans = candidates(first, second)
    apart = Plan.parse(f"denoise@{replace(first, apart=True)}/decode@{second}")
    say("loading the model")
    with open_studio(settings, (first, second, Place()), apart) as studio:
        cases = [Case(size_px, name) for size_px in SIZES_PX for name in ENCODERS]
        reports = []
        for case in cases:
            say(f"{case.size_px} px to {case.encoder}")
            reports.append(measure_case(studio, case, plans, apart, repeats))
    return reports
