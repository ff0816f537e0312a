"""Attention tiles: what is left out, that it costs nothing, which layers can do without, and the student that does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from test_distribution_matching import FRAMES, batch, random_clips  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from engine.errors import ArgumentError  # noqa: E402
from engine.model.avatar import AvatarModel, load_model, save_model  # noqa: E402
from engine.model.config import TINY  # noqa: E402
from engine.model.denoiser import Denoiser  # noqa: E402
from engine.model.tiles import global_frames, tile_mask, tile_sparsity  # noqa: E402
from export.bundle import Choices, export_bundle  # noqa: E402
from training.attention.measure import time_tiles  # noqa: E402
from training.attention.search import Question, recorded, search_tiles, window_sparsity  # noqa: E402
from training.attention.tiled import tiled_attention  # noqa: E402
from training.codec import PROBE_OUTPUTS  # noqa: E402
from training.denoising import SEQUENCE_FRAMES  # noqa: E402
from training.generate import student_sampling  # noqa: E402
from training.objectives.blocks import conditions  # noqa: E402
from training.objectives.consistency import ConsistencyConfig  # noqa: E402
from training.objectives.tile_distillation import TileConfig  # noqa: E402
from training.objectives.trajectories import euler_times, pick, trajectories  # noqa: E402
from training.run import RunConfig  # noqa: E402
from training.tiling import TILES_FILE, train_tiles  # noqa: E402

PUBLISHED = [
    (8, 4, 17.60), (8, 3, 29.88), (8, 2, 45.47), (8, 1, 64.38),
    (24, 12, 21.51), (24, 8, 40.30), (24, 6, 51.88), (24, 4, 64.98), (24, 3, 72.05),
]  # fmt: skip
"""Frames, global ones, and per cent of tiles left out, of the paper's first table."""


@pytest.mark.parametrize(("frames", "count", "percent"), PUBLISHED)
def test_sparsity_is_the_paper_s(frames: int, count: int, percent: float) -> None:
    """Within what its kernel's own granularity takes back."""
    ours = 100 * tile_sparsity(frames, count)
    assert 0.5 < ours - percent < 1.6
    assert 100 * float((~tile_mask(frames, count)).float().mean()) == pytest.approx(ours)


def test_global_frames_are_spread_and_include_the_first() -> None:
    assert global_frames(8, 4) == [0, 2, 4, 6]
    assert global_frames(24, 3) == [0, 8, 16]
    assert global_frames(5, 0) == global_frames(5, 9) == [0, 1, 2, 3, 4]
    assert tile_sparsity(5, 0) == 0.0


@pytest.mark.parametrize("count", [1, 3, 8])
def test_two_dense_calls_are_the_masked_one(count: int) -> None:
    torch.manual_seed(0)
    frames, tokens = 8, 6
    q, k, v = (torch.randn(2, 3, frames * tokens, 16) for _ in range(3))
    mask = tile_mask(frames, count).repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
    truth = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert (tiled_attention(q, k, v, frames, count) - truth).abs().max() < 1e-5


def test_time_grows_with_frames_and_not_with_their_square() -> None:
    """On few repeats and a shared machine: dense attention over four times the frames takes more than seven times as
    long, tiled attention less, and it is faster."""
    short, long = time_tiles([8, 32], [2], tokens=96, heads=2, repeats=5)
    assert long.tiled_ms / short.tiled_ms < 0.75 * long.dense_ms / short.dense_ms
    assert long.speedup > 2


def networks(tiles: tuple[int, ...]) -> tuple[Denoiser, Denoiser]:
    """The same weights, all seeing all, and with tiles."""
    torch.manual_seed(1)
    dense = Denoiser(TINY)
    for parameter in dense.parameters():
        nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    sparse = Denoiser(replace(TINY, tiles=tiles))
    sparse.load_state_dict(dense.state_dict())
    return dense.eval(), sparse.eval()


def question(denoiser: Denoiser) -> Question:
    torch.manual_seed(2)
    b = batch()
    size = TINY.audio_width
    given = conditions(denoiser, torch.randn(2, FRAMES, size), torch.randn(2, FRAMES, size), b, None)
    blocks = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    t = torch.full((2, FRAMES), 0.6)
    return Question(b["latent"], b["latent"], t, given, b["reference"], blocks, 0 * t)


def test_a_stream_with_tiles_is_the_whole_sequence_with_them() -> None:
    dense, sparse = networks((2, 1))
    q = question(sparse)
    times, noise = euler_times(2, 1.5), torch.randn_like(q.noisy)
    states = trajectories(sparse, q.given, q.reference, q.block_of, times, noise)
    x, t, s = pick(states, times, torch.tensor([[0, 1], [1, 0]]), q.block_of)
    again = x + (s - t)[..., None, None, None] * sparse(x, states[-1], t, q.given, q.reference, q.block_of, 0 * t)
    wanted = pick(states[1:], [*times[1:], 0.0], torch.tensor([[0, 1], [1, 0]]), q.block_of)[0]
    assert (again - wanted).abs().max() < 1e-5
    assert (dense(*q) - sparse(*q)).abs().max() > 1e-3


def test_the_search_takes_the_sparsest_mask_that_does_no_harm() -> None:
    dense, _ = networks(())
    questions = [question(dense)]
    found = search_tiles(dense, questions, (1, 2, 4, 8), damage=1e9)
    assert found.tiles == (1, 1)
    assert search_tiles(dense, questions, (1, 2, 4, 8), damage=0.0).tiles == (0, 0)
    for layer in found.damages:
        assert layer[8] < layer[1]
    middle = sorted(found.damages[1].values())[1]
    assert search_tiles(dense, questions, (1, 2, 4, 8), damage=middle).tiles[1] in found.damages[1]
    assert dense.config.tiles == ()
    # A context of 8 and a block of 8.
    assert window_sparsity(8, 8, (1, 0)) == pytest.approx(tile_sparsity(16, 1) / 2)


def test_layers_are_recorded_and_the_denoiser_is_as_it_was() -> None:
    dense, _ = networks(())
    q = question(dense)
    before = dense(*q)
    with recorded(dense) as layers:
        dense(*q)
        dense(*q)
    assert len(layers) == TINY.depth
    assert torch.equal(layers[0].out, layers[1].into)
    assert torch.equal(dense(*q), before)


def test_a_student_loses_its_tiles_in_three_stages(tmp_path: Path) -> None:
    save_model(AvatarModel(TINY, PROBE_OUTPUTS), tmp_path / "teacher.safetensors", {"stage": "teacher"})
    clips = random_clips(4, SEQUENCE_FRAMES)
    config = RunConfig(out=tmp_path / "vdit", steps=6, minutes=5, batch=2, warmup=1, device="cpu")
    how = ConsistencyConfig(grid=8, segments=2)
    tiles = TileConfig(candidates=(1, 4), damage=1e9, questions=1)
    path = train_tiles(clips, clips, config, tmp_path / "teacher.safetensors", how, tiles)
    model, meta = load_model(path)
    assert model.config.tiles == model.denoiser.config.tiles == (1, 1)
    assert json.loads((tmp_path / "vdit" / TILES_FILE).read_text())["tiles"] == [1, 1]
    assert meta["tile_sparsity"] > 0.5 and (meta["method"], meta["step"]) == ("vdit", 2)
    drawn = student_sampling(meta)
    assert (drawn.sampler, drawn.steps) == ("euler", 2)
    with pytest.raises(ArgumentError, match="dense"):
        export_bundle(path, tmp_path / "bundle", Choices("vdit"))
