"""Stages 2 and 3, `visavis train teacher` and `visavis train distill`: the denoiser on cached latents.

The teacher learns flow matching from clips; the student learns to reach the guided teacher's end point in a step or
two. Both are measured the same way: streamed generation on held-out clips, read by the codec's probe.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.backends.base import Sampling
from engine.model.avatar import AvatarModel, load_model, save_model
from engine.portrait.landmarks import INDEX
from training.codec import LANDMARK_SCALE, correlation, lips_apart, probe_emphasis, speech_emphasis, to_tensor
from training.data.truth import ARKIT_UNITS
from training.generate import STUDENT_SAMPLING, TEACHER_SAMPLING, SamplingConfig, generate, student_sampling
from training.grids import save_grid
from training.hearing import fit_ears, turn_ears
from training.latents import LatentClips, SequenceBatches, encode_clips
from training.objectives.blocks import LegibleError, conditions, encode_voices
from training.objectives.consistency import ConsistencyConfig, ConsistencyDistillation
from training.objectives.flow_matching import FlowMatching, FlowMatchingConfig
from training.probing import ensure_probe
from training.run import Batch, Run, RunConfig, autocast

SEQUENCE_FRAMES = 32
_TEST_FRAMES = 64
_POINTS_AT = len(ARKIT_UNITS) + 5


def opening_of(probe: nn.Linear, moved: Tensor, reference_landmarks: Tensor) -> Tensor:
    """Mouth opening [B, F], the inner lips' distance, that the probe reads from latents minus the reference's
    [B, F, C, G, G], given where the reference's landmarks [B, 28, 2] lie.
    """
    change = probe(moved.flatten(2).float())[..., _POINTS_AT:].unflatten(-1, (-1, 2)) / LANDMARK_SCALE
    return true_opening(reference_landmarks[:, None] + change)


def true_opening(landmarks: Tensor) -> Tensor:
    """The same from ground-truth landmarks [B, F, 28, 2]."""
    return (landmarks[..., INDEX["lip_lower_inner"], :] - landmarks[..., INDEX["lip_upper_inner"], :]).norm(dim=-1)


@torch.no_grad()
def measure_denoiser(model: AvatarModel, batch: Batch, how: SamplingConfig, device: torch.device) -> dict[str, float]:
    """Mean correlation of mouth opening with truth over speaking clips, motion energy ratio, latent limit of both."""
    assert model.codec.probe is not None
    batch = {k: v.to(device) for k, v in batch.items()}
    with autocast(device):
        own, partner = encode_voices(model.audio, batch)
        given = conditions(model.denoiser, own, partner, batch, None)
        free = given.__class__(
            given.audio, given.listening, given.state, given.expression, given.expression_given * 0,
            given.pose, given.pose_given * 0,
        )  # fmt: skip
        motion = generate(model.denoiser, free, batch["reference"], how)
    moved, true_moved = motion.float() * model.codec.latent_scale, batch["latent"] - batch["reference"][:, None]
    truth = true_opening(batch["landmarks"])
    opened = opening_of(model.codec.probe, moved, batch["reference_landmarks"])
    limit = opening_of(model.codec.probe, true_moved, batch["reference_landmarks"])
    speaking = [i for i in range(len(truth)) if (batch["state"][i] == 0).float().mean() > 0.6]

    def mean_r(x: Tensor) -> float:
        return sum(correlation(x[i], truth[i]) for i in speaking) / max(1, len(speaking))

    def energy(x: Tensor) -> Tensor:
        return (x[:, 1:] - x[:, :-1]).square().mean()

    return {
        "r_opening": mean_r(opened),
        "r_opening_codec": mean_r(limit),
        "spread_ratio": float(opened[speaking].std() / truth[speaking].std()),
        "motion_energy_ratio": float(energy(moved) / energy(true_moved)),
    }


def test_batch(clips: LatentClips, size: int = 24) -> Batch:
    frames = min(_TEST_FRAMES, min(clips.frames(i) for i in range(len(clips))))
    batch = SequenceBatches(clips, frames, size, 1, augment=False).draw()
    return batch | {"portrait": to_tensor(clips.portrait[batch["clip"].numpy()])}


def callbacks(
    run: Run, model: AvatarModel, test: Batch, how: SamplingConfig, stage: str, extra: dict[str, Any]
) -> tuple[Callable[[int], None], Callable[[int], None]]:
    def on_sample(step: int) -> None:
        run.log({f"test_{k}": v for k, v in measure_denoiser(model, test, how, run.device).items()})
        sample_sheet(model, test, how, run.config.out / f"samples-{step:06d}.png", run.device)

    def on_save(step: int) -> None:
        measured = measure_denoiser(model, test, how, run.device)
        meta = {"stage": stage, "step": step, "test": measured} | extra
        save_model(model, run.config.out / "model.safetensors", meta)

    return on_sample, on_save


def latents_of(shards: list[Path], checkpoint: Path, cache: Path, split: str) -> LatentClips:
    """Latents of all clips under the codec of a checkpoint; kept in the cache, keyed by that codec's weights."""
    from training.data.loading import ClipSequences

    model, _ = load_model(checkpoint)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.codec.encoder.state_dict().items()):
        digest.update(name.encode() + tensor.float().numpy().tobytes())
    digest.update("\n".join(path.name for path in shards).encode())
    folder = cache / f"latents-{split}-{digest.hexdigest()[:12]}"
    if not (folder / "start.npy").exists():
        clips = ClipSequences(shards, cache / f"sequences-{split}")
        encode_clips(model.codec, clips, RunConfig(out=cache).resolve_device()).save(folder)
    return LatentClips.load(folder)


def readers(model: AvatarModel, aims_at_clip: bool = False) -> tuple[LegibleError, LegibleError]:
    """What an error says by the codec's probe: everything, and what speech moves. aims_at_clip: the second pulls to the
    recorded clip, so the first, which pulls to a teacher, leaves the mouth's units out.
    """
    probe, scale = model.codec.probe, model.codec.latent_scale
    assert probe is not None
    speech, everything = speech_emphasis(), probe_emphasis()
    emphasis = everything * (1 - speech) if aims_at_clip else everything
    return LegibleError(probe, scale, emphasis), LegibleError(probe, scale, speech, lips_apart())


def train_teacher(
    clips: LatentClips, held_out: LatentClips, config: RunConfig, start: Path, how: FlowMatchingConfig | None = None
) -> Path:
    """From a model with a trained codec (and, better, audio encoder); returns the path of the teacher."""
    model, _ = load_model(start)
    ensure_probe(model, clips)
    if not _scaled(model):
        model.codec.latent_scale.fill_(clips.motion_scale())
    scale = float(model.codec.latent_scale)
    legible, speech = readers(model)
    stage = FlowMatching(model.denoiser, model.audio, legible, scale, how, articulation=speech)
    trained = nn.ModuleDict({"denoiser": model.denoiser, "audio": model.audio})
    run = Run(config, stage, trained)
    model.codec.to(run.device)
    batches = iter(SequenceBatches(clips, SEQUENCE_FRAMES, config.batch, config.seed + run.rank))
    run.train(batches, *callbacks(run, model, test_batch(held_out), TEACHER_SAMPLING, "teacher", {}))
    return config.out / "model.safetensors"


def _scaled(model: AvatarModel) -> bool:
    return float(model.codec.latent_scale) != 1.0


@dataclass(frozen=True, slots=True)
class Inherited:
    """Checkpoints that a student takes parts of, beside its teacher's: a denoiser that is distilled already, and an
    audio encoder that hears better than the teacher's.
    """

    student: Path | None = None
    audio: Path | None = None


def train_consistency(
    clips: LatentClips,
    held_out: LatentClips,
    config: RunConfig,
    start: Path,
    how: ConsistencyConfig,
    inherited: Inherited | None = None,
    even_states: float = 0.0,
) -> Path:
    """Student from a teacher checkpoint; returns the path of the student. even_states: see SequenceBatches."""
    model, meta = load_model(start)
    ensure_probe(model, clips)
    teacher = copy.deepcopy(model.denoiser).eval()
    teacher_audio = copy.deepcopy(model.audio).eval() if inherited else None
    seed = config.seed + int(os.environ.get("RANK", "0"))
    batches = SequenceBatches(clips, SEQUENCE_FRAMES, config.batch, seed, even_states=even_states)
    lost = inherit(model, inherited, batches) if inherited else 0.0
    legible, speech = readers(model, aims_at_clip=how.articulation > 0)
    scale = float(model.codec.latent_scale)
    stage = ConsistencyDistillation(
        model.denoiser, teacher, model.audio, legible, scale, how, articulation=speech, teacher_audio=teacher_audio
    )
    run = Run(config, stage, model.denoiser)
    model.codec.to(run.device)
    extra = {"teacher": meta, "guidance": how.guidance, "ears_unexplained": lost} | segmented(how)
    on_sample, on_save = callbacks(run, model, test_batch(held_out), student_sampling(extra), "consistency", extra)
    run.train(iter(batches), on_sample, on_save)
    return config.out / "model.safetensors"


def segmented(how: ConsistencyConfig) -> dict[str, Any]:
    """What the checkpoint of a student of several segments says of its sampling; nothing for one."""
    if how.segments == 1:
        return {}
    drawn = Sampling(
        "euler", how.segments, first_steps=how.segments, time_shift=how.shift,
        noise_scale=STUDENT_SAMPLING.noise_scale, easing=STUDENT_SAMPLING.easing,
    )  # fmt: skip
    return {"sampling": asdict(drawn)}


def inherit(model: AvatarModel, inherited: Inherited, batches: SequenceBatches) -> float:
    """Put the parts in place; returns what of the student's old hearing is lost, 0 with the same encoder."""
    ears = model.audio
    if inherited.student is not None:
        heir, _ = load_model(inherited.student)
        model.denoiser.load_state_dict(heir.denoiser.state_dict())
        ears = heir.audio
    if inherited.audio is None:
        model.audio.load_state_dict(ears.state_dict())
        return 0.0
    model.audio = load_model(inherited.audio)[0].audio
    drawn = [batches.draw() for _ in range(8)]
    windows = torch.cat([b[name].flatten(0, 1) for b in drawn for name in ("windows", "partner_windows")])
    turned = fit_ears(ears, model.audio, windows)
    turn_ears(model.denoiser, turned)
    return turned.unexplained


@torch.no_grad()
def sample_sheet(model: AvatarModel, batch: Batch, how: SamplingConfig, path: Path, device: torch.device) -> None:
    """Every fourth frame of the first four test sequences, decoded at 128."""
    part = {k: v[:4].to(device) for k, v in batch.items()}
    own, partner = encode_voices(model.audio, part)
    motion = generate(model.denoiser, conditions(model.denoiser, own, partner, part, None), part["reference"], how)
    rows = []
    for frames, portrait in zip(motion[:, ::4], part["portrait"], strict=True):
        reference = model.codec.encode_reference(portrait[None]).expand(len(frames))
        latent = model.codec.from_motion(frames, reference)
        rows.append(model.codec.decode(latent, reference, portrait.expand(len(frames), -1, -1, -1)).image)
    save_grid(rows, path)
