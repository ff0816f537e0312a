"""The mouth without chance: the block's arithmetic, the directions, and bundles that carry them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.backends.base import Sampling
from engine.bundle import MANIFEST, SPEECH, find_bundle, read_bundle
from engine.diffusion.rollout import Cache, Manner, articulate, generate_block
from engine.diffusion.sampler import consistency
from engine.errors import BundleCorruptError

SHAPE = (2, 3, 4, 1, 1)
FIRST_TWO = np.stack([np.eye(4, dtype=np.float32)[:2]] * 2)
"""Two directions: the first two numbers of a latent."""


def towards(x: np.ndarray, t: float) -> np.ndarray:
    """The velocity whose clean sample is half of the noise and a quarter everywhere."""
    return (x - (0.5 * x + 0.25)) / t


def test_speech_is_what_no_noise_says_and_all_else_stays() -> None:
    drawn = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    out = articulate(drawn, towards, 1.0, FIRST_TWO, stress=1.2)
    assert np.allclose(out[:, :, :2], 1.2 * 0.25, atol=1e-6)
    assert np.array_equal(out[:, :, 2:], drawn[:, :, 2:])


def test_torch_and_numpy_agree() -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(1)
    drawn, speech = (
        random.standard_normal(SHAPE).astype(np.float32),
        random.standard_normal((2, 3, 4)).astype(np.float32),
    )
    here = articulate(drawn, towards, 1.0, speech, 1.1)
    there = articulate(torch.from_numpy(drawn), towards, 1.0, torch.from_numpy(speech), 1.1)
    assert np.allclose(here, there.numpy(), atol=1e-5)


def test_a_block_and_its_context_have_the_mouth_that_was_said() -> None:
    seen = []

    def model(x: np.ndarray, t: float, *_: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if t == 0:
            seen.append(x)
        keys = np.zeros((1, len(x), 1, x.shape[1], 2), np.float32)
        return towards(x, t or 1.0), keys, keys

    start = np.zeros((1, 2, 1, 1, 2), np.float32)
    noise = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    cache = Cache.start(start, start, 8)
    plain, _ = generate_block(model, consistency, noise, [1.0, 0.5], cache, Manner())
    latents, after = generate_block(model, consistency, noise, [1.0, 0.5], cache, Manner(speech=FIRST_TWO, stress=1.0))
    assert np.allclose(latents[:, :, :2], 0.25) and np.array_equal(latents[:, :, 2:], plain[:, :, 2:])
    assert np.array_equal(seen[-1], latents), "what is remembered is what is shown"
    assert np.array_equal(after.recent[:, -3:], latents)


def test_directions_move_the_mouth_and_not_the_head() -> None:
    torch = pytest.importorskip("torch")
    from training.speech import SpeechConfig, split_speech

    # Numbers 0 and 1 move the mouth alone, 2 the head and with it the mouth, 3 the head alone, 4 nothing.
    mouth = torch.diag(torch.tensor([1.0, 0.5, 1.0, 0.0, 0.0], dtype=torch.float64))
    head = torch.diag(torch.tensor([0.0, 0.0, 2.0, 2.0, 0.0], dtype=torch.float64))
    spread = torch.diag(torch.tensor([1.0, 4.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    reads, moves = split_speech(mouth, head, spread, SpeechConfig(mouth=1e-3, head=1e-3)).astype(np.float64)
    kept = reads.T @ moves
    assert np.diag(kept) == pytest.approx([1, 1, 0, 0, 0], abs=0.02)
    assert kept - np.diag(np.diag(kept)) == pytest.approx(0, abs=1e-3)


def test_a_likely_way_is_preferred_to_an_unlikely_one() -> None:
    torch = pytest.importorskip("torch")
    from training.speech import SpeechConfig, split_speech

    # Both numbers open the mouth alike; people hardly ever use the second one.
    mouth = torch.ones(2, 2, dtype=torch.float64)
    spread = torch.diag(torch.tensor([1.0, 0.01], dtype=torch.float64))
    reads, moves = split_speech(mouth, torch.zeros(2, 2, dtype=torch.float64) + 1e-9, spread, SpeechConfig(head=1e3))
    change = np.array([0.0, 1.0]) @ reads.T.astype(np.float64) @ moves.astype(np.float64)
    assert change == pytest.approx([0.99, 0.0099], abs=0.02)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the shipped bundle that may be changed."""
    return Path(shutil.copytree(find_bundle("nano").root, tmp_path / "nano"))


def test_a_bundle_without_stress_needs_no_directions() -> None:
    assert Sampling().manner().speech is None


@pytest.mark.parametrize("content", [b"", b"no array", None])
def test_a_bundle_whose_directions_are_no_array_is_refused(bundle: Path, content: bytes | None) -> None:
    number = read_bundle(bundle).config.latent_channels
    if content is None:
        np.save(bundle / SPEECH, np.zeros((2, 3, number), np.float16))
    else:
        (bundle / SPEECH).write_bytes(content)
    _declare(bundle)
    with pytest.raises(BundleCorruptError, match="export the bundle again"):
        read_bundle(bundle).manner()


def test_a_bundle_that_wants_directions_and_has_none_is_refused(bundle: Path) -> None:
    (bundle / SPEECH).unlink(missing_ok=True)
    _declare(bundle)
    with pytest.raises(BundleCorruptError, match=SPEECH):
        read_bundle(bundle).manner()


def test_directions_are_added_to_a_bundle(bundle: Path) -> None:
    from export.speech import add_speech

    numbers = read_bundle(bundle).config.latent_channels * read_bundle(bundle).config.latent_grid ** 2
    speech = np.random.default_rng(0).standard_normal((2, 5, numbers)).astype(np.float16)
    add_speech(read_bundle(bundle), speech, 1.3)
    manner = read_bundle(bundle).manner()
    assert manner.stress == 1.3 and np.array_equal(manner.speech, speech.astype(np.float32))


def _declare(folder: Path) -> None:
    from export.manifest import write_manifest

    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["sampling"]["stress"] = 1.1
    write_manifest(folder, manifest)
