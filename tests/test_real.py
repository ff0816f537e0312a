"""The real section on drawn faces and tones: voice curves, identity, and every path of the command."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from apps.commands import evaluate as command
from engine.errors import ArgumentError, FileMissingError
from engine.model.face_reader import FaceReader, ReaderConfig
from engine.portrait.landmarks import INDEX, LANDMARKS
from tests.faces import draw_face
from training.data.held_out import TEST_PORTRAITS
from training.data.media import encode_flac
from training.evaluate import real, real_inputs
from training.evaluate.identity import descriptors, similarity
from training.evaluate.real_run import RealRequest, run_real
from training.evaluate.voice_curves import articulation, loudness
from training.instruments.patches import PatchConfig, PatchReader
from training.instruments.probe import PROBE, Probe
from training.instruments.sync import SyncConfig, SyncNet, SyncScorer


def _tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(16_000 * seconds)) / 16_000)).astype(np.float32)


def test_articulation_hears_vowels_and_not_hisses() -> None:
    voice = np.concatenate([_tone(800), _tone(6000), np.zeros(16_000, np.float32)])
    heard = articulation(voice)
    assert heard.shape == (75,)
    assert heard[5:20].min() > 3 * heard[30:45].max()
    assert loudness(voice)[30:45].min() == pytest.approx(40, abs=1) and loudness(voice)[60:].max() < 1


def test_the_same_face_is_nearer_to_itself_moved_and_dimmed_than_to_another() -> None:
    rng = np.random.default_rng(0)
    faces = [cv2.resize(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8), (128, 128)) for _ in range(4)]
    points = np.zeros((1, len(LANDMARKS), 2), np.float32) + 0.5
    for name, x in (
        ("eye_right_outer", 0.32),
        ("eye_right_inner", 0.42),
        ("eye_left_inner", 0.58),
        ("eye_left_outer", 0.68),
    ):
        points[:, INDEX[name]] = (x, 0.4)
    known = np.concatenate([descriptors(face[None], points) for face in faces])
    moved = np.roll(faces[2], 6, 1) // 2 + 30
    seen = descriptors(moved[None].astype(np.uint8), points + np.array((6 / 128, 0), np.float32))
    likeness = similarity(seen, known)[0]
    assert likeness.argmax() == 2 and likeness[2] > 0.9
    np.testing.assert_allclose(np.diag(similarity(known, known)), 1, atol=1e-5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `instruments/`, `portraits/` and `voices/`."""
    root = tmp_path_factory.mktemp("real")
    torch.manual_seed(0)
    for name in ("instruments", "portraits", "voices"):
        (root / name).mkdir()
    reader = FaceReader(ReaderConfig(px=64, outputs=PROBE.outputs, widths=(8, 8, 16), squeezed=8, hidden=32))
    patches = PatchReader(PatchConfig(px=64, eye_px=16, mouth_px=16, width=8, hidden=16))
    Probe(reader, {"landmark_px": 1.5}, patches).save(root / "instruments" / "probe.safetensors", {})
    net = SyncNet(SyncConfig(mouth_px=16, width=8, embedding=8))
    SyncScorer(net, {"found": 0.5}).save(root / "instruments" / "sync.safetensors", {})
    for name in ("ada", "ben"):
        draw_face(300).save(root / "portraits" / f"{name}.png")
        (root / "voices" / f"{name}.flac").write_bytes(encode_flac(_tone(500 + 300 * (name == "ben"), 3.0)))
    draw_face(300).crop((0, 0, 40, 40)).save(root / "portraits" / "nobody.png")
    return root


def _arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    return parser.parse_args(["evaluate", *map(str, words)])


def test_a_users_own_pictures_and_voices_are_measured(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(
        "--real", "--model", "mock", "--backend", "mock", "--size", 128, "--takes", 3,
        "--portraits", place / "portraits", "--voices", place / "voices",
        "--instruments", place / "instruments", "--out", place / "report",
    )  # fmt: skip
    (place / "report").mkdir()
    (place / "report" / "report.html").write_text("of held-out clips")
    assert command.run(arguments) == 0
    figures = json.loads((place / "report" / "real.json").read_text(), parse_constant=pytest.fail)
    assert [(t["face"], t["voice"]) for t in figures["takes"]] == [("ada", "ada"), ("ben", "ben"), ("ada", "ben")]
    assert figures["takes"][0]["second_r_articulation"] is None and figures["codec"] == []
    assert figures["takes"][0]["sync"]["windows"] > 20
    assert figures["held_out"] == {"portraits": ["ada", "ben"], "voices": ["ada", "ben"]}
    assert "sync scorer" in capsys.readouterr().out
    assert (place / "report" / "report.html").read_text() == "of held-out clips"
    page = (place / "report" / "real.html").read_text()
    assert page.count("<video") == 3 and "ada with voice ben" in page
    again = _arguments(*shlex.split(figures["command"])[2:])
    assert vars(again) == vars(arguments) | {"out": None}
    sheet = cv2.imread(str(place / "report" / "real.png"))
    assert sheet.shape == (3 * 144, 11 * 144 + 8, 3)


def test_a_take_begins_and_ends_in_silence_and_is_another_stretch_each_time() -> None:
    voice = real.RealVoice("x", np.random.default_rng(0).standard_normal(16_000 * 20).astype(np.float32))
    first, second = real.lines_of(voice, 3.0, 0), real.lines_of(voice, 3.0, 1)
    assert len(first) % 640 == 0 and not first[:6000].any() and not first[-16_000:].any()
    assert np.abs(first).max() == pytest.approx(0.5)
    assert not np.array_equal(first, second)


def test_missing_things_are_named(place: Path, tmp_path: Path) -> None:
    asked = ("--real", "--model", "mock", "--backend", "mock", "--instruments", place / "instruments")
    with pytest.raises(ArgumentError, match="--assets"):
        command.run(_arguments(*asked))
    with pytest.raises(ArgumentError, match="--model"):
        command.run(_arguments("--real"))
    with pytest.raises(FileMissingError, match="recordings"):
        command.run(_arguments(*asked, "--portraits", place / "portraits", "--voices", tmp_path))
    with pytest.raises(FileMissingError, match="held-out portraits"):
        run_real(RealRequest("mock", place / "instruments", "mock", assets=tmp_path))
    with pytest.raises(FileMissingError, match="landmarker"):
        real_inputs.instruments_in(place / "instruments", tmp_path / "none.task")
    with pytest.raises(ArgumentError, match="--data"):
        command.run(_arguments("--model", "mock"))


def test_held_out_portraits_are_ten_people_found_by_name(tmp_path: Path) -> None:
    assert len(set(TEST_PORTRAITS)) == 10
    (tmp_path / "portraits" / "cc0").mkdir(parents=True)
    for name in ("057", "058"):
        draw_face(100).save(tmp_path / "portraits" / "cc0" / f"{name}.jpg")
    assert [p.stem for p in real_inputs.held_out_portraits(tmp_path)] == ["057"]


def test_the_face_box_is_that_of_the_landmarks() -> None:
    points = np.full((1, len(LANDMARKS), 2), 0.5, np.float32)
    points[0, 0], points[0, 1] = (0.25, 0.25), (0.75, 0.5)
    weight = real_inputs.face_weight(points, 8)
    assert weight.sum() == 4 * 2 and weight[0, 2:4, 2:6].all()
