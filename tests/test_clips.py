"""Clips, shards and the making of data sets, with a subject of ellipses."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_subjects import DEADLY, FAKES, FRAGILE, HOPELESS, FakeSubject, fake_performance

from engine.errors import DataSettingsError, ShardDamagedError, SubjectsFailedError
from training.data.clips import TRUTH_FIELDS, Clip, identity_grid, render_clip
from training.data.make import make_clips
from training.data.recipe import CLIPS_PER_SHARD, make_shard, plan, subject_plan
from training.data.shards import PARTS, ShardWriter, iterate_shards
from training.data.truth import FramePose

SIZE = 48


def _clip(seed: int = 0, seconds: float = 1.0) -> Clip:
    rng = np.random.default_rng(seed)
    return render_clip(FakeSubject(seed, SIZE), fake_performance(seed, seconds), rng=rng, key=f"test-{seed}")


def _write(path: Path, *clips: Clip) -> Path:
    with ShardWriter(path) as writer:
        for clip in clips:
            writer.add(clip)
    return path


def _hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.tar"))}


def _recipe(out: Path, clips: int, sources=FAKES, **other):
    settings = dict(seconds=0.4, size=32, seed=5, split="train", assets=None, truth_stride=4, mix={"head": 1.0})
    return plan(out, clips, cache=out / "cache", sources=sources, **(settings | other))


def test_flow_of_a_clip_leads_back_to_the_reference():
    clip = _clip(1)
    truth = clip.truth
    shift = 0.004 * (truth.head[truth.map_frames, :2] - truth.reference_head[:2])
    centre = truth.flow[:, 32, 32] - identity_grid()[32, 32]
    np.testing.assert_allclose(centre, -shift, atol=2e-4)
    assert len(truth.map_frames) in (6, 7) and np.all(np.diff(truth.map_frames) == 4)


def test_references_are_at_rest_in_about_two_thirds():
    kinds = [_clip(seed, 0.2).meta["reference"] for seed in range(60)]
    assert 0.5 < kinds.count("rest") / 60 < 0.8


def test_posed_reference_is_the_picture_of_its_truth():
    clip = next(c for c in map(_clip, range(20)) if c.meta["reference"] == "posed")
    truth = clip.truth
    pose = FramePose(truth.reference_units, truth.reference_head, truth.reference_gaze, 0.0)
    subject = FakeSubject(int(str(clip.meta["subject"]).split("-")[1]), SIZE)
    assert np.array_equal(subject.draw(pose).image, clip.reference)
    assert np.abs(truth.reference_head).max() > 0


def test_parts_of_unequal_length_are_refused():
    good = fake_performance(0, 1.0)
    bad = type(good)(**{name: getattr(good, name) for name in good.__slots__} | {"voice": good.voice[:-1]})
    with pytest.raises(ValueError, match="voice"):
        render_clip(FakeSubject(0, SIZE), bad, rng=np.random.default_rng(0))


def test_blank_pictures_are_refused():
    subject = FakeSubject(0, SIZE)
    subject.close()
    with pytest.raises(ValueError, match="blank"):
        render_clip(subject, _silent(), rng=np.random.default_rng(0))


def _silent():
    return replace(fake_performance(0, 0.4), units=np.zeros((10, 52), np.float32))


def test_shard_returns_what_was_written(tmp_path):
    written = [_clip(seed) for seed in range(3)]
    read = list(iterate_shards([_write(tmp_path / "a.tar", *written)]))
    assert [c.key for c in read] == [c.key for c in written]
    for before, after in zip(written, read, strict=True):
        assert np.array_equal(before.reference, after.reference)
        assert np.abs(before.voice - after.voice).max() < 1 / 32000
        assert np.abs(before.partner - after.partner).max() < 1 / 32000
        assert before.meta == after.meta
        for name in TRUTH_FIELDS:
            np.testing.assert_array_equal(getattr(before.truth, name), getattr(after.truth, name))


def test_frame_i_of_the_video_is_drawn_frame_i(tmp_path):
    before = _clip(2, 2.0)
    after = next(iterate_shards([_write(tmp_path / "a.tar", before)]))
    error = np.abs(before.frames.astype(int) - after.frames.astype(int)).mean((1, 2, 3))
    assert error.max() < 2.0
    moving = [i for i in range(49) if np.abs(before.frames[i].astype(int) - before.frames[i + 1]).mean() > 0.6]
    assert len(moving) > 5
    for i in moving:
        own = np.abs(after.frames[i].astype(int) - before.frames[i]).mean()
        assert own < np.abs(after.frames[i].astype(int) - before.frames[i + 1]).mean()


def test_shard_follows_the_webdataset_convention(tmp_path):
    path = _write(tmp_path / "a.tar", _clip(0), _clip(1))
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert [m.name.split(".", 1) for m in members] == [[f"test-{k}", part] for k in range(2) for part in PARTS]
    assert {m.mtime for m in members} == {0}


@pytest.mark.parametrize("damage", ["cut", "noise", "part", "empty"])
def test_damaged_shard_is_named(tmp_path, damage):
    path = _write(tmp_path / "bad.tar", _clip(0))
    data = bytearray(path.read_bytes())
    if damage == "part":
        with tarfile.open(path) as source, tarfile.open(tmp_path / "b.tar", "w") as target:
            for member in source:
                if not member.name.endswith("flac"):
                    target.addfile(member, source.extractfile(member))
        path = tmp_path / "b.tar"
    else:
        changed = {"cut": data[:9000], "noise": data[:600] + bytes(6000) + data[6600:], "empty": b""}[damage]
        path.write_bytes(bytes(changed))
    with pytest.raises(ShardDamagedError, match=path.name) as caught:
        list(iterate_shards([path]))
    assert caught.value.code == "shard_damaged"


def test_interrupted_writer_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / "a.tar") as writer:
        writer.add(_clip(0, 0.2))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_same_shards_for_any_number_of_workers(tmp_path):
    made = dict(clips=CLIPS_PER_SHARD + 5, seconds=0.4, size=32, seed=5, sources=FAKES, mix={"head": 1.0})
    report = make_clips(tmp_path / "two", workers=2, **made)
    assert (report.shards, report.clips, report.frames) == (2, CLIPS_PER_SHARD + 5, (CLIPS_PER_SHARD + 5) * 10)
    for shard in range(2):
        make_shard(_recipe(tmp_path / "one", CLIPS_PER_SHARD + 5), shard)
    assert _hashes(tmp_path / "two") == _hashes(tmp_path / "one")
    assert len(_hashes(tmp_path / "one")) == 2


def test_resume_makes_only_what_is_missing(tmp_path):
    recipe = _recipe(tmp_path, 2 * CLIPS_PER_SHARD)
    for shard in range(2):
        make_shard(recipe, shard)
    before = _hashes(tmp_path)
    recipe.shard_path(1).write_bytes(recipe.shard_path(1).read_bytes()[:5000])
    stamp = recipe.shard_path(0).stat().st_mtime_ns
    report = make_clips(tmp_path, 2 * CLIPS_PER_SHARD, 0.4, 32, 5, sources=FAKES, mix={"head": 1.0})
    assert (report.shards, report.skipped_shards) == (1, 1)
    assert _hashes(tmp_path) == before and recipe.shard_path(0).stat().st_mtime_ns == stamp
    with pytest.raises(DataSettingsError):
        make_clips(tmp_path, 4, 0.4, 64, 5, sources=FAKES, mix={"head": 1.0})


def test_failing_subjects_are_logged_and_replaced(tmp_path):
    report = make_clips(tmp_path, CLIPS_PER_SHARD, 0.4, 32, 5, sources=FRAGILE, mix={"head": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert report.failures == len(lines) > 0 and "no face fits" in lines[0]["error"]
    assert len(list(iterate_shards([tmp_path / "train-00000.tar"]))) == CLIPS_PER_SHARD


def test_death_of_a_worker_does_not_end_the_run(tmp_path):
    make_clips(tmp_path, CLIPS_PER_SHARD, 0.4, 32, 5, sources=DEADLY, mix={"head": 1.0})
    assert (tmp_path / "cache" / "died").exists()
    assert len(list(iterate_shards([tmp_path / "train-00000.tar"]))) == CLIPS_PER_SHARD


def test_hopeless_setup_is_an_error(tmp_path):
    with pytest.raises(SubjectsFailedError, match="no OpenGL here"):
        make_shard(_recipe(tmp_path, 4, HOPELESS), 0)
    assert list(tmp_path.glob("*.tar")) == []


def test_mix_and_portraits_are_even(tmp_path):
    portraits = [tmp_path / f"{i}.png" for i in range(20)]
    sources = type(FAKES)(FAKES.open_subject, FAKES.perform, lambda assets, split, cache: portraits)
    recipe = _recipe(tmp_path, 400, sources, assets=tmp_path, mix={"puppet": 0.7, "head": 0.3})
    plans = [subject_plan(recipe, slot, 0) for slot in range(100)]
    used = [p.portrait for p in plans if p.kind == "puppet"]
    assert 68 <= len(used) <= 72
    assert set(used[:20]) == set(used[20:40]) == set(portraits)
    assert len({p.seed for p in plans}) == 100
