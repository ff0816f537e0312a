"""Stage 3 by the methods that have a critic, `visavis train distill --method NAME`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from engine.backends.base import Sampling
from engine.errors import ArgumentError
from engine.model.audio import AudioEncoder
from engine.model.avatar import AvatarModel, load_model
from engine.model.codec import PortraitDecoder
from engine.model.denoiser import Denoiser
from training.denoising import SEQUENCE_FRAMES, Inherited, callbacks, inherit, readers, test_batch
from training.duel import CriticConfig, Duel
from training.generate import STUDENT_SAMPLING, student_sampling
from training.latents import LatentClips, SequenceBatches
from training.objectives.accvideo import TaughtConfig, TrajectoryTeaching
from training.objectives.blocks import LegibleError
from training.objectives.dmd import DistributionMatching, MatchingConfig
from training.objectives.mogan import MotionAdversary
from training.objectives.phased import PhasedMatching, phase_edges
from training.objectives.reward_forcing import RewardForcing
from training.objectives.self_distillation import SelfDistillation
from training.objectives.tdm import TrajectoryMatching
from training.objectives.vdot import OptimalTransport
from training.probing import ensure_probe
from training.run import Batch, Run, RunConfig
from training.taught import Taught, draw_lessons

CRITIC_FILE, LESSONS_FOLDER = "critic.safetensors", "lessons"
TEACHER_STEPS, DRAWING_SHARE, MOST_LESSONS = 24, 0.25, 512


@dataclass(frozen=True, slots=True)
class Parts:
    """What methods are made of."""

    student: nn.Module
    teacher: Denoiser
    audio: AudioEncoder
    legible: LegibleError
    latent_scale: float
    decoder: PortraitDecoder
    teacher_audio: AudioEncoder | None

    def matching(self, kind: type[DistributionMatching], how: MatchingConfig, **more: Any) -> DistributionMatching:
        return kind(
            self.student, self.teacher, self.audio, self.legible, self.latent_scale, how,
            teacher_audio=self.teacher_audio, **more,
        )  # fmt: skip


Build = Callable[[Parts, MatchingConfig], nn.Module]


def _taught(parts: Parts, how: MatchingConfig) -> nn.Module:
    config = TaughtConfig(how.rolling.steps, how.rolling.shift, legible=how.legible)
    return TrajectoryTeaching(parts.student, parts.teacher, parts.audio, parts.legible, config, parts.teacher_audio)  # type: ignore[arg-type]


METHODS: dict[str, Build] = {
    "dmd": lambda parts, how: parts.matching(DistributionMatching, how),
    "reward": lambda parts, how: parts.matching(RewardForcing, how),
    "asd": lambda parts, how: parts.matching(SelfDistillation, how),
    "mogan": lambda parts, how: parts.matching(MotionAdversary, how, decoder=parts.decoder),
    "tdm": lambda parts, how: parts.matching(TrajectoryMatching, how),
    "accvideo": _taught,
    "vdot": lambda parts, how: parts.matching(OptimalTransport, how),
}
"""Methods of one run by the names that `--method` takes; "phased" takes a run for each phase."""

EULER = ("tdm", "accvideo", "phased")
"""Methods whose students are drawn by Euler's method."""

ALL = (*METHODS, "phased")


def train_matching(
    clips: LatentClips,
    held_out: LatentClips,
    config: RunConfig,
    start: Path,
    name: str,
    how: MatchingConfig,
    inherited: Inherited | None = None,
    even_states: float = 0.0,
    critic: CriticConfig | None = None,
) -> Path:
    """Student by one of ALL from a teacher checkpoint; returns its path. Runs of one process, which go on where they
    stopped, critic included.
    """
    if name == "phased":
        return train_phased(clips, held_out, config, start, how, inherited, even_states, critic)
    model, meta = load_model(start)
    ensure_probe(model, clips)
    teacher = copy.deepcopy(model.denoiser).eval()
    teacher_audio = copy.deepcopy(model.audio).eval() if inherited else None
    batches: Iterator[Batch] = iter(
        sequences := SequenceBatches(clips, SEQUENCE_FRAMES, config.batch, config.seed, even_states=even_states)
    )
    lost = inherit(model, inherited, sequences) if inherited else 0.0
    method = METHODS[name](_parts(model, teacher, teacher_audio), how)
    if name == "accvideo":
        config, batches = _lessons(config, batches, teacher, teacher_audio or model.audio, how)
    extra = {"teacher": meta, "guidance": how.guidance, "ears_unexplained": lost, "method": name} | _drawn(name, how)
    return _play(config, model, method, critic, batches, held_out, extra, model.denoiser)


def train_phased(
    clips: LatentClips,
    held_out: LatentClips,
    config: RunConfig,
    start: Path,
    how: MatchingConfig,
    inherited: Inherited | None = None,
    even_states: float = 0.0,
    critic: CriticConfig | None = None,
    phases: int = 2,
) -> Path:
    """A student of several experts, a run for each in `phase1`, `phase2`, ..., by equal shares of the budget. All start
    as the teacher, and so does every phase's critic; those before stay as they became. Returns the last one's path.
    """
    if inherited:
        raise ArgumentError("phased distillation starts from its teacher; leave --student and --audio out")
    edges = phase_edges(how.rolling.steps, phases, how.rolling.shift)
    teacher_model, meta = load_model(start)
    ensure_probe(teacher_model, clips)
    path = start
    for phase in range(phases):
        model = with_experts(teacher_model, edges) if phase == 0 else load_model(path)[0]
        parts = _parts(model, copy.deepcopy(teacher_model.denoiser).eval(), None)
        method = parts.matching(PhasedMatching, how, phase=phase, phases=phases)
        part = replace(
            config, out=config.out / f"phase{phase + 1}", steps=max(1, config.steps // phases),
            minutes=config.minutes / phases,
        )  # fmt: skip
        seed = config.seed + phase
        batches = SequenceBatches(clips, SEQUENCE_FRAMES, config.batch, seed, even_states=even_states)
        extra = {"teacher": meta, "guidance": how.guidance, "method": "phased", "phase": phase} | _drawn("phased", how)
        trained = model.denoiser.experts[phase]
        path = _play(part, model, method, critic, iter(batches), held_out, extra, trained)
    return path


def with_experts(model: AvatarModel, edges: tuple[float, ...]) -> AvatarModel:
    """The model with a copy of its denoiser for each phase."""
    probe = model.codec.probe
    wide = AvatarModel(replace(model.config, phases=edges), 0 if probe is None else probe.out_features)
    wide.codec.load_state_dict(model.codec.state_dict())
    wide.audio.load_state_dict(model.audio.state_dict())
    for expert in wide.denoiser.experts:
        expert.load_state_dict(model.denoiser.state_dict())
    return wide.eval()


def _parts(model: AvatarModel, teacher: Denoiser, teacher_audio: AudioEncoder | None) -> Parts:
    legible, _ = readers(model)
    decoder = copy.deepcopy(model.codec.decoder).eval()
    scale = float(model.codec.latent_scale)
    return Parts(model.denoiser, teacher, model.audio, legible, scale, decoder, teacher_audio)


def _drawn(name: str, how: MatchingConfig) -> dict[str, Any]:
    """What the checkpoint says of its sampling; nothing for students that are drawn as students are."""
    if name not in EULER:
        return {}
    steps = how.rolling.steps
    drawn = Sampling(
        "euler", steps, first_steps=steps, time_shift=how.rolling.shift, noise_scale=STUDENT_SAMPLING.noise_scale,
        easing=STUDENT_SAMPLING.easing,
    )  # fmt: skip
    return {"sampling": asdict(drawn)}


def _lessons(
    config: RunConfig, batches: Iterator[Batch], teacher: Denoiser, audio: AudioEncoder, how: MatchingConfig
) -> tuple[RunConfig, Iterator[Batch]]:
    """Clips that the teacher draws in a share of the budget, and what is left of it."""
    folder, minutes = config.out / LESSONS_FOLDER, DRAWING_SHARE * config.minutes
    draw_lessons(
        batches, teacher, audio, folder, TEACHER_STEPS, how.rolling.steps, how.rolling.shift, how.guidance, minutes,
        min(MOST_LESSONS, config.steps), config.resolve_device(), config.seed,
    )  # fmt: skip
    return replace(config, minutes=config.minutes - minutes), iter(Taught(folder, config.seed))


def _play(
    config: RunConfig, model: AvatarModel, method: nn.Module, critic: CriticConfig | None, batches: Iterator[Batch],
    held_out: LatentClips, extra: dict[str, Any], trained: nn.Module,
) -> Path:  # fmt: skip
    duel: Duel[Any] = Duel(method, critic)  # type: ignore[arg-type]
    run = Run(config, duel, trained)
    if (config.out / CRITIC_FILE).exists():
        duel.load(config.out / CRITIC_FILE)
    model.to(run.device)
    on_sample, save_student = callbacks(run, model, test_batch(held_out), student_sampling(extra), "consistency", extra)

    def on_save(step: int) -> None:
        duel.save(config.out / CRITIC_FILE)
        save_student(step)

    run.train(batches, on_sample, on_save)
    return config.out / "model.safetensors"
