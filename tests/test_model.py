"""The networks: shapes, the streamed form against the whole form, checkpoints that describe themselves."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from engine.diffusion.rollout import Cache, generate_block  # noqa: E402
from engine.diffusion.sampler import consistency, euler  # noqa: E402
from engine.model.avatar import AvatarModel, load_model, save_model  # noqa: E402
from engine.model.codec import resize_grid  # noqa: E402
from engine.model.config import TINY, ModelConfig  # noqa: E402
from engine.model.denoiser import Conditions, Denoiser  # noqa: E402
from engine.model.layers import base_grid, warp  # noqa: E402


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    """Every zero-initialised layer is stirred, so that no path is dead."""
    torch.manual_seed(0)
    model = AvatarModel(TINY, 113).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def random_conditions(size: int, frames: int) -> Conditions:
    return Conditions(
        torch.randn(size, frames, TINY.audio_width),
        torch.randn(size, frames, TINY.audio_width),
        torch.randint(0, 4, (size, frames)),
        torch.rand(size, frames, 8),
        torch.ones(size, frames),
        10 * torch.randn(size, frames, 5),
        torch.ones(size, frames),
    )


def latents_like(size: int, frames: int) -> torch.Tensor:
    return torch.randn(size, frames, TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(4, 8, 1, 2, 5), (1,) * 12, (12, 12)])
def test_streamed_blocks_equal_the_whole_sequence(model: AvatarModel, lengths: tuple[int, ...]) -> None:
    denoiser, size, frames = model.denoiser, 2, sum(lengths)
    clean, noisy, c = latents_like(size, frames), latents_like(size, frames), random_conditions(size, frames)
    reference = torch.randn(size, TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)
    t, block_of = torch.full((size, frames), 0.6), torch.repeat_interleave(torch.tensor(lengths))
    whole = denoiser(noisy, clean, t, c, reference, block_of, torch.zeros_like(t))
    cache = Cache.start(*denoiser.prefill_reference(reference), TINY.context_frames * TINY.frame_tokens)
    parts, first = [], 0
    for length in lengths:
        at = slice(first, first + length)
        given = c.slice(first, first + length)
        state = (cache.keys, cache.values, cache.valid)
        parts.append(denoiser.stream(noisy[:, at], t[:, at], given, *state)[0])
        _, keys, values = denoiser.stream(clean[:, at], torch.zeros(size, length), given, *state)
        cache, first = cache.append(keys, values), first + length
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_future_blocks_do_not_reach_back(model: AvatarModel) -> None:
    size, frames = 1, 8
    clean, noisy, c = latents_like(size, frames), latents_like(size, frames), random_conditions(size, frames)
    reference = torch.randn(size, TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)
    t, block_of = torch.full((size, frames), 0.5), torch.repeat_interleave(torch.tensor([4, 4]))
    before = model.denoiser(noisy, clean, t, c, reference, block_of, torch.zeros_like(t))
    changed = torch.cat((noisy[:, :4], noisy[:, 4:] + 1), 1)
    after = model.denoiser(changed, clean + 0, t, c, reference, block_of, torch.zeros_like(t))
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().max() > 1e-3


@torch.no_grad()
def test_state_switch_changes_only_its_frames_modulation(model: AvatarModel) -> None:
    """A state is a label per frame: with one frame per block, earlier frames cannot know of it."""
    size, frames = 1, 6
    clean, noisy, c = latents_like(size, frames), latents_like(size, frames), random_conditions(size, frames)
    reference = torch.randn(size, TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)
    t, block_of = torch.full((size, frames), 0.5), torch.arange(frames)
    before = model.denoiser(noisy, clean, t, c, reference, block_of, torch.zeros_like(t))
    c.state[:, 3:] = (c.state[:, 3:] + 1) % 4
    after = model.denoiser(noisy, clean, t, c, reference, block_of, torch.zeros_like(t))
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert (after[:, 3] - before[:, 3]).abs().max() > 1e-4


def test_tokens_round_trip() -> None:
    denoiser = Denoiser(TINY)
    x = latents_like(2, 3)
    torch.testing.assert_close(denoiser.from_tokens(denoiser.to_tokens(x)), x)


@torch.no_grad()
def test_cache_keeps_the_newest_context(model: AvatarModel) -> None:
    reference = torch.randn(1, TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)
    slots = TINY.context_frames * TINY.frame_tokens
    cache = Cache.start(*model.denoiser.prefill_reference(reference), slots)
    assert cache.valid.sum() == TINY.frame_tokens
    shape = (TINY.depth, 1, TINY.heads, TINY.frame_tokens, TINY.head_width)
    for i in range(TINY.context_frames + 3):
        cache = cache.append(torch.full(shape, float(i)), torch.full(shape, float(i)))
    assert cache.keys.shape[3] == TINY.frame_tokens + slots
    assert cache.keys[0, 0, 0, cache.reference_slots :, 0].unique().tolist() == [float(i) for i in range(3, 11)]
    assert cache.valid.all()


@torch.no_grad()
def test_decoder_is_resolution_free() -> None:
    """The same latent decoded at 128 and 256 shows the same picture (a fresh decoder: smooth flow)."""
    model = AvatarModel(TINY).eval()
    small = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16) * 2 - 1, size=128, mode="bilinear")
    large = torch.nn.functional.interpolate(small, size=256, mode="bilinear", align_corners=False)
    reference, latent = model.codec.encode_reference(small), model.codec.encode(small.flip(-1), small)
    at_128 = model.codec.decode(latent, reference, small).image
    at_256 = model.codec.decode(latent, reference, large).image
    # Random paint is noise from pixel to pixel, which resampling smooths: compare what is left on a coarser grid.
    pooled_128 = torch.nn.functional.avg_pool2d(at_128, 4)
    pooled_256 = torch.nn.functional.avg_pool2d(at_256, 8)
    assert (pooled_256 - pooled_128).abs().mean() < 0.05 * at_128.std()


def test_zero_flow_is_the_identity_warp_at_any_size() -> None:
    image = torch.rand(1, 3, 96, 96)
    grid = resize_grid(base_grid(64, image.device), 96)
    torch.testing.assert_close(warp(image, grid), image, atol=1e-4, rtol=0)


def test_latent_is_normalised(model: AvatarModel) -> None:
    latent = model.codec.encode(torch.rand(3, 3, 128, 128), torch.rand(3, 3, 128, 128))
    assert latent.flatten(1).mean(1).abs().max() < 1e-4
    torch.testing.assert_close(latent.flatten(1).std(1, unbiased=False), torch.ones(3), atol=1e-2, rtol=0)


def test_checkpoint_describes_itself(model: AvatarModel, tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path, {"stage": "test", "step": 7})
    loaded, meta = load_model(path)
    assert loaded.config == TINY and meta == {"stage": "test", "step": 7}
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, msg=name)


def test_unknown_config_key_is_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        ModelConfig.from_dict({**TINY.to_dict(), "colour": 3})


@torch.no_grad()
def test_block_loop_matches_by_hand(model: AvatarModel) -> None:
    """generate_block is sampler, then a clean pass, then the cache: nothing else."""
    reference = torch.randn(1, TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)
    cache = Cache.start(*model.denoiser.prefill_reference(reference), TINY.context_frames * TINY.frame_tokens)
    noise, c = latents_like(1, 4), random_conditions(1, 4)

    def block(x, t, keys, values, valid):
        return model.denoiser.stream(x, torch.full(x.shape[:2], t), c, keys, values, valid)

    state = (cache.keys, cache.values, cache.valid)
    for sampler in (euler, consistency):
        latents, after = generate_block(block, sampler, noise, [1.0, 0.5], cache)
        v1 = block(noise, 1.0, *state)[0]
        if sampler is euler:
            half = noise - 0.5 * v1
            by_hand = half - 0.5 * block(half, 0.5, *state)[0]
        else:
            half = 0.5 * (noise - v1) + 0.5 * noise.roll(1, -1)
            by_hand = half - 0.5 * block(half, 0.5, *state)[0]
        torch.testing.assert_close(latents, by_hand)
        torch.testing.assert_close(after.keys[:, :, :, -16:], block(latents, 0.0, *state)[1])
