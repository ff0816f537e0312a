"""Stage 3 by the methods that have a critic, `visavis train distill --method NAME`."""

from __future__ import annotations

import copy
from pathlib import Path

from engine.model.avatar import load_model
from training.denoising import SEQUENCE_FRAMES, Inherited, callbacks, inherit, readers, test_batch
from training.duel import CriticConfig, Duel
from training.generate import STUDENT_SAMPLING
from training.latents import LatentClips, SequenceBatches
from training.objectives.dmd import DistributionMatching, MatchingConfig
from training.objectives.reward_forcing import RewardForcing
from training.probing import ensure_probe
from training.run import Run, RunConfig

CRITIC_FILE = "critic.safetensors"

METHODS: dict[str, type[DistributionMatching]] = {"dmd": DistributionMatching, "reward": RewardForcing}
"""By the names that `--method` takes; see each class."""


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
    """Student by one of METHODS from a teacher checkpoint; returns its path. A run of one process, which goes on where
    it stopped, critic included.
    """
    model, meta = load_model(start)
    ensure_probe(model, clips)
    teacher = copy.deepcopy(model.denoiser).eval()
    teacher_audio = copy.deepcopy(model.audio).eval() if inherited else None
    batches = SequenceBatches(clips, SEQUENCE_FRAMES, config.batch, config.seed, even_states=even_states)
    lost = inherit(model, inherited, batches) if inherited else 0.0
    legible, _ = readers(model)
    scale = float(model.codec.latent_scale)
    method = METHODS[name](model.denoiser, teacher, model.audio, legible, scale, how, teacher_audio=teacher_audio)
    duel = Duel(method, critic)
    run = Run(config, duel, model.denoiser)
    if (config.out / CRITIC_FILE).exists():
        duel.load(config.out / CRITIC_FILE)
    model.codec.to(run.device)
    extra = {"teacher": meta, "guidance": how.guidance, "ears_unexplained": lost, "method": name}
    on_sample, save_student = callbacks(run, model, test_batch(held_out), STUDENT_SAMPLING, "consistency", extra)

    def on_save(step: int) -> None:
        duel.save(config.out / CRITIC_FILE)
        save_student(step)

    run.train(iter(batches), on_sample, on_save)
    return config.out / "model.safetensors"
