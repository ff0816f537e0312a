"""The first stage: audio encoder on the cast's voices while the first people are drawn, then the codec on pairs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.audio import MOUTH_UNITS, AudioStage
from training.codec import CodecStage, CodecWeights, measure_codec, sample_grid
from training.data.cast.played import Played
from training.data.stream import Stream
from training.pools import PairPool, VoicePool
from training.run import Batch, Run
from training.speed import compile_parts, uncompiled
from training.staged.feed import Feed, held_out
from training.staged.product import SAMPLES, save_product, write_metrics
from training.staged.run import StageRun

_TEST_PAIRS = 96


def train_codec_stage(context: StageRun) -> dict[str, Any]:
    """See training.staged.run.run_stage."""
    plan, recipe, device = context.recipe.codec, context.recipe, context.device
    started_s, settings = time.monotonic(), context.stream()
    layout = plan.take.layout()
    with Stream(settings) as stream:
        feed = Feed(stream, PairPool(layout, plan.places, device, recipe.seed), plan.fill)
        context.say("drawing people to test with")
        tests = held_out(settings, PairPool(layout, plan.test_takes, device), plan.test_takes)
        if not context.continued:
            context.say("audio encoder")
            _train_audio(context, feed)
        feed.wait()
        waited_s = time.monotonic() - started_s
        context.say("codec")
        return _train_codec(context, feed, _mixed(tests.first(_TEST_PAIRS)), waited_s)


def _mixed(batch: Batch) -> Batch:
    """The same pairs in another order, so that the first dozen shows many people."""
    size = len(batch["image"])
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).to(batch["image"].device)
    return {name: value[order] for name, value in batch.items()}


def _train_codec(context: StageRun, feed: Feed[PairPool], tests: Batch, before_s: float) -> dict[str, Any]:
    model, plan = context.start, context.recipe.codec
    codec = model.codec.to(context.device, memory_format=torch.channels_last)
    run = Run(context.config(), CodecStage(codec, CodecWeights()), codec)
    if context.recipe.compile and context.device.type == "cuda":
        compile_parts((codec.encoder, codec.reference_encoder, codec.decoder))

    def on_sample(step: int) -> None:
        with uncompiled():
            run.log({f"test_{k}": v for k, v in measure_codec(codec, tests).items()})
            context.out.mkdir(parents=True, exist_ok=True)
            sample_grid(codec, tests, context.out / SAMPLES, context.device)

    def figures(step: int) -> dict[str, Any]:
        return {
            "stage": "codec", "step": step, "seconds": round(run.elapsed_s, 1), "seconds_before": round(before_s, 1),
            **feed.figures(),
        }  # fmt: skip

    def on_save(step: int) -> None:
        with uncompiled():
            measured = measure_codec(codec, tests)
        save_product(model, "codec", context.out, {"step": step, "test": measured})
        write_metrics(context.out, run.config.out / "log.jsonl", figures(step))

    run.train(feed.batches(lambda pool: pool.draw(plan.batch), plan.batch), on_sample, on_save)
    return write_metrics(context.out, run.config.out / "log.jsonl", figures(run.step))


def _train_audio(context: StageRun, feed: Feed[PairPool]) -> None:
    recipe, device = context.recipe, context.device
    voices = _voices(context.cast.played("train"), device, recipe.seed)
    tests = _voices(context.cast.played("test"), device, 1).draw(4096, augment=False)
    stage = AudioStage(context.start)
    config = replace(
        context.config(), out=context.folders.work / "audio", steps=recipe.audio_steps, minutes=recipe.audio_minutes,
        batch=recipe.audio_batch, lr=recipe.audio_lr, sample_every=1_000_000,
    )  # fmt: skip
    run = Run(config, stage, stage)

    def batches() -> Iterator[Batch]:
        while True:
            feed.refresh()
            yield voices.draw(recipe.audio_batch)

    def on_sample(step: int) -> None:
        loss, logs = stage(tests)
        run.log({"test_loss": float(loss), "test_r_jawOpen": logs["r_jawOpen"]})

    run.train(batches(), on_sample)
    stage.load_state_dict(run.ema.shadow)


def _voices(played: Played, device: torch.device, seed: int) -> VoicePool:
    targets = np.concatenate((played.units[:, MOUTH_UNITS], played.tongue), 1)
    return VoicePool(_on(played.mel, device), _on(targets, device), seed)


def _on(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device)
