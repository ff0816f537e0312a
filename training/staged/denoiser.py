"""The second and third stage: the teacher by flow matching and the student distilled from it, on sequences whose
pictures are encoded as they come."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from training.data.stream import Stream
from training.denoising import measure_denoiser, readers, sample_sheet
from training.generate import STUDENT_SAMPLING, TEACHER_SAMPLING, SamplingConfig
from training.objectives.consistency import ConsistencyConfig, ConsistencyDistillation
from training.objectives.flow_matching import FlowMatching, FlowMatchingConfig
from training.pools import SequencePool
from training.run import Batch, Run
from training.speed import compile_parts, uncompiled
from training.staged.feed import Feed, held_out
from training.staged.plan import StagePlan
from training.staged.product import SAMPLES, save_product, write_metrics
from training.staged.run import StageRun

_TEST_FRAMES = 64


def train_teacher_stage(context: StageRun) -> dict[str, Any]:
    """See training.staged.run.run_stage."""
    model, recipe = context.start, context.recipe
    with _sequences(context) as (feed, tests):
        if not context.continued:
            model.codec.latent_scale.fill_(feed.pool.motion_scale())
        legible, speech = readers(model)
        how = FlowMatchingConfig(articulation=recipe.articulation[0])
        scale = float(model.codec.latent_scale)
        stage = FlowMatching(model.denoiser, model.audio, legible, scale, how, articulation=speech)
        trained = nn.ModuleDict({"denoiser": model.denoiser, "audio": model.audio})
        run = Run(context.config(), stage, trained)
        if recipe.compile and context.device.type == "cuda":
            compile_parts((model.denoiser, model.audio))
        return _train(context, run, feed, tests, TEACHER_SAMPLING, {})


def train_student_stage(context: StageRun) -> dict[str, Any]:
    """See training.staged.run.run_stage."""
    model, recipe = context.start, context.recipe
    teacher = copy.deepcopy(_teacher(context)).eval()
    with _sequences(context) as (feed, tests):
        how = ConsistencyConfig(guidance=recipe.guidance, articulation=recipe.articulation[1])
        legible, speech = readers(model, aims_at_clip=how.articulation > 0)
        scale = float(model.codec.latent_scale)
        stage = ConsistencyDistillation(model.denoiser, teacher, model.audio, legible, scale, how, articulation=speech)
        run = Run(context.config(), stage, model.denoiser)
        if recipe.compile and context.device.type == "cuda":
            compile_parts((stage.student, stage.teacher, stage.target))
        teacher_meta = {k: v for k, v in context.meta.items() if k != "config"}
        return _train(
            context, run, feed, tests, STUDENT_SAMPLING, {"guidance": recipe.guidance, "teacher": teacher_meta}
        )


def _teacher(context: StageRun) -> nn.Module:
    """The teacher's denoiser: the start's own, unless that is a student which is trained further."""
    if not context.continued:
        return context.start.denoiser
    from training.staged.product import load_products

    return load_products(context.folders, ("codec", "teacher"), context.start.config)[0].denoiser


@contextmanager
def _sequences(context: StageRun) -> Iterator[tuple[Feed[SequencePool], Batch]]:
    """A feed that holds enough to begin, and held-out sequences."""
    plan, settings, device = context.recipe.plan(context.stage), context.stream(), context.device
    layout = plan.take.layout()
    context.start.to(device)
    codec = context.start.codec.eval()
    with Stream(settings) as stream:
        feed = Feed(stream, SequencePool(layout, codec, plan.places, device, context.recipe.seed), plan.fill)
        context.say("drawing people to test with")
        tests = held_out(settings, SequencePool(layout, codec, plan.test_takes, device), plan.test_takes)
        context.say("drawing people to train with")
        feed.wait()
        context.say(context.stage)
        yield feed, tests.whole(_TEST_FRAMES, plan.test_takes)


def _train(
    context: StageRun,
    run: Run,
    feed: Feed[SequencePool],
    tests: Batch,
    how: SamplingConfig,
    extra: dict[str, Any],
) -> dict[str, Any]:
    model, plan, log = context.start, context.recipe.plan(context.stage), run.config.out / "log.jsonl"
    begun_s = time.monotonic() - run.elapsed_s

    def measure() -> dict[str, float]:
        with uncompiled():
            return measure_denoiser(model, tests, how, context.device)

    def on_sample(step: int) -> None:
        run.log({f"test_{k}": v for k, v in measure().items()})
        context.out.mkdir(parents=True, exist_ok=True)
        with uncompiled():
            sample_sheet(model, tests, how, context.out / SAMPLES, context.device)

    def figures(step: int) -> dict[str, Any]:
        return {
            "stage": context.stage, "step": step, "seconds": round(time.monotonic() - begun_s, 1), **feed.figures()
        }  # fmt: skip

    def on_save(step: int) -> None:
        save_product(model, context.stage, context.out, {"step": step, "test": measure(), **extra})
        write_metrics(context.out, log, figures(step))

    run.train(feed.batches(lambda pool: _draw(pool, plan), plan.batch), on_sample, on_save)
    return write_metrics(context.out, log, figures(run.step))


def _draw(pool: SequencePool, plan: StagePlan) -> Batch:
    return pool.draw(plan.batch, plan.frames)
