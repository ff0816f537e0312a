"""Films to shards: whole films and whole runs with a fake landmark model, and one rendered person with the real one."""

from __future__ import annotations

import importlib.util
import json
import os
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from fake_films import Script, film_of, finder, joined, loud_is_speech, make_fake, still, talking, write_film

from apps.cli import main
from engine.errors import EXIT_INPUT, DataSettingsError, FileMissingError
from engine.portrait.landmarks import INDEX
from engine.types import FPS, AvatarState
from training.data.clips import Clip
from training.data.loading import CodecPairs
from training.data.shards import iterate_shards, list_shards
from training.data.videos import VideoConfig, make_from_videos
from training.data.videos.errors import FaceModelMissing, VideoUnusable
from training.data.videos.film import FilmReport, make_film
from training.data.videos.people import Film
from training.data.videos.reading import pictures, sound, start_of
from training.data.videos.sync import LAGS_MS, evidence

CONFIG = VideoConfig(seconds=2.0, size=32, split_share=0.5)


def _make(path: Path, script: Script, out: Path, config: VideoConfig = CONFIG) -> tuple[FilmReport, list[Clip]]:
    report = make_film(Film(path, path.name, path.stem, "train"), out, config, finder(script), loud_is_speech)
    shards = list_shards(out / "train")
    assert {s.name: s.stat().st_size for s in shards} == report.shards
    return report, list(iterate_shards(shards))


def test_a_film_becomes_clips_and_the_rest_is_accounted_for(tmp_path: Path) -> None:
    script = joined(
        talking(4.2, 1),
        still(2.0, faces=2, backdrop=20),
        still(2.2, voice=True),
        still(2.2, backdrop=60),
        talking(1, 2),
    )
    report, clips = _make(write_film(tmp_path / "film.mp4", script), script, tmp_path / "out")
    assert report.seconds_in == pytest.approx(len(script) / FPS, abs=0.05) and report.shots == 5
    reasons = {str(r["reason"]) for r in report.rejected}
    assert reasons == {"left_over", "several_faces", "too_short"}
    lost = sum(r["stop_s"] - r["first_s"] for r in report.rejected)
    assert lost + report.seconds_kept == pytest.approx(report.seconds_in)
    speaking, listening, idle = (clips[i].truth.state for i in (0, 2, 3))
    assert (speaking == AvatarState.SPEAKING).mean() > 0.8
    assert (listening == AvatarState.LISTENING).mean() > 0.8 and np.abs(clips[2].partner).max() > 0.05
    assert (idle == AvatarState.IDLE).mean() > 0.8 and len(clips) == 4
    assert [c.meta["crop"] for c in clips] == ["fixed"] * 4 and clips[0].frames.shape == (50, 32, 32, 3)


def test_the_crop_shows_the_face_where_the_landmarks_say(tmp_path: Path) -> None:
    script = talking(2.2)
    _, clips = _make(write_film(tmp_path / "film.mp4", script), script, tmp_path / "out", VideoConfig(2.0, 96))
    clip = clips[0]
    at = np.round(clip.truth.landmarks[:, INDEX["chin"]] * 96).astype(int)
    for frame, (x, y) in zip(clip.frames, at, strict=True):
        below, above = frame[y + 3, x], frame[y - 6, x]
        assert np.ptp(below.astype(int)) < 12 < np.ptp(above.astype(int))  # a grey backdrop, a coloured face
    assert not clip.truth.known.any() and not clip.truth.displacement.any()
    assert clip.truth.reference_landmarks[INDEX["nose_bridge"]][0] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("rate", [24, 30])
def test_another_frame_rate_keeps_picture_and_sound_together(tmp_path: Path, rate: int) -> None:
    script = talking(4.1, 5)
    _, clips = _make(write_film(tmp_path / "film.mp4", script, rate), script, tmp_path / "out")
    opening = np.concatenate([c.truth.landmarks[:, INDEX["lip_lower_inner"], 1] for c in clips])
    voice = np.concatenate([c.voice for c in clips])
    found = evidence(opening, voice, np.ones(len(opening), bool))
    assert found is not None and abs(LAGS_MS[found.curve.argmax()]) <= 30


def test_a_late_sound_track_is_moved_back(tmp_path: Path) -> None:
    script = talking(8.2, 4, late_ms=240)
    report, clips = _make(write_film(tmp_path / "film.mp4", script), script, tmp_path / "out")
    assert report.sync["verdict"] == "late" and abs(int(str(report.sync["lag_ms"])) - 240) <= 20
    parts = [evidence(c.truth.landmarks[:, INDEX["lip_lower_inner"], 1], c.voice, np.ones(50, bool)) for c in clips]
    assert len(clips) == 4 and all(p is not None and abs(LAGS_MS[p.curve.argmax()]) <= 40 for p in parts)


def test_a_film_without_sound_gives_only_people_who_are_silent(tmp_path: Path) -> None:
    script = joined(talking(2.1, 1), still(2.1))
    report, clips = _make(write_film(tmp_path / "film.mp4", script, sound=False), script, tmp_path / "out")
    assert len(clips) == 1 and (clips[0].truth.state == AvatarState.IDLE).all() and not clips[0].voice.any()
    assert "mouth_moves_without_voice" in {r["reason"] for r in report.rejected}


def test_a_rotation_tag_turns_the_picture_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(90)
        picture = np.zeros((32, 64, 3), np.uint8)
        picture[:, 48:] = 255  # right as stored: on top once turned counter-clockwise
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    first = next(pictures(path)).image
    assert first.shape == (64, 32, 3) and first[:12].mean() > 200 > 50 > first[20:].mean()


def test_damaged_films_end_early_or_say_what_is_wrong(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mkv", talking(2.0))
    part = tmp_path / "part.mkv"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert 5 < sum(1 for _ in pictures(part)) < 50 and sound(part, start_of(part)) is not None
    nothing = tmp_path / "nothing.mp4"
    nothing.write_text("this is a letter")
    for read in (lambda: next(pictures(nothing)), lambda: start_of(nothing)):
        with pytest.raises(VideoUnusable, match=r"nothing\.mp4 is no film"):
            read()
    assert sound(nothing, 0.0) is None


def test_a_run_goes_on_past_bad_films_and_is_resumed(tmp_path: Path) -> None:
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    for name in ("ann-4.2-0.mp4", "bob-2.2-0.mp4"):
        write_film(films / name, film_of(Path(name).stem))
    for name in ("deadly-1-0.mp4", "letter-1-0.mp4"):
        (films / name).write_text("not a film")
    report = make_from_videos(films, out, CONFIG, workers=2, work=make_fake)
    assert report.films == 4 and report.unreadable == 2 and report.skipped == 0
    assert sum(report.clips.values()) == 3 and report.minutes_kept == pytest.approx(0.1)
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    errors = {line["film"]: line["error"] for line in lines if line["reason"] == "unreadable"}
    assert "killed" in errors["deadly-1-0.mp4"] and "no film" in errors["letter-1-0.mp4"]
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.tar")}
    again = make_from_videos(films, out, CONFIG, work=make_fake)
    assert again.skipped == 4 and again.clips == report.clips
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.tar")} == before
    with pytest.raises(DataSettingsError, match="other settings"):
        make_from_videos(films, out, VideoConfig(seconds=3.0), work=make_fake)


def test_a_missing_folder_or_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileMissingError, match="no folder"):
        make_from_videos(tmp_path / "films", tmp_path / "out", CONFIG)
    (tmp_path / "a.mp4").touch()
    monkeypatch.delenv("VISAVIS_FACE_MODELS", raising=False)
    with pytest.raises(FaceModelMissing, match="Download"):
        make_from_videos(tmp_path, tmp_path / "out", CONFIG)


def test_training_learns_nothing_from_a_flow_that_nobody_knows(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from engine.model.codec import Decoded
    from training.codec import CodecStage, CodecWeights, codec_batch

    script = talking(2.2)
    _make(write_film(tmp_path / "film.mp4", script), script, tmp_path / "out")
    pairs = CodecPairs(list_shards(tmp_path / "out" / "train"), tmp_path / "cache")
    batch = codec_batch(pairs.batch(4, np.random.default_rng(0)))
    assert not batch["has_flow"].any() and batch["mouth"].max() > 0
    logits = torch.zeros(4, 1, 8, 8, requires_grad=True)
    decoded = Decoded(batch["image"], batch["image"], torch.sigmoid(logits), logits, batch["flow"], ())
    stage = CodecStage(torch.nn.Module(), CodecWeights())
    attention = torch.ones(4, 1, 8, 8)
    losses = [stage._mask(decoded, batch, attention), stage._flow(decoded, batch, attention)]
    assert [float(loss.detach()) for loss in losses] == [0, 0]
    batch["has_flow"] = torch.tensor([1.0, 0, 0, 0])
    stage._mask(decoded, batch, attention).backward()
    assert logits.grad[0].abs().min() > 0 and not logits.grad[1:].any()
    assert stage._pixels_move_flow(batch).tolist() == [False, True, True, True]


def test_expressions_that_nobody_knows_are_withheld() -> None:
    torch = pytest.importorskip("torch")
    from training.objectives.blocks import DropRates, conditions, draw_withheld

    expression = torch.tensor([[[-1.0] * 8] * 3, [[0.0] * 8] * 3])
    batch = {"expression": expression, "state": torch.zeros(2, 3, dtype=torch.int64), "pose": torch.zeros(2, 3, 5)}
    voice = torch.zeros(2, 3, 4)
    denoiser = SimpleNamespace(null_audio=torch.zeros(4))
    for withheld in (None, draw_withheld(2, DropRates(expression=0.0), torch.device("cpu"))):
        given = conditions(denoiser, voice, voice, batch, withheld).expression_given
        assert given.tolist() == [[0.0] * 3, [1.0] * 3]


def test_the_command_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "films").mkdir()
    command = ["data", "make", "--from-videos", str(tmp_path / "films"), "-o", str(tmp_path / "out")]
    assert main([*command, "--models", str(tmp_path)]) == EXIT_INPUT
    assert "face_model_missing" in capsys.readouterr().err
    (tmp_path / "face_landmarker.task").touch()
    assert main([*command, "--models", str(tmp_path), "--json"]) == EXIT_INPUT
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "no_videos"


def _face_model() -> Path | None:
    named = os.environ.get("VISAVIS_ASSETS", str(Path(__file__).resolve().parents[2] / "shared"))
    for folder in filter(None, (os.environ.get("VISAVIS_FACE_MODELS"), f"{named}/models")):
        for path in Path(folder).glob("face_landmarker*.task"):
            return path
    return None


def test_a_rendered_person_is_read_as_it_was_posed(tmp_path: Path) -> None:
    model = _face_model()
    if model is None or not importlib.util.find_spec("mediapipe") or not importlib.util.find_spec("anny"):
        pytest.skip("needs mediapipe with its face landmark model ($VISAVIS_FACE_MODELS), and anny")
    pytest.importorskip("moderngl")
    from training.data.heads.subject import HeadSubject
    from training.data.truth import ARKIT_UNITS, UNIT, FramePose
    from training.data.videos.faces import open_finder

    try:
        person = HeadSubject(3, 192, None)
    except Exception as error:
        pytest.skip(f"no OpenGL: {error}")
    swing = np.sin(np.arange(12) / 12 * 2 * np.pi)
    units = np.zeros((12, len(ARKIT_UNITS)), np.float32)
    units[:, UNIT["jawOpen"]] = 0.25 + 0.25 * swing
    head = np.stack([10 * swing, 6 * np.roll(swing, 2), 5 * np.roll(swing, 4)], -1).astype(np.float32)
    drawn = [person.draw(FramePose(u, h, np.zeros(2, np.float32), 0.0)) for u, h in zip(units, head, strict=True)]
    person.close()
    find = open_finder(model)
    canvas = [cv2.copyMakeBorder(d.image, 64, 64, 64, 64, cv2.BORDER_REPLICATE) for d in drawn]
    faces = [find(picture)[0] for picture in canvas]

    from engine.portrait.landmarks import MEDIAPIPE_INDEX
    from training.data.videos.pose import head_from

    named = list(MEDIAPIPE_INDEX.values())
    points = np.stack([(f.points[named] - 64) / 192 for f in faces])
    error_px = 128 * np.linalg.norm(points - np.stack([d.landmarks for d in drawn]), axis=-1)
    assert error_px.mean() < 2.0
    read = head_from(np.stack([f.turn for f in faces]), faces[0].turn)
    for axis in range(3):
        assert np.corrcoef(read[:, axis], head[:, axis])[0, 1] > 0.9
    jaw = np.array([f.scores[UNIT["jawOpen"]] for f in faces])
    assert np.corrcoef(jaw, units[:, UNIT["jawOpen"]])[0, 1] > 0.8
