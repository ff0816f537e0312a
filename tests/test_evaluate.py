"""`visavis evaluate` from shards to tables with untrained networks: every path, no quality."""

import json
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.commands import evaluate as command
from engine.engine import load
from engine.errors import ArgumentError, FileMissingError
from engine.model.avatar import AvatarModel, save_model
from engine.model.config import TINY
from engine.model.face_reader import FaceReader, ReaderConfig, save_reader
from tests.fake_subjects import FakeSubject, fake_performance
from training.data.clips import render_clip
from training.data.shards import ShardWriter, list_shards
from training.data.truth import UNIT
from training.evaluate.metrics import correlation
from training.evaluate.reactions import energy
from training.evaluate.run import EvaluateConfig, choose_clips, evaluate
from training.evaluate.sources import Runtime
from training.instruments.probe import PROBE, Reading
from training.instruments.states import train_states


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `test/` (two clips), `instruments/` and checkpoints of all stages."""
    root = tmp_path_factory.mktemp("evaluate")
    with ShardWriter(root / "test" / "test-00000.tar") as writer:
        for i in range(2):
            performance = fake_performance(i, 4.4)
            writer.add(render_clip(FakeSubject(i, 64), performance, rng=np.random.default_rng(i), key=f"clip{i}"))
    torch.manual_seed(0)
    (root / "instruments").mkdir()
    reader = FaceReader(ReaderConfig(px=64, outputs=PROBE.outputs, widths=(8, 8, 16), squeezed=8, hidden=32))
    probe = root / "instruments" / "probe.safetensors"
    save_reader(reader, probe, {"errors": {"landmark_px": 1.5}})
    train_states(list_shards(root / "test"), list_shards(root / "test"), probe, probe.with_name("states.safetensors"))
    for stage in ("codec", "teacher", "consistency"):
        save_model(AvatarModel(TINY), root / f"{stage}.safetensors", {"stage": stage})
    return root


def _arguments(*words: object) -> object:
    parser = ArgumentParser()
    command.register(parser.add_subparsers())
    return parser.parse_args(["evaluate", *map(str, words)])


def test_every_source_gets_a_row_and_every_file_is_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "report"
    arguments = _arguments(
        "--data", place / "test", "--instruments", place / "instruments", "--out", out,
        "--steps", 2, "--teacher-steps", 3,
        "--checkpoint", place / "teacher.safetensors", "--checkpoint", place / "consistency.safetensors",
        "--model", "mock", "--backend", "mock", "--size", 128,
    )  # fmt: skip
    assert command.run_evaluate(arguments) == 0
    rows = {row["name"]: row for row in json.loads((out / "figures.json").read_text())["rows"]}
    assert list(rows) == [
        "ground truth", "codec only", "teacher 3 steps", "student 2 steps", "mock (mock) 2 steps",
    ]  # fmt: skip
    truth = rows["ground truth"]
    assert truth["clips"] == truth["speaking_clips"] == 2
    assert truth["psnr"] == 99.0 and truth["motion_energy"] == 1.0
    assert rows["codec only"]["psnr"] < 60 and rows["teacher 3 steps"]["psnr"] is None
    text = capsys.readouterr().out
    assert "ground truth" in text and "landmark_px 1.5" in text
    names = {path.name for path in out.iterdir()}
    assert {"report.md", "opening.png", "compare.png", "codec.png", "sheet-codec-only.png"} <= names


def test_json_is_one_document_without_nan(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments("--data", place / "test", "--instruments", place / "instruments", "--clips", 1, "--json")
    assert command.run_evaluate(arguments) == 0
    figures = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert [row["clips"] for row in figures["rows"]] == [1]


def test_the_mock_opens_its_mouth_in_time(place: Path) -> None:
    """The runtime gets the clip's voice: the tone follows the jaw, and the mock's mouth the tone."""
    clip = choose_clips(place / "test", 1)[0]
    frames = Runtime("mock", load("mock", "mock"), 1, 128).frames(clip)
    assert frames.shape == (110, 128, 128, 3)
    change = np.abs(frames.astype(int) - frames[-1].astype(int)).mean((1, 2, 3))
    assert correlation(change, clip.truth.units[:, UNIT["jawOpen"]]) > 0.6


def test_clips_are_spread_over_the_shard(place: Path) -> None:
    assert [clip.key for clip in choose_clips(place / "test", 9)] == ["clip0", "clip1"]
    assert len(choose_clips(place / "test", 1)) == 1


def test_missing_things_are_named(place: Path, tmp_path: Path) -> None:
    with pytest.raises(FileMissingError, match="train probe"):
        evaluate(EvaluateConfig(data=place / "test", instruments=tmp_path))
    with pytest.raises(FileMissingError, match="nowhere"):
        command.run_evaluate(_arguments("--data", tmp_path / "nowhere"))
    with pytest.raises(ArgumentError, match="whole numbers"):
        command.run_evaluate(_arguments("--data", place / "test", "--steps", "0,two"))


def test_energy_is_that_of_the_movement_and_not_of_the_pose() -> None:
    """A nod of 5 degrees once a second has a mean squared speed of (5 * 2 pi)^2 / 2 = 493 (deg/s)^2."""

    class Nodding:
        def read(self, frames: np.ndarray) -> Reading:
            n = len(frames)
            head, units = np.zeros((n, 3), np.float32), np.zeros((n, 52), np.float32)
            head[:, 0] = 20.0
            if frames.max():
                head[:, 1] = 5 * np.sin(2 * np.pi * np.arange(n) / 25)
                units[:, UNIT["browInnerUp"]] = 0.2 * np.sin(2 * np.pi * np.arange(n) / 50)
            return Reading(np.zeros((n, 28, 2), np.float32), units, head, np.zeros((n, 2), np.float32))

    still = energy(Nodding(), np.zeros((150, 8, 8, 3), np.uint8))  # type: ignore[arg-type]
    nodding = energy(Nodding(), np.ones((150, 8, 8, 3), np.uint8))  # type: ignore[arg-type]
    assert still.head_deg2 < 1e-3
    assert nodding.head_deg2 == pytest.approx(493, rel=0.15)
    assert nodding.brows == pytest.approx(0.02, rel=0.2)
    assert still.brows < 1e-6


def test_listening_is_measured_against_idle_and_filmed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(
        "--data", place / "test", "--instruments", place / "instruments", "--out", place / "listening",
        "--model", "mock", "--backend", "mock", "--size", 128, "--listening", 2,
    )  # fmt: skip
    assert command.run_evaluate(arguments) == 0  # type: ignore[arg-type]
    figures = json.loads(capsys.readouterr().out)
    assert figures["clips"] == 2
    # The mock has no head to move, so listening is like idling.
    assert figures["head_to_idle"] == pytest.approx(1, abs=0.01)
    assert (place / "listening" / "listening.gif").stat().st_size > 1000
    with pytest.raises(ArgumentError, match="--model"):
        command.run_evaluate(_arguments("--data", place / "test", "--listening", 2))  # type: ignore[arg-type]
