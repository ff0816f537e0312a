"""The command line from end to end with the mock model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from faces import draw_face
from test_media import tone, write_wav

import apps.cli
from apps.cli import main
from apps.commands import export
from engine.types import AvatarState


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    draw_face(300).save(tmp_path / "face.png")
    pcm = np.concatenate([tone(1, 48_000, 2), np.zeros((48_000, 2), np.float32)])
    write_wav(tmp_path / "voice.wav", pcm, 48_000)
    return [
        "talk",
        str(tmp_path / "face.png"),
        str(tmp_path / "voice.wav"),
        "-o",
        str(tmp_path / "out.mp4"),
        "--backend",
        "mock",
    ]


def pictures(path: Path) -> np.ndarray:
    with av.open(str(path)) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])


def test_talk_reports_its_figures(inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*inputs, "--size", "256", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    expected = {
        "frames": 50,
        "fps": 25,
        "size": 256,
        "seconds_audio": 2.0,
        "backend": "mock",
        "model": "mock",
        "steps": 1,
    }
    assert {key: report[key] for key in expected} == expected
    assert report["realtime_factor"] == pytest.approx(2 / report["seconds_wall"], rel=0.01)
    assert report["first_frame_ms"] > 0
    assert report["states"]["speaking"] + report["states"]["idle"] == 50
    assert pictures(tmp_path / "out.mp4").shape == (50, 256, 256, 3)


def test_the_mouth_moves_with_the_voice_only(inputs: list[str], tmp_path: Path) -> None:
    assert main([*inputs, "--size", "256"]) == 0
    film = pictures(tmp_path / "out.mp4").astype(int)
    rest = film[-1]
    mouth = (slice(150, 230), slice(90, 166))
    assert np.abs(film[12][mouth] - rest[mouth]).mean() > 1
    assert np.abs(film[45][mouth] - rest[mouth]).mean() < 0.3


def test_whole_keeps_the_picture_around_the_face(inputs: list[str], tmp_path: Path) -> None:
    assert main([*inputs, "--whole"]) == 0
    film = pictures(tmp_path / "out.mp4").astype(int)
    assert film.shape == (50, 300, 300, 3)
    assert np.abs(film[12][:12, :12] - np.asarray(draw_face(300))[:12, :12]).max() <= 6


def test_a_state_track_overrides_the_voice(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "track.txt").write_text("0 idle  # silent at first\n0.4 auto\n1.2 listening\n")
    assert main([*inputs, "--state-track", str(tmp_path / "track.txt"), "--json"]) == 0
    states = json.loads(capsys.readouterr().out)["states"]
    assert states["listening"] == 20 and states["idle"] == 10 and states["speaking"] == 20


def test_partner_makes_a_listener(inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partner = np.concatenate([np.zeros((32_000, 1), np.float32), tone(1, 16_000)])[8_000:]
    write_wav(tmp_path / "partner.wav", partner, 16_000)
    assert main([*inputs, "--partner", str(tmp_path / "partner.wav"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["states"].get("listening", 0) > 5


def test_silence_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_face(200).save(tmp_path / "face.png")
    write_wav(tmp_path / "hush.wav", np.zeros((8_000, 1), np.float32), 16_000)
    out = tmp_path / "out.mp4"
    words = [
        "talk",
        str(tmp_path / "face.png"),
        str(tmp_path / "hush.wav"),
        "-o",
        str(out),
        "--backend",
        "mock",
        "--json",
    ]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["states"] == {"idle": 13}


def test_the_same_seed_gives_the_same_film(inputs: list[str], tmp_path: Path) -> None:
    assert main(inputs) == 0
    first = pictures(tmp_path / "out.mp4")
    assert main(inputs) == 0
    np.testing.assert_array_equal(first, pictures(tmp_path / "out.mp4"))


def test_interruption_leaves_nothing(inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("apps.media.Mp4Writer.write", interrupt)
    assert main(inputs) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["face.png", "voice.wav"]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("talk", "data", "train", "doctor", "example:"))


@pytest.mark.parametrize("name", sorted(m.stem for m in Path(apps.cli.__file__).parent.glob("commands/[!_]*")))
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    if "{" not in text.splitlines()[0] and "make|" not in text:
        assert "example" in text


@pytest.mark.parametrize("part", export._PARTS)
def test_every_export_has_help_with_an_example(part: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    name = part.__name__.rpartition(".")[2].replace("_", "-")
    with pytest.raises(SystemExit) as end:
        main(["export", name, "--help"])
    assert end.value.code == 0 and f"visavis export {name}" in capsys.readouterr().out.partition("example")[2]


def test_help_needs_no_heavy_import() -> None:
    probe = "import sys\nfrom apps.cli import build_parser\nbuild_parser([])\n"
    probe += "sys.exit(any(m in sys.modules for m in ('numpy', 'av', 'cv2', 'torch', 'rich')))"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_states_are_named_as_the_help_says() -> None:
    assert [state.name.lower() for state in AvatarState] == ["speaking", "listening", "idle"]
