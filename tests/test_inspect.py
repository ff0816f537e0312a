"""`visavis data inspect`: files are written and figures mean what they say."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from fake_subjects import FakeSubject, fake_performance

from apps.commands import data as data_command
from engine.errors import DataSettingsError, FileMissingError
from training.data.clips import Clip, render_clip
from training.data.inspect import inspect
from training.data.shards import ShardWriter
from training.data.sheets import count_blinks, loudness_db, mouth_opening, warp_error
from training.data.truth import UNIT


def _clip(seed: int) -> Clip:
    rng = np.random.default_rng(seed)
    return render_clip(FakeSubject(seed, 64), fake_performance(seed, 4.0), rng=rng, key=f"k{seed}")


@pytest.fixture
def shard(tmp_path) -> Path:
    with ShardWriter(tmp_path / "a.tar") as writer:
        for seed in range(3):
            writer.add(_clip(seed))
    return tmp_path / "a.tar"


def test_figures_of_known_clips(tmp_path, shard):
    figures = inspect([shard], tmp_path / "look", films=1)
    assert (figures.clips, figures.frames, figures.size, figures.subjects) == (3, 300, 64, 3)
    assert figures.seconds_by_state == {"speaking": 6.0, "listening": 6.0, "idle": 0.0}
    assert figures.blinks_per_minute == pytest.approx(30.0)
    assert figures.opening_by_state["speaking"] > 0.05 > figures.opening_by_state["listening"]
    assert figures.opening_sound_correlation > 0.6
    assert figures.voices == {"fake-0": 1, "fake-1": 1, "fake-2": 1}


def test_pictures_and_film_can_be_opened(tmp_path, shard):
    figures = inspect([shard], tmp_path / "look", films=1)
    for name in ("sheet.png", "maps.png", "curves.png"):
        assert cv2.imread(str(tmp_path / "look" / name)) is not None
    with av.open(str(tmp_path / "look" / "film-0.mp4")) as film:
        assert film.streams.video[0].codec_context.pix_fmt in ("yuv420p", "yuvj420p")
        assert sum(1 for _ in film.decode(video=0)) == 100
        assert film.streams.audio[0].codec_context.name == "aac"
    assert len(figures.files) == 4


def test_wrong_flow_shows_in_the_warp_error():
    clip = max(map(_clip, range(4)), key=lambda c: warp_error(c)[1])
    warped, copied = warp_error(clip)
    mirrored = replace(clip, truth=replace(clip.truth, displacement=-clip.truth.displacement))
    assert warped < 0.75 * copied < copied < warp_error(mirrored)[0]


def test_measures():
    units = np.zeros((10, 52), np.float32)
    units[[0, 4, 5, 9]] = 1
    assert count_blinks(units) == 3
    units[:, UNIT["eyeBlinkRight"]] = 0
    assert count_blinks(units) == 0
    sound = np.concatenate([np.zeros(640), np.full(640, 0.1)]).astype(np.float32)
    np.testing.assert_allclose(loudness_db(sound), [-60, -20], atol=1e-3)
    open_mouth = FakeSubject(0, 32).draw(_pose(1.0)).landmarks[None]
    np.testing.assert_allclose(mouth_opening(open_mouth), [0.2], rtol=1e-4)


def _pose(opening: float):
    from training.data.truth import FramePose

    pose = FramePose.rest()
    pose.units[UNIT["jawOpen"]] = opening
    return pose


def _parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    data_command.register(parser.add_subparsers())
    return parser.parse_args(words)


def test_command_prints_json(tmp_path, shard, capsys):
    arguments = _parse("data", "inspect", str(shard.parent), "-o", str(tmp_path / "look"), "--films", "0", "--json")
    assert arguments.handler(arguments) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 3


def test_command_prints_a_table(tmp_path, shard, capsys):
    arguments = _parse("data", "inspect", str(shard), "-o", str(tmp_path / "look"), "--films", "0")
    arguments.handler(arguments)
    assert "blinks_per_minute" in capsys.readouterr().out


def test_absent_inputs_are_typed_errors(tmp_path):
    arguments = _parse("data", "inspect", str(tmp_path / "no.tar"), "-o", str(tmp_path))
    with pytest.raises(FileMissingError, match=r"no\.tar"):
        arguments.handler(arguments)
    with pytest.raises(DataSettingsError):
        inspect([], tmp_path)
    arguments = _parse("data", "make", "-o", str(tmp_path), "--assets", str(tmp_path / "none"))
    with pytest.raises(FileMissingError, match="none"):
        arguments.handler(arguments)
