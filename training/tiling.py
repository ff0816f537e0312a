"""Stage 3 by Efficient-vDiT (arXiv 2502.06155), `visavis train distill --method vdit`: few steps, then few tiles.

Three stages, each resumable: multistep consistency distillation of a student that sees all, in the run's folder
`dense`; the search for the tiles that its layers can do without, kept as tiles.json; and layer-wise distillation of the
student that does without them. The paper finds that the order of the first and the last does not matter.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import torch

from engine.model.avatar import AvatarModel, load_model
from training.attention.search import Found, Question, search_tiles, window_sparsity
from training.denoising import (
    SEQUENCE_FRAMES,
    Inherited,
    callbacks,
    readers,
    segmented,
    test_batch,
    train_consistency,
)
from training.generate import student_sampling
from training.latents import LatentClips, SequenceBatches
from training.objectives.consistency import ConsistencyConfig
from training.objectives.tile_distillation import TileConfig, TileDistillation
from training.probing import ensure_probe
from training.run import Run, RunConfig

DENSE_FOLDER, TILES_FILE = "dense", "tiles.json"


def train_tiles(
    clips: LatentClips,
    held_out: LatentClips,
    config: RunConfig,
    start: Path,
    how: ConsistencyConfig,
    tiles: TileConfig,
    inherited: Inherited | None = None,
    even_states: float = 0.0,
) -> Path:
    """Student from a teacher checkpoint; returns its path. A run of one process, of config's whole budget."""
    tiles = replace(tiles, steps=how.segments, shift=how.shift)
    first = replace(_share(config, tiles.dense_share), out=config.out / DENSE_FOLDER)
    path = train_consistency(clips, held_out, first, start, how, inherited, even_states)
    model, meta = load_model(path)
    ensure_probe(model, clips)
    dense = copy.deepcopy(model.denoiser).eval()
    legible, _ = readers(model)
    scale = float(model.codec.latent_scale)
    stage = TileDistillation(model.denoiser, dense, model.audio, legible, scale, tiles).to(config.resolve_device())
    batches = SequenceBatches(clips, SEQUENCE_FRAMES, config.batch, config.seed + 1, even_states=even_states)
    found = _found(config.out / TILES_FILE, stage, batches, config.seed)
    give_tiles(model, found.tiles)
    run = Run(_share(config, 1 - tiles.dense_share), stage, model.denoiser)
    model.codec.to(run.device)
    kept = {k: v for k, v in meta.items() if k not in ("stage", "step", "test")}
    extra = kept | segmented(how) | {
        "method": "vdit", "dense_test": meta["test"],
        "tile_sparsity": window_sparsity(model.config.context_frames, 8, found.tiles),
    }  # fmt: skip
    run.train(
        iter(batches), *callbacks(run, model, test_batch(held_out), student_sampling(extra), "consistency", extra)
    )
    return config.out / "model.safetensors"


def give_tiles(model: AvatarModel, tiles: tuple[int, ...]) -> None:
    """Have the model's layers see so many global frames each; saved with it."""
    model.config = model.denoiser.config = replace(model.config, tiles=tiles)


def _share(config: RunConfig, share: float) -> RunConfig:
    return replace(config, steps=max(1, round(config.steps * share)), minutes=config.minutes * share)


def _found(path: Path, stage: TileDistillation, batches: SequenceBatches, seed: int) -> Found:
    """What an earlier call wrote to the path, or the outcome of a search."""
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        damages = tuple({int(k): v for k, v in layer.items()} for layer in kept["damages"])
        return Found(tuple(kept["tiles"]), damages)
    config, device = stage.config, next(stage.parameters()).device
    torch.manual_seed(seed)
    questions: list[Question] = []
    for _ in range(config.questions):
        batch = {k: v.to(device) for k, v in batches.draw().items()}
        questions.append(stage.question(batch)[0])
    found = search_tiles(stage.dense, questions, config.candidates, config.damage)
    text = json.dumps({"tiles": found.tiles, "damages": found.damages, "most_damage": config.damage}, indent=1)
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return found
