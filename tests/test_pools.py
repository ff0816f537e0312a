"""Pools give what the file-based loaders give, on the device and from the latest takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_people import some_played
from fake_subjects import FakeSubject

from engine.audio.features import LOG_FLOOR
from engine.audio.windows import frame_windows
from engine.model.avatar import AvatarModel
from engine.model.config import TINY
from training.codec import RARE_FROM, codec_batch
from training.data.clips import identity_grid
from training.data.takes import TakeSettings, draw_take, take_bytes, take_views
from training.data.truth import UNIT
from training.pools import MelAugment, PairPool, SequencePool, VoicePool, augment_windows, windows_of

CPU = torch.device("cpu")
PAIRS, SEQUENCES = TakeSettings("pairs", 32, 6), TakeSettings("sequences", 128, 20)


def drawn(settings: TakeSettings, seed: int) -> dict[str, np.ndarray]:
    layout = settings.layout()
    take = take_views(np.zeros(take_bytes(layout), np.uint8), layout)
    draw_take(FakeSubject(seed, settings.size), some_played(), settings, np.random.default_rng(seed), take)
    return take


def test_pairs_are_those_of_the_codec_batch() -> None:
    pool, take = PairPool(PAIRS.layout(), 2, CPU), drawn(PAIRS, 1)
    pool.add(take)
    batch = pool.first(6)
    raw = {name: np.repeat(a[None], 6, 0) if name.startswith("reference") else a for name, a in take.items()}
    raw["flow"] = take["displacement"].astype(np.float32) + identity_grid()
    raw["has_flow"] = take["known"].any((1, 2))
    expected = codec_batch(raw)
    for name, value in expected.items():
        torch.testing.assert_close(batch[name].float(), value.float(), msg=name)


def test_the_oldest_take_gives_way() -> None:
    pool = PairPool(PAIRS.layout(), 2, CPU)
    takes = [drawn(PAIRS, seed) for seed in range(3)]
    for take in takes:
        pool.add(take)
    held = {int(x) for x in pool.store["reference"].flatten(1).sum(1)}
    assert held == {int(t["reference"].sum()) for t in takes[1:]}


def test_fleeting_units_come_more_often() -> None:
    pool = PairPool(PAIRS.layout(), 8, CPU)
    for seed in range(8):
        take = drawn(PAIRS, seed)
        take["units"][:] = 0
        pool.add(take)
    take["units"][0, UNIT["eyeBlinkLeft"]] = 1
    pool.add(take)
    blinks = (pool.draw(400)["units"][:, UNIT["eyeBlinkLeft"]] > RARE_FROM["eyeBlinkLeft"]).float().mean()
    assert 0.22 < blinks < 0.35


def test_windows_are_those_of_the_engine() -> None:
    mel = np.random.default_rng(0).normal(size=(2, 40, 80)).astype(np.float32)
    windows = windows_of(torch.from_numpy(mel), torch.tensor([1, 0]), torch.tensor([0, 4]), 6)
    np.testing.assert_array_equal(windows[0].numpy(), frame_windows(mel[1], 0, 6))
    np.testing.assert_array_equal(windows[1].numpy(), frame_windows(mel[0], 4, 6))


def test_augmented_silence_is_silent_or_noise() -> None:
    windows = torch.full((64, 2, 32, 80), LOG_FLOOR)
    changed = augment_windows(windows, MelAugment(), torch.Generator().manual_seed(0))
    silent = (changed == LOG_FLOOR).flatten(1).all(1)
    assert 16 < int(silent.sum()) < 48
    speech = augment_windows(windows + 8, MelAugment(noise_share=0), torch.Generator().manual_seed(0))
    spread = speech.std(0).mean()
    assert 1.0 < spread < 2.5 and (speech.std((1, 2)) < 1e-4).all()


def test_sequences_are_encoded_as_they_come() -> None:
    torch.manual_seed(0)
    codec = AvatarModel(TINY, 113).codec.eval()
    pool, take = SequencePool(SEQUENCES.layout(), codec, 2, CPU), drawn(SEQUENCES, 1)
    pool.add(take)
    batch = pool.whole(20, 4)
    images, reference = (
        torch.from_numpy(a).permute(0, 3, 1, 2).float() / 127.5 - 1 for a in (take["image"], take["reference"][None])
    )
    with torch.no_grad():
        expected = codec.encode(images, reference.expand(20, -1, -1, -1))
    assert (batch["latent"][0] - expected).abs().mean() < 0.02
    torch.testing.assert_close(batch["portrait"], reference)
    assert pool.draw(5, 8)["windows"].shape == (5, 8, 32, 80)
    assert pool.motion_scale() > 0


def test_voices_come_in_runs() -> None:
    mel = torch.zeros(4 * 100, 80) + torch.arange(400)[:, None]
    pool = VoicePool(mel, torch.arange(100.0)[:, None])
    batch = pool.draw(64, augment=False)
    assert batch["windows"].shape == (64, 32, 80)
    inner = batch["targets"][:, 0] > 8
    # A frame's window has its own four mel frames at places 20 to 23.
    torch.testing.assert_close(batch["windows"][inner, 20, 0], 4 * batch["targets"][inner, 0])


@pytest.mark.parametrize("frames", [21, 40])
def test_a_take_shorter_than_a_sequence_is_an_error(frames: int) -> None:
    pool = SequencePool(SEQUENCES.layout(), AvatarModel(TINY, 113).codec.eval(), 1, CPU)
    pool.add(drawn(SEQUENCES, 1))
    with pytest.raises(RuntimeError):
        pool.draw(2, frames + 1)
