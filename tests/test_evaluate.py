"""`visavis evaluate` from shards to tables with untrained networks: every path, no quality."""

import json
import shlex
import shutil
from argparse import ArgumentParser
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from apps.commands import evaluate as command
from apps.commands.evaluate import asked
from engine.backends.base import REFERENCE_PX
from engine.engine import load
from engine.errors import ArgumentError, FileMissingError
from engine.model.avatar import AvatarModel, save_model
from engine.model.config import TINY
from engine.model.face_reader import FaceReader, ReaderConfig, save_reader
from tests.fake_subjects import FakeSubject, fake_performance
from training.data.clips import render_clip
from training.data.media import decode_video
from training.data.shards import ShardWriter, list_shards
from training.data.truth import UNIT
from training.evaluate.metrics import correlation
from training.evaluate.page import html_page
from training.evaluate.pairs import PairEncoder, open_graph, part_inputs
from training.evaluate.reactions import energy
from training.evaluate.run import EvaluateConfig, choose_clips, evaluate, open_sources
from training.evaluate.sections import Section, Table
from training.evaluate.sources import Runtime
from training.instruments.probe import PROBE, Reading
from training.instruments.states import train_states


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `test/` (two clips), `four/` (with expressions), `instruments/` and checkpoints of all stages."""
    root = tmp_path_factory.mktemp("evaluate")
    with ShardWriter(root / "test" / "test-00000.tar") as writer:
        for i in range(2):
            performance = fake_performance(i, 4.4)
            writer.add(render_clip(FakeSubject(i, 64), performance, rng=np.random.default_rng(i), key=f"clip{i}"))
    with ShardWriter(root / "four" / "test-00000.tar") as writer:
        for i in range(4):
            performance = fake_performance(10 + i, 2.0)
            performance = replace(performance, expression=np.full((50, 8), 0.5 * (i < 2), np.float32))
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
    assert command.run(arguments) == 0
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
    assert command.run(arguments) == 0
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
        command.run(_arguments("--data", tmp_path / "nowhere"))
    with pytest.raises(ArgumentError, match="whole numbers"):
        command.run(_arguments("--data", place / "test", "--steps", "0,two"))


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
    assert command.run(arguments) == 0  # type: ignore[arg-type]
    figures = json.loads(capsys.readouterr().out)
    assert figures["clips"] == 2
    # The mock has no head to move, so listening is like idling.
    assert figures["head_to_idle"] == pytest.approx(1, abs=0.01)
    assert (place / "listening" / "listening.gif").stat().st_size > 1000
    with pytest.raises(ArgumentError, match="--model"):
        command.run(_arguments("--data", place / "test", "--listening", 2))  # type: ignore[arg-type]


def test_two_models_are_compared_streamed_and_shown_on_one_page(place: Path) -> None:
    out = place / "compared"
    arguments = _arguments(
        "--data", place / "four", "--instruments", place / "instruments", "--out", out, "--backend", "mock",
        "--compare", "mock", place / "consistency.safetensors", "--size", 128, "--minutes", 0.4, "--seed", 3,
    )  # fmt: skip
    assert command.run(arguments) == 0  # type: ignore[arg-type]
    figures = json.loads((out / "figures.json").read_text())
    assert figures["comparison"]["base"] == "student 2 steps"
    found = {d["figure"]: d for d in figures["comparison"]["rows"]["mock (mock) 1 step"]}
    assert found["motion"]["low"] <= found["motion"]["difference"] <= found["motion"]["high"]
    person = figures["drift"]["people"][0]
    assert person["frames"] == 600 and len(person["fid"]) == 1
    assert person["trends"]["colour"]["flat"]  # The mock draws the same picture again and again.
    assert [row["row"] for row in figures["expressions"]["rows"]][:2] == ["ground truth", "codec only"]
    told = {row["row"]: row for row in figures["expressions"]["rows"]}
    assert told["ground truth"]["free"] is None and told["mock (mock) 1 step"]["ratio"] == pytest.approx(1)
    page = _Page((out / "report.html").read_text())
    assert page.ids == ["rows", "comparison", "expressions", "codec_people", "drift"]
    assert page.sources and all(source.startswith("data:") for source in page.sources)
    films = sorted(out.glob("*.mp4"))
    assert len(films) == page.counts["video"] == 3
    assert decode_video(films[0].read_bytes()).shape[1:] == (128, 5 * 128 + 4 * 4, 3)


class _Page(HTMLParser):
    """What a page holds: sections, tags by name, and where pictures and films come from. Unclosed tags are refused."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.counts: Counter[str] = Counter()
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.counts[tag] += 1
        if tag == "section":
            self.ids.append(values["id"] or "")
        if "src" in values:
            self.sources.append(values["src"] or "")
        if tag == "img":
            assert values["alt"]
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def test_names_of_sections_and_people_are_escaped() -> None:
    section = Section("a", "<b>&", tables=(Table(("", "x"), (("<i>", "1 < 2"),)),), films=())
    page = html_page([section])
    assert "<b>" not in page and "<i>" not in page and "1 &lt; 2" in page


def test_the_command_of_a_report_can_be_typed_again(place: Path) -> None:
    arguments = _arguments("--data", place / "my clips", "--compare", "a", "b.safetensors", "--steps", "1,2", "--json")
    words = shlex.split(asked.command_line(arguments))  # type: ignore[arg-type]
    assert words[:2] == ["visavis", "evaluate"] and "--json" not in words
    again = _arguments(*words[2:])
    assert vars(again) == vars(arguments) | {"json": False}  # type: ignore[arg-type]


def test_minutes_need_a_bundle(place: Path) -> None:
    with pytest.raises(ArgumentError, match="--model"):
        command.run(_arguments("--data", place / "test", "--minutes", 1))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="between 0 and"):
        command.run(_arguments("--data", place / "test", "--minutes", "-1"))  # type: ignore[arg-type]


def test_a_comparison_needs_two_models_and_some_clips(place: Path) -> None:
    with pytest.raises(ArgumentError, match="two or more"):
        command.run(_arguments("--data", place / "test", "--compare", "mock"))  # type: ignore[arg-type]
    few = _arguments("--data", place / "test", "--compare", "mock", "mock", "--clips", 2)
    with pytest.raises(ArgumentError, match="--clips"):
        command.run(few)  # type: ignore[arg-type]


def test_rows_of_one_name_say_where_they_come_from(place: Path) -> None:
    twice = place / "other"
    twice.mkdir()
    shutil.copy(place / "consistency.safetensors", twice)
    paths = (place / "consistency.safetensors", twice / "consistency.safetensors")
    config = EvaluateConfig(place / "test", place / "instruments", checkpoints=paths)
    with ExitStack() as stack:
        names = [source.name for source in open_sources(config, 64, stack)]
    assert names == ["codec only", f"student 2 steps, {place.name}", "student 2 steps, other"]


def test_a_bundles_encoder_gets_the_portrait_beside_the_frame() -> None:
    """A graph whose latent is the first picture less the second: of a picture beside itself it is nought."""
    side = (1, 3, REFERENCE_PX, REFERENCE_PX)
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Concat", ["image", "image"], ["both"], axis=1),
            onnx.helper.make_node("Split", ["both"], ["left", "right"], axis=1, num_outputs=2),
            onnx.helper.make_node("Sub", ["left", "right"], ["latent"]),
        ],
        "pair",
        [tensor("image", onnx.TensorProto.FLOAT, side)],
        [tensor("latent", onnx.TensorProto.FLOAT, side)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    assert part_inputs(model)
    encoder = PairEncoder(open_graph(model.SerializeToString()), 0.5)
    picture, portrait = np.full(side, 0.75, np.float32), np.full(side, 0.25, np.float32)
    assert encoder.motion([picture, portrait], portrait)[:, 0, 0, 0].tolist() == [1.0, 0.0]
    assert not part_inputs(model)
