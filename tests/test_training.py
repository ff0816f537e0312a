"""Training stages on data small enough to know the answer."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from torch import nn  # noqa: E402

from engine.audio.features import LOG_FLOOR  # noqa: E402
from engine.model.audio import AudioEncoder  # noqa: E402
from engine.model.config import TINY  # noqa: E402
from engine.model.denoiser import Conditions, Denoiser  # noqa: E402
from engine.types import AvatarState  # noqa: E402
from training.codec import endless  # noqa: E402
from training.data.truth import ARKIT_UNITS  # noqa: E402
from training.ema import Ema  # noqa: E402
from training.generate import SamplingConfig, generate  # noqa: E402
from training.hearing import fit_ears, turn_ears  # noqa: E402
from training.latents import LatentClips, SequenceBatches, augment_mel  # noqa: E402
from training.objectives.blocks import LegibleError, random_blocks, without_voice  # noqa: E402
from training.objectives.consistency import ConsistencyConfig, ConsistencyDistillation  # noqa: E402
from training.objectives.flow_matching import FlowMatching  # noqa: E402
from training.run import Run, RunConfig, learning_rate  # noqa: E402

FRAMES = 8


class Regression(nn.Module):
    """y = 3 x, from one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))

    def forward(self, batch):
        loss = (self.weight * batch["x"] - 3 * batch["x"]).square().mean()
        return loss, {"weight": float(self.weight.detach())}


def endless_x():
    generator = torch.Generator().manual_seed(0)
    while True:
        yield {"x": torch.randn(16, 1, generator=generator)}


def config(out: Path, **changes) -> RunConfig:
    base = RunConfig(out=out, steps=30, minutes=1, lr=0.2, warmup=1, log_every=10, device="cpu", weight_decay=0.0)
    return replace(base, **changes)


def test_run_learns_logs_and_resumes(tmp_path: Path) -> None:
    stage = Regression()
    saved = []
    Run(config(tmp_path, steps=60), stage, stage).train(endless_x(), on_save=saved.append)
    assert abs(float(stage.weight) - 3) < 0.3
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [10, 20, 30, 40, 50, 60]
    assert records[-1]["loss"] < 0.1 * records[0]["loss"]
    assert saved == [60]

    again = Regression()
    run = Run(config(tmp_path, steps=80), again, again)
    assert run.step == 60 and float(again.weight) == pytest.approx(float(stage.weight))
    assert run.optimizer.state_dict()["state"][0]["step"] == 60
    run.train(endless_x())
    assert run.step == 80


def test_samples_are_drawn_with_averaged_weights(tmp_path: Path) -> None:
    stage = Regression()
    run = Run(config(tmp_path, steps=20, sample_every=20, ema=0.99), stage, stage)
    seen = []
    run.train(endless_x(), on_sample=lambda step: seen.append(float(stage.weight)))
    assert seen[0] == pytest.approx(float(run.ema.shadow["weight"]))
    assert seen[0] < float(stage.weight)


def test_ema_follows_late_weights_in_short_runs() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
        ema = Ema(module, 0.9999)
        module.weight.fill_(1.0)
    for step in range(50):
        ema.update(module, step)
    assert float(ema.shadow["weight"]) > 0.9


def test_learning_rate_warms_up_and_decays() -> None:
    assert learning_rate(1.0, 0, 0.0, 10) == pytest.approx(0.1)
    assert learning_rate(1.0, 50, 0.0, 10) == pytest.approx(1.0)
    assert learning_rate(1.0, 50, 1.0, 10) == pytest.approx(0.02)


def test_random_blocks_cover_every_frame_in_order() -> None:
    for _ in range(20):
        index = random_blocks(32, (1, 2, 4, 8, 12))
        assert len(index) == 32 and index[0] == 0
        assert set(index.diff().tolist()) <= {0, 1}


def legible() -> LegibleError:
    return LegibleError(nn.Linear(TINY.latent_channels * TINY.latent_grid**2, 5), torch.ones(()))


def test_legible_error_is_the_probes_difference() -> None:
    probe = nn.Linear(TINY.latent_channels * TINY.latent_grid**2, 5)
    error = LegibleError(probe, torch.tensor(2.0))
    a, b = (torch.randn(2, 3, TINY.latent_channels, 4, 4) for _ in range(2))
    expected = (probe(2 * a.flatten(2)) - probe(2 * b.flatten(2))).square().sum(-1)
    torch.testing.assert_close(error(a - b), expected, rtol=1e-4, atol=1e-4)


def test_what_lies_between_two_outputs_leaves_their_common_motion_out() -> None:
    probe = nn.Linear(TINY.latent_channels * TINY.latent_grid**2, 5)
    apart = LegibleError(probe, torch.tensor(1.0), torch.zeros(5), between=[(3, 1)])
    error = torch.randn(2, 3, TINY.latent_channels, 4, 4)
    read = error.flatten(2) @ probe.weight.T
    torch.testing.assert_close(apart(error), (read[..., 3] - read[..., 1]).square(), rtol=1e-4, atol=1e-5)


def test_the_part_that_is_read_holds_all_that_is_read() -> None:
    read = legible()
    motion = torch.randn(2, 3, TINY.latent_channels, 4, 4)
    part = read.within(motion)
    torch.testing.assert_close(read.within(part), part, rtol=1e-4, atol=1e-5)
    assert float(read(motion - part).max()) < 1e-6 < float(read(part).min())


def test_a_steady_student_says_the_same_over_any_noise() -> None:
    """A fresh denoiser leaves its noise in the mouth; training for steadiness takes it out."""
    torch.manual_seed(0)
    student, read = Denoiser(TINY), legible()
    how = ConsistencyConfig(grid=8, guidance=1.0, legible=0.0, articulation=1.0, steady=5.0)
    stage = ConsistencyDistillation(student, Denoiser(TINY), AudioEncoder(TINY), read, 1.0, how, articulation=read)
    first = stage(toy_batch())[1]["steady"]
    fit(stage, student, 40, 2e-3)
    assert stage(toy_batch())[1]["steady"] < 0.5 * first


def test_a_denoiser_with_turned_ears_hears_what_it_heard() -> None:
    """New embeddings are the old ones, mixed: then the map is exact, and so is everything behind it."""
    torch.manual_seed(0)
    old, denoiser = AudioEncoder(TINY).eval(), Denoiser(TINY)
    mix = nn.Linear(TINY.audio_width, TINY.audio_width)
    nn.init.orthogonal_(mix.weight)
    new = nn.Sequential(old, mix)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    windows = 3 * torch.randn(2000, TINY.audio_window, TINY.mel_bins)
    ears = fit_ears(old, new, windows)
    assert ears.unexplained < 1e-3
    turned = copy.deepcopy(denoiser)
    turn_ears(turned, ears)
    reference = torch.zeros(2, TINY.latent_channels, 4, 4)
    some = windows[: 2 * FRAMES]

    def generated(model: Denoiser, audio: nn.Module) -> torch.Tensor:
        own = audio(some).unflatten(0, (2, FRAMES))
        given = Conditions(
            own, model.null_audio.expand_as(own), torch.zeros(2, FRAMES, dtype=torch.int64),
            torch.zeros(2, FRAMES, 8), torch.zeros(2, FRAMES), torch.zeros(2, FRAMES, 5), torch.zeros(2, FRAMES),
        )  # fmt: skip
        return generate(model, given, reference, SamplingConfig("consistency", 2, guidance=1.0, block=4))

    with torch.no_grad():
        before = generated(denoiser, old)
        assert (generated(turned, new) - before).abs().max() < 0.02
        assert (generated(denoiser, new) - before).abs().max() > 0.2


def toy_batch(size: int = 12) -> dict[str, torch.Tensor]:
    """Motion that a label decides: +1 everywhere while speaking, -1 while idle."""
    state = torch.randint(0, 2, (size, 1)).expand(size, FRAMES) * 2
    latent = (1.0 - state.float())[..., None, None, None].expand(-1, -1, TINY.latent_channels, 4, 4).clone()
    windows = torch.full((size, FRAMES, TINY.audio_window, TINY.mel_bins), float(LOG_FLOOR))
    return {
        "latent": latent + 0.1 * torch.randn_like(latent),
        "reference": torch.zeros(size, TINY.latent_channels, 4, 4),
        "windows": windows,
        "partner_windows": windows,
        "state": state.clone(),
        "expression": torch.zeros(size, FRAMES, 8),
        "pose": torch.zeros(size, FRAMES, 5),
    }


def toy_conditions(denoiser: Denoiser, audio: AudioEncoder, size: int = 8) -> Conditions:
    windows = torch.full((size * FRAMES, TINY.audio_window, TINY.mel_bins), float(LOG_FLOOR))
    own = audio(windows).unflatten(0, (size, FRAMES))
    state = torch.arange(size).remainder(2)[:, None].expand(size, FRAMES) * 2
    zero = torch.zeros(size, FRAMES)
    return Conditions(own, own, state, torch.zeros(size, FRAMES, 8), zero, torch.zeros(size, FRAMES, 5), zero)


def fit(stage: nn.Module, trained: nn.Module, steps: int, lr: float) -> list[float]:
    optimizer = torch.optim.AdamW(trained.parameters(), lr)
    losses = []
    for _ in range(steps):
        loss, _ = stage(toy_batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


def test_teacher_and_student_learn_what_the_label_decides() -> None:
    """The teacher generates the label's motion in 16 steps, the student distilled from it in 1 and in 2."""
    torch.manual_seed(0)
    denoiser, audio = Denoiser(TINY), AudioEncoder(TINY)
    no_probe = LegibleError(nn.Linear(TINY.latent_channels * 16, 1), torch.zeros(()))
    losses = fit(FlowMatching(denoiser, audio, no_probe, 1.0), nn.ModuleList((denoiser, audio)), 120, 3e-3)
    assert np.mean(losses[-10:]) < 0.35 * losses[0]
    given = toy_conditions(denoiser, audio)
    wanted = (1.0 - given.state.float())[..., None, None, None]
    reference = torch.zeros(8, TINY.latent_channels, 4, 4)

    def error(model: Denoiser, how: SamplingConfig) -> float:
        return float((generate(model, given, reference, how) - wanted).square().mean())

    teacher_error = error(denoiser, SamplingConfig(steps=16, guidance=1.0, block=4))
    assert teacher_error < 0.15

    student = copy.deepcopy(denoiser)
    before = error(student, SamplingConfig("consistency", 1, guidance=1.0, block=4))
    stage = ConsistencyDistillation(
        student, denoiser, audio, no_probe, 1.0, ConsistencyConfig(grid=8, guidance=1.0, target_decay=0.8)
    )
    fit(stage, student, 40, 1e-3)
    for steps in (1, 2):
        after = error(student, SamplingConfig("consistency", steps, guidance=1.0, block=4))
        assert after < max(2 * teacher_error, before)


def test_consistency_loss_of_a_still_flow_is_zero() -> None:
    """A fresh denoiser's velocity is zero: then x_t maps to itself at every time and there is nothing to learn."""
    denoiser = Denoiser(TINY)
    stage = ConsistencyDistillation(denoiser, Denoiser(TINY), AudioEncoder(TINY), legible(), 1.0)
    loss, _ = stage(toy_batch(4))
    assert float(loss) == pytest.approx(0.0, abs=1e-6)


class CountedPairs:
    """Data of 400 frames, 4 of them blinking; batches say nothing but which rows were asked for."""

    def __init__(self) -> None:
        self.units = np.zeros((400, len(ARKIT_UNITS)), np.float32)
        self.units[[7, 80, 200, 311], ARKIT_UNITS.index("eyeBlinkLeft")] = 1.0
        self.asked: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.units)

    def array(self, name: str) -> np.ndarray:
        return {"units": self.units}[name]

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        self.asked.append(rows.copy())
        raw = {"image": np.zeros((len(rows), 4, 4, 3), np.uint8), "flow": np.zeros((len(rows), 2, 2, 2), np.float32)}
        raw["reference"], raw["has_flow"] = raw["image"], np.ones(len(rows), bool)
        truth = [f"{of}{name}" for name in ("landmarks", "units", "head", "gaze") for of in ("", "reference_")]
        for name in ("known", "mouth", *truth):
            raw[name] = np.zeros((len(rows), 1), np.float32)
        return raw


def test_codec_sees_blinks_more_often_than_they_happen() -> None:
    data = CountedPairs()
    batches = endless(data, 16, 0)
    for _ in range(20):
        next(batches)
    blinking = data.units[np.concatenate(data.asked), ARKIT_UNITS.index("eyeBlinkLeft")] > 0.4
    assert 0.2 < blinking.mean() < 0.35


def test_articulation_teaches_the_clip_where_the_teacher_knows_nothing() -> None:
    """A teacher of zero velocity maps noise to itself; only the probed direction of the clip can be learned, +1 while
    speaking. What is done at rest, -1, is not the voice's to teach.
    """
    torch.manual_seed(0)
    cells = TINY.latent_channels * TINY.latent_grid**2
    probe = nn.Linear(cells, 1)
    nn.init.constant_(probe.weight, cells**-0.5)
    read = LegibleError(probe, torch.ones(()))
    ignored = LegibleError(nn.Linear(cells, 1), torch.zeros(()))
    audio = AudioEncoder(TINY)
    given = toy_conditions(Denoiser(TINY), audio)
    speaking = given.state == AvatarState.SPEAKING

    def learned(weight: float) -> tuple[float, float]:
        torch.manual_seed(0)
        student = Denoiser(TINY)
        how = ConsistencyConfig(grid=4, guidance=1.0, articulation=weight)
        stage = ConsistencyDistillation(student, Denoiser(TINY), audio, ignored, 1.0, how, articulation=read)
        fit(stage, student, 25, 6e-3)
        reference = torch.zeros(len(speaking), TINY.latent_channels, 4, 4)
        made = generate(student, given, reference, SamplingConfig("consistency", 1, guidance=1.0, block=4))
        read_out = made.mean((2, 3, 4))
        return float(read_out[speaking].mean()), float(read_out[~speaking].mean())

    assert abs(learned(0.0)[0]) < 0.3
    at_work, at_rest = learned(1.0)
    assert at_work > 0.6
    assert at_rest > -0.3


def clips_of(state: np.ndarray, frames: int) -> LatentClips:
    """Clips of so many frames each with these states, and nothing else in them."""
    count, clips = len(state), len(state) // frames

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    return LatentClips(
        start=np.arange(0, count + 1, frames),
        latent=zeros(count, 1, 4, 4),
        reference=zeros(clips, 1, 4, 4),
        mel=zeros(4 * count, 80),
        partner_mel=zeros(4 * count, 80),
        state=state,
        expression=zeros(count, 8),
        head=zeros(count, 3),
        gaze=zeros(count, 2),
        units=zeros(count, 52),
        landmarks=zeros(count, 28, 2),
        reference_landmarks=zeros(clips, 28, 2),
        portrait=zeros(clips, 1),
    )


def test_sequences_are_drawn_around_each_state_alike() -> None:
    """One frame in forty idles; it is drawn nearly as often as speech once states come evenly."""
    frames, clips = 40, 5
    state = np.zeros(frames * clips, np.int64)
    state[frames - 1 :: frames] = AvatarState.IDLE
    data = clips_of(state, frames)

    def idle_share(even: float) -> float:
        batch = SequenceBatches(data, 8, 300, 3, augment=False, even_states=even).draw()
        return float((batch["state"] == AvatarState.IDLE).any(1).float().mean())

    assert idle_share(0.0) < 0.1
    assert 0.4 < idle_share(1.0) < 0.65


def test_unconditional_branch_hides_voices_and_state_only() -> None:
    denoiser, audio = Denoiser(TINY), AudioEncoder(TINY)
    given = toy_conditions(denoiser, audio)
    blind = without_voice(denoiser, given)
    assert (blind.state == 3).all() and blind.pose is given.pose
    torch.testing.assert_close(blind.audio[0, 0], denoiser.null_audio)


def test_augmentation_keeps_silence_silent_or_noisy_but_never_lower() -> None:
    rng = np.random.default_rng(0)
    quiet = np.full((4, 32, 80), LOG_FLOOR, np.float32)
    for _ in range(10):
        assert (augment_mel(quiet, rng) >= LOG_FLOOR - 1e-4).all()
    loud = quiet + 8
    assert np.abs(augment_mel(loud, rng) - loud).max() > 0.1
