"""Training caches: rows belong together, caches grow, left-overs are overwritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_subjects import FakeSubject, fake_performance

from engine.errors import DataSettingsError
from training.data.clips import Clip, render_clip
from training.data.loading import ClipSequences, CodecPairs
from training.data.shards import ShardWriter, iterate_shards


def _shard(path: Path, seeds: range, size: int = 32, seconds: float = 1.0) -> Path:
    with ShardWriter(path) as writer:
        for seed in seeds:
            rng = np.random.default_rng(seed)
            clip = render_clip(
                FakeSubject(seed, size), fake_performance(seed, seconds + 0.2 * seed), rng=rng, key=f"k{seed}"
            )
            writer.add(clip)
    return path


@pytest.fixture
def shards(tmp_path) -> list[Path]:
    return [_shard(tmp_path / "a.tar", range(3)), _shard(tmp_path / "b.tar", range(3, 5))]


def _check_pairs(pairs: CodecPairs, clips: list[Clip]) -> None:
    assert len(pairs) == sum(len(c.truth.map_frames) for c in clips) and pairs.clips == len(clips)
    row = 0
    for number, clip in enumerate(clips):
        for i, frame in enumerate(clip.truth.map_frames):
            got = pairs.rows(np.array([row]))
            assert got["clip"][0] == number
            assert np.array_equal(got["image"][0], clip.frames[frame])
            assert np.array_equal(got["reference"][0], clip.reference)
            assert np.array_equal(got["units"][0], clip.truth.units[frame])
            assert np.array_equal(got["reference_head"][0], clip.truth.reference_head)
            assert np.array_equal(got["flow"][0], clip.truth.flow[i])
            row += 1


def test_pairs_hold_the_frames_with_maps(tmp_path, shards):
    _check_pairs(CodecPairs(shards, tmp_path / "cache"), list(iterate_shards(shards)))


def test_cache_grows_and_stays_right(tmp_path, shards):
    first = CodecPairs(shards[:1], tmp_path / "cache")
    assert first.clips == 3
    with (tmp_path / "cache" / "image.bin").open("ab") as file:
        file.write(b"left over from a run that was killed" * 100)
    grown = CodecPairs(shards, tmp_path / "cache")
    _check_pairs(grown, list(iterate_shards(shards)))
    again = CodecPairs(shards, tmp_path / "cache")
    assert len(again) == len(grown)


def test_batch_is_random_and_in_range(tmp_path, shards):
    batch = CodecPairs(shards, tmp_path / "cache").batch(64, np.random.default_rng(0))
    assert batch["image"].shape == (64, 32, 32, 3) and batch["flow"].shape == (64, 64, 64, 2)
    assert len(set(batch["clip"].tolist())) == 5
    assert 0 <= batch["mouth"].min() < batch["mouth"].max() == 1
    assert batch["mouth"].dtype == batch["known"].dtype == batch["flow"].dtype == np.float32


def test_cache_of_another_size_is_refused(tmp_path, shards):
    CodecPairs(shards, tmp_path / "cache")
    other = _shard(tmp_path / "c.tar", range(1), size=48)
    with pytest.raises(DataSettingsError, match="another size"):
        CodecPairs([other], tmp_path / "cache")


def test_changed_shard_is_refused(tmp_path, shards):
    CodecPairs(shards, tmp_path / "cache")
    _shard(shards[0], range(2))
    with pytest.raises(DataSettingsError, match=r"a\.tar has changed"):
        CodecPairs(shards, tmp_path / "cache")


def test_no_shards_is_an_error(tmp_path):
    with pytest.raises(DataSettingsError, match="no clips"):
        CodecPairs([], tmp_path)


def test_sequences_are_whole_clips(tmp_path, shards):
    sequences = ClipSequences(shards, tmp_path / "cache")
    clips = list(iterate_shards(shards))
    assert len(sequences) == 5 and len(sequences.frames) == sum(map(len, clips))
    for got, clip in zip(sequences, clips, strict=True):
        assert np.array_equal(got["image"], clip.frames)
        assert np.array_equal(got["state"], clip.truth.state)
        np.testing.assert_allclose(got["voice"], clip.voice, atol=1e-6)
        np.testing.assert_allclose(got["partner"], clip.partner, atol=1e-6)


def test_stretch_of_a_clip_keeps_sound_and_picture_together(tmp_path, shards):
    sequences = ClipSequences(shards, tmp_path / "cache")
    whole, part = sequences.clip(3), sequences.clip(3, first=7, frames=5)
    assert np.array_equal(part["image"], whole["image"][7:12])
    assert np.array_equal(part["voice"], whole["voice"][7 * 640 : 12 * 640])
    assert part["reference"].shape == (32, 32, 3)
