"""The sync scorer: it learns when lips and voice belong together, says by how much they are apart, and is no loss."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.portrait.landmarks import INDEX, LANDMARKS
from training.data.clips import Clip
from training.data.shards import ShardWriter
from training.instruments import sync
from training.instruments.sync import SyncConfig, SyncNet, SyncScorer, SyncStage, Track
from training.run import RunConfig

_SMALL = SyncConfig(mouth_px=8, width=8, embedding=16)


def _track(seed: int, frames: int = 100) -> Track:
    """The mouth is as bright as the sound is loud."""
    rng = np.random.default_rng(seed)
    curve = np.convolve(rng.standard_normal(frames + 4), np.ones(3), "valid")[:frames].astype(np.float32)
    mouth = curve[:, None, None] * np.linspace(0.5, 1.5, 8, dtype=np.float32) * np.ones((8, 1), np.float32)
    sound = np.repeat(curve, 4)[:, None] * np.ones(80, np.float32)
    return Track(mouth, sound, np.ones(frames, bool))


@pytest.fixture(scope="module")
def scorer() -> SyncScorer:
    torch.manual_seed(0)
    net = SyncNet(_SMALL)
    stage = SyncStage(net)
    batches = sync.sync_batches([_track(i) for i in range(12)], _SMALL, 6, 0)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        loss, _ = stage(next(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return SyncScorer(net, {"found": 1.0})


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_the_offset_is_found_and_has_the_right_sign(scorer: SyncScorer, late: int) -> None:
    track = _track(50)
    moved = Track(np.roll(track.mouth, late, 0), track.sound, track.voiced)
    figures = sync.figures(scorer.distances(moved, moved.voiced))
    assert figures.offset_frames == late
    assert figures.confidence > 0.2


def test_another_voice_fits_less(scorer: SyncScorer) -> None:
    errors = sync.calibrate(scorer, [_track(i) for i in range(50, 56)])
    assert errors["found"] == errors["found_shifted"] == 1.0
    assert errors["distance_other_voice"] > errors["distance"] + 0.3
    assert errors["confidence_no_voice"] < 0.2 * errors["confidence"]


def test_a_track_is_centred_and_knows_where_there_is_voice() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (50, 64, 64, 3)).astype(np.uint8)
    points = np.full((50, len(LANDMARKS), 2), 0.5, np.float32)
    for name, x in (("eye_left_outer", 0.65), ("eye_left_inner", 0.6), ("eye_right_outer", 0.35)):
        points[:, INDEX[name], 0] = x
    voice = np.zeros(50 * 640, np.float32)
    voice[10 * 640 : 30 * 640] = 0.3 * np.sin(np.arange(20 * 640) * 0.3)
    track = sync.track_of(frames, points, voice, _SMALL)
    assert track.mouth.shape == (50, 8, 8) and track.sound.shape == (200, 80)
    assert np.abs(track.mouth.mean(0)).max() < 1e-4
    assert track.voiced[12:28].all() and not track.voiced[:8].any() and not track.voiced[33:].any()


def test_too_short_clips_have_no_figures(scorer: SyncScorer) -> None:
    track = _track(0, 4)
    assert np.isnan(sync.figures(scorer.distances(track, track.voiced)).confidence)


def test_it_round_trips(scorer: SyncScorer, tmp_path: Path) -> None:
    scorer.save(tmp_path / "sync.safetensors", {"stage": "sync"})
    again = SyncScorer.load(tmp_path / "sync.safetensors")
    track = _track(60)
    assert again.errors == {"found": 1.0} and again.net.config == _SMALL
    np.testing.assert_allclose(again.distances(track, track.voiced), scorer.distances(track, track.voiced), atol=2e-2)


def test_shipped_weights_are_small() -> None:
    assert 2 * sum(p.numel() for p in SyncNet(SyncConfig()).parameters()) < 2_000_000


def test_training_learns_from_one_half_and_is_calibrated_on_the_other(tmp_path: Path) -> None:
    from tests.fake_subjects import FakeSubject, fake_performance
    from training.data.clips import render_clip

    shard = tmp_path / "test-00000.tar"
    with ShardWriter(shard) as writer:
        for i in range(4):
            clip = render_clip(
                FakeSubject(i, 64), fake_performance(i, 6.0), rng=np.random.default_rng(i), key=f"clip{i}"
            )
            clip.meta["subject"] = f"head-{i}"
            writer.add(clip)
    config = RunConfig(out=tmp_path / "sync", steps=2, batch=2, sample_every=100, threads=1, device="cpu")
    path = sync.train_sync([shard], config)
    assert SyncScorer.load(path).errors["clips"] == 2


@pytest.mark.parametrize(("subject", "kind", "mine"), [("057-88", "puppet", True), ("061-12", "puppet", False)])
def test_photographs_are_halved_by_name(subject: str, kind: str, mine: bool) -> None:
    clip = Clip.__new__(Clip)
    object.__setattr__(clip, "meta", {"subject": subject, "kind": kind})
    object.__setattr__(clip, "key", "x")
    assert sync.is_for_scorer(clip) is mine
