"""All that can be wrong with what a user gives to `visavis talk`: code, exit code, text, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from faces import draw_crowd, draw_face, noise_picture
from PIL import Image
from test_media import tone, write_wav

from apps.cli import main

Make = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a usable portrait and a usable voice."""
    folder = tmp_path_factory.mktemp("good")
    draw_face(256).save(folder / "face.png")
    write_wav(folder / "voice.wav", tone(0.3, 16_000), 16_000)
    return folder


def saved(folder: Path, name: str, content: Image.Image | bytes | str) -> str:
    path = folder / name
    if isinstance(content, Image.Image):
        content.save(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content)
    return str(path)


def truncated(folder: Path) -> str:
    data = Path(saved(folder, "whole.png", draw_face(300))).read_bytes()
    return saved(folder, "cut.png", data[:1500])


def far_away() -> Image.Image:
    field = Image.new("RGB", (800, 800), (120, 140, 150))
    field.paste(draw_face(80), (300, 300))
    return field


def mute_film(folder: Path) -> str:
    with av.open(str(folder / "mute.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        for item in (av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8)), None):
            for packet in stream.encode(item):
                container.mux(packet)
    return str(folder / "mute.mp4")


def portrait(make: Callable[[Path], str]) -> Make:
    return lambda t: [make(t), "VOICE", "-o", "OUT"]


def voice(make: Callable[[Path], str]) -> Make:
    return lambda t: ["FACE", make(t), "-o", "OUT"]


def options(*words: str) -> Make:
    return lambda t: ["FACE", "VOICE", "-o", "OUT", *words]


def track(text: str | bytes) -> Make:
    return lambda t: ["FACE", "VOICE", "-o", "OUT", "--state-track", saved(t, "track.txt", text)]


def bundle(manifest: str) -> Make:
    def make(folder: Path) -> list[str]:
        (folder / "model").mkdir()
        saved(folder / "model", "manifest.json", manifest)
        return ["FACE", "VOICE", "-o", "OUT", "--backend", "auto", "--model", str(folder / "model")]

    return make


ESCAPE = json.dumps({"format": 1, "name": "x", "config": {"name": "x"}, "files": {"../../x": {"sha256": "0"}}})

CASES: dict[str, tuple[Make, int, str, str]] = {
    "portrait missing": (portrait(lambda t: str(t / "no.png")), 3, "file_missing", "there is no file"),
    "portrait is a folder": (portrait(str), 3, "unreadable_file", "is not a file"),
    "portrait name too long": (portrait(lambda t: str(t / ("x" * 300))), 3, "unreadable_file", "cannot be opened"),
    "portrait is text": (portrait(lambda t: saved(t, "a.jpg", "hello")), 3, "not_an_image", "is not a JPEG"),
    "portrait is empty": (portrait(lambda t: saved(t, "a.jpg", b"")), 3, "not_an_image", "is not a JPEG"),
    "portrait is PostScript": (
        portrait(lambda t: saved(t, "a.png", "%!PS-Adobe-3.0 EPSF-3.0")), 3, "not_an_image", "is not a JPEG"),
    "portrait is sound": (
        portrait(lambda t: str(write_wav(t / "a.png", tone(1, 8_000), 8_000))), 3, "not_an_image", "is not a JPEG"),
    "portrait is cut short": (portrait(truncated), 3, "not_an_image", "damaged"),
    "portrait is a bomb": (
        portrait(lambda t: saved(t, "a.png", Image.new("1", (20_000, 20_000)))), 3, "image_too_large", "64 MP"),
    "portrait is tiny": (portrait(lambda t: saved(t, "a.png", draw_face(30))), 3, "image_too_small", "at least 64"),
    "no face": (portrait(lambda t: saved(t, "a.png", noise_picture(300))), 3, "no_face", "looks towards the camera"),
    "two faces": (portrait(lambda t: saved(t, "a.png", draw_crowd(2, 300))), 3, "several_faces", "2 faces"),
    "face far away": (portrait(lambda t: saved(t, "a.png", far_away())), 3, "face_too_small", "at least 64 are needed"),
    "voice missing": (voice(lambda t: str(t / "no.wav")), 3, "file_missing", "there is no file"),
    "voice is a folder": (voice(str), 3, "unreadable_file", "is not a file"),
    "voice name too long": (voice(lambda t: str(t / ("x" * 300))), 3, "unreadable_file", "cannot be opened"),
    "voice is text": (voice(lambda t: saved(t, "a.wav", "hello")), 3, "unreadable_media", "not an audio or video file"),
    "voice is empty": (voice(lambda t: saved(t, "a.wav", b"")), 3, "unreadable_media", "not an audio or video file"),
    "voice is noise": (voice(lambda t: saved(t, "a.mp3", bytes(range(256)) * 40)), 3, "unreadable_media", ""),
    "voice is a picture": (voice(lambda t: saved(t, "a.png", draw_face(64))), 3, "no_audio_stream", "has no sound"),
    "voice is a mute film": (voice(mute_film), 3, "no_audio_stream", "video with an audio track"),
    "voice is a playlist of a host": (
        voice(lambda t: saved(t, "a.m3u8", "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")),
        3, "unreadable_media", ""),
    "voice has no samples": (
        voice(lambda t: str(write_wav(t / "a.wav", tone(0, 16_000), 16_000))), 3, "audio_empty", "without a single"),
    "voice is too long": (
        voice(lambda t: str(write_wav(t / "a.wav", tone(4, 16_000), 16_000))), 3, "audio_too_long", "cut it"),
    "output folder missing": (
        lambda t: ["FACE", "VOICE", "-o", str(t / "no" / "a.mp4")], 4, "output_folder_missing", "make it first"),
    "output is a folder": (lambda t: ["FACE", "VOICE", "-o", str(t)], 4, "output_not_writable", "give a file name"),
    "output is not mp4": (lambda t: ["FACE", "VOICE", "-o", str(t / "a.avi")], 4, "output_not_writable", ".mp4"),
    "output not given": (lambda t: ["FACE", "VOICE"], 2, "bad_argument", "-o"),
    "unknown expression": (options("--expression", "hapy:0.5"), 2, "unknown_expression", "Did you mean happy?"),
    "expression too strong": (options("--expression", "happy:3"), 2, "bad_argument", "between 0 and 1"),
    "expression not a number": (options("--expression", "happy:very"), 2, "bad_argument", "is not a strength"),
    "expression nan": (options("--expression", "happy:nan"), 2, "bad_argument", "between 0 and 1"),
    "expression empty": (options("--expression", ""), 2, "bad_argument", "happy:0.6"),
    "size too small": (options("--size", "16"), 2, "bad_argument", "between 128 and 1024"),
    "size too large": (options("--size", "8192"), 2, "bad_argument", "between 128 and 1024"),
    "size odd": (options("--size", "257"), 2, "bad_argument", "multiple of 16"),
    "size is a word": (options("--size", "big"), 2, "bad_argument", "invalid int value"),
    "no steps": (options("--steps", "0"), 2, "bad_argument", "between 1 and 100"),
    "negative seed": (options("--seed", "-1"), 2, "bad_argument", "must not be negative"),
    "no threads": (options("--threads", "0"), 2, "bad_argument", "at least 1"),
    "unknown option": (options("--loud"), 2, "bad_argument", "--loud"),
    "unknown backend": (options("--backend", "abacus"), 5, "backend_unavailable", "choose one of auto"),
    "unknown model": (options("--backend", "auto", "--model", "huge"), 5, "bundle_missing", "no model named huge"),
    "model path missing": (options("--backend", "auto", "--model", "./no/where"), 5, "bundle_missing", "manifest.json"),
    "manifest is no JSON": (bundle("{"), 5, "bundle_corrupt", "not a valid manifest"),
    "manifest of another format": (bundle('{"format": 99}'), 5, "bundle_corrupt", "format 99"),
    "manifest escapes its folder": (bundle(ESCAPE), 5, "bundle_corrupt", "outside its folder"),
    "state track missing": (options("--state-track", "no.txt"), 3, "file_missing", "no state track"),
    "state track with a wrong label": (track("0 shouting"), 2, "bad_state_track", "line 1"),
    "state track that goes back": (track("1 idle\n0.5 speaking"), 2, "bad_state_track", "must rise"),
    "state track without times": (track("soon idle"), 2, "bad_state_track", "not a time"),
    "state track empty": (track("# nothing\n"), 2, "bad_state_track", "no lines"),
    "state track not text": (track(b"\xff\xfe\x00\x01"), 2, "bad_state_track", "not a text file"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input(
    case: str, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, exit_code, code, text = CASES[case]
    monkeypatch.setattr("apps.media.MAX_SECONDS", 3)
    out = tmp_path / "result"
    out.mkdir()
    places = {"FACE": str(good / "face.png"), "VOICE": str(good / "voice.wav"), "OUT": str(out / "out.mp4")}
    given = [places.get(word, word) for word in make(tmp_path)]
    backend = [] if "--backend" in given else ["--backend", "mock"]

    assert main(["talk", *given, *backend, "--json"]) == exit_code

    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert error["code"] == code
    assert error["retryable"] is False
    assert text in error["message"]
    assert captured.err.startswith(f"visavis: {code}: ")
    assert "Traceback" not in captured.err
    assert list(out.iterdir()) == []


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sing"]) == 2
    assert "bad_argument" in capsys.readouterr().err
