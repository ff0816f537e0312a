"""Films to clips, part by part, without any model: time, cuts, cropping, gates, sync, states, labels, people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fake_films import face_at, talking

from engine.portrait.crop import canonical_crop
from engine.portrait.landmarks import INDEX, MEDIAPIPE_INDEX
from engine.types import AvatarState
from training.data.puppets.motion import rotation
from training.data.truth import UNIT
from training.data.videos.config import Gates
from training.data.videos.errors import FaceModelMissing, NoVideosError
from training.data.videos.faces import MODEL_FILES, MODEL_VARIABLE, find_model
from training.data.videos.framing import ROOM, crop_path, cut_out, outside_share
from training.data.videos.gates import bridged, clip_ranges, frame_reasons, good_stretches
from training.data.videos.labels import mouth_mask
from training.data.videos.people import list_films, split_people
from training.data.videos.pose import gaze_from, head_angles, head_from, units_from
from training.data.videos.reading import at_frame_rate, laid_by_time
from training.data.videos.shots import colour_cuts, face_jumps
from training.data.videos.states import label, split_voices
from training.data.videos.sync import evidence, judge, out_of_step, shifted
from training.data.videos.voice import speech_by_frame, spoken
from training.data.videos.watch import Seen, sharpness_of

NAMED = list(MEDIAPIPE_INDEX.values())


@dataclass
class Stamp:
    time: float | None


def _indices(times: list[float | None]) -> list[tuple[int, float | None]]:
    return [(index, frame.time) for index, frame, _ in at_frame_rate(iter(map(Stamp, times)))]


@pytest.mark.parametrize("rate", [24.0, 25.0, 29.97, 50.0])
def test_every_moment_gets_the_nearest_picture(rate: float) -> None:
    start_s = 7.3
    got = _indices([start_s + i / rate for i in range(int(4 * rate))])
    assert [index for index, _ in got] == list(range(len(got))) and abs(len(got) - 100) <= 1
    assert max(abs(at - start_s - index / 25) for index, at in got) <= 0.5 / rate + 1e-9


def test_time_stamps_that_go_back_or_lack_are_passed_over() -> None:
    assert _indices([0.0, 0.04, None, 0.02, 0.08]) == [(0, 0.0), (1, 0.04), (2, 0.08)]


def test_a_hole_leaves_numbers_out_and_a_leap_ends_the_film() -> None:
    got = [index for index, _ in _indices([0.0, 0.04, 3.0, 3.04, 999.0, 999.04])]
    assert got[-1] == 76 and 40 not in got and 75 in got and len(got) < 35


def test_sound_is_laid_by_its_time_stamps() -> None:
    ones = np.ones(100, np.float32)
    chunks = [(4.95, ones), (5.05, ones), (5.5, ones), (None, ones)]
    laid = np.concatenate(list(laid_by_time(iter(chunks), 5.0, 1000)))
    # 50 samples come before the start, then 5.05 to 5.15, silence to 5.5, and the rest.
    assert len(laid) == 700 and laid[:150].all() and not laid[150:500].any() and laid[500:].all()


def test_colour_cuts_stand_out_from_their_surroundings() -> None:
    change = np.full(60, 0.02, np.float32)
    change[30] = 0.5
    assert np.flatnonzero(colour_cuts(change)).tolist() == [30]
    assert not colour_cuts(np.full(60, 0.5, np.float32)).any()  # a disco, not sixty shots


def test_a_face_that_jumps_begins_a_shot_and_one_that_walks_does_not() -> None:
    walk = np.stack([face_at((100 + 4 * i, 120), 0.0, np.eye(3)).points[NAMED] for i in range(20)])
    assert not face_jumps(walk).any()
    walk[12:] += 60
    assert np.flatnonzero(face_jumps(walk)).tolist() == [12]
    walk[11:13] = np.nan
    assert np.flatnonzero(face_jumps(walk)).tolist() == [13]


def _still(frames: int, place: tuple[float, float] = (160, 120)) -> np.ndarray:
    return np.stack([face_at(np.array(place), 0.0, np.eye(3)).points[NAMED]] * frames)


def test_the_crop_is_the_canonical_one_and_stays_while_the_head_moves() -> None:
    points = _still(50)
    home = canonical_crop(points[0])
    points += (0.8 * ROOM * home.side * np.sin(np.arange(50) / 3))[:, None, None] * (1, 0)
    path = crop_path(points, _still(1)[0])
    assert {(c.left, c.top, c.side) for c in path} == {(path[0].left, path[0].top, path[0].side)}
    assert path[0].side == pytest.approx(home.side, rel=1e-5) and path[0].left == pytest.approx(home.left, abs=1e-3)


def test_a_face_that_wanders_takes_the_crop_along_without_haste() -> None:
    points = _still(150)
    points[75:] += (60, 0)
    path = crop_path(points, points[0])
    lefts = np.array([c.left for c in path])
    assert lefts[-1] - lefts[0] == pytest.approx(60 - ROOM * path[0].side, abs=0.5)
    assert np.abs(np.diff(lefts)).max() < 0.05 * (lefts[-1] - lefts[0]) + 0.5
    near = [abs(c.to_crop(p[INDEX["nose_bridge"]])[0] - 0.5) for c, p in zip(path, points, strict=True)]
    assert near[0] < 0.01 and near[-1] < ROOM + 0.01


def test_beyond_the_edge_the_picture_is_mirrored() -> None:
    image = np.arange(100, dtype=np.uint8)[None, :, None].repeat(100, 0).repeat(3, 2)
    crop = canonical_crop(face_at((40, 60), 0.0, np.eye(3)).points[NAMED] * 0.5)
    assert outside_share(crop, (100, 100)) > 0.1
    cut = cut_out(image, crop, 64)[32, :, 0].astype(int)
    edge = int(-crop.left / crop.side * 64)
    np.testing.assert_allclose(cut[edge - 8 : edge], cut[edge : edge + 8][::-1], atol=4)


def test_blur_lowers_sharpness_and_light_does_not() -> None:
    import cv2

    face = np.random.default_rng(0).integers(60, 160, (96, 96, 3)).astype(np.uint8)
    face = cv2.GaussianBlur(face, (0, 0), 1.0) // 2 + np.arange(96, dtype=np.uint8)[:, None, None]
    sharp = sharpness_of(face)
    assert sharpness_of(cv2.GaussianBlur(face, (0, 0), 2.5)) < 0.4 * sharp
    assert sharpness_of((face * 0.8).astype(np.uint8)) == pytest.approx(sharp, rel=0.2)


def _seen(frames: int, **other: np.ndarray) -> Seen:
    shaken = np.random.default_rng(0).normal(0, 0.02, (frames, 28, 2)).astype(np.float32)
    values = dict(
        faces=np.ones(frames, np.int8),
        points=_still(frames) + shaken,
        lips=np.zeros((frames, 20, 2), np.float32),
        scores=np.zeros((frames, 52), np.float32),
        turn=np.tile(np.eye(3, dtype=np.float32), (frames, 1, 1)),
        change=np.zeros(frames, np.float32),
        sharpness=np.full(frames, 0.5, np.float32),
        light=np.full(frames, 0.5, np.float32),
        gap_s=np.full(frames, 0.04, np.float32),
    )
    return Seen(**(values | other), size=(320, 240))


def _with(values: np.ndarray, part: slice, value: object) -> np.ndarray:
    changed = np.array(values)
    changed[part] = value
    return changed


BASE = _seen(60)
PART = slice(20, 40)
FAULTS = {
    "no_picture": {"gap_s": _with(BASE.gap_s, PART, np.inf)},
    "no_face": {"faces": _with(BASE.faces, PART, 0), "points": _with(BASE.points, PART, np.nan)},
    "several_faces": {"faces": _with(BASE.faces, PART, 2)},
    "low_frame_rate": {"gap_s": _with(BASE.gap_s, PART, 0.1)},
    "face_too_small": {"points": _with(BASE.points, PART, BASE.points[PART] / 2 + 60)},
    "turned_away": {"turn": _with(BASE.turn, PART, rotation(50, 0, 0))},
    "outside_the_picture": {"points": _with(BASE.points, PART, BASE.points[PART] + (150, 0))},
    "too_dark": {"light": _with(BASE.light, PART, 0.02)},
    "too_bright": {"light": _with(BASE.light, PART, 0.99)},
    "blurred": {"sharpness": _with(BASE.sharpness, PART, 0.01)},
    "trembling_points": {
        "points": _with(BASE.points, PART, BASE.points[PART] + np.random.default_rng(1).normal(0, 2, (20, 28, 2)))
    },
}


@pytest.mark.parametrize("reason", FAULTS)
def test_each_fault_is_named(reason: str) -> None:
    assert set(frame_reasons(BASE, (0, 60), Gates())) == {""}
    reasons = frame_reasons(_seen(60, **FAULTS[reason]), (0, 60), Gates())
    assert set(reasons[24:36]) == {reason} and set(reasons) == {"", reason}
    assert not (reasons[:12] != "").any() and not (reasons[48:] != "").any()


def test_a_short_dropout_is_bridged_and_a_long_one_is_not() -> None:
    points = BASE.points.copy()
    points[10:12], points[30:36] = np.nan, np.nan
    faces = np.where(np.isnan(points[:, 0, 0]), 0, 1).astype(np.int8)
    filled = bridged(_seen(60, points=points, faces=faces), 2)
    assert filled.faces[10:12].all() and not filled.faces[30:36].any()
    np.testing.assert_allclose(filled.points[10], (2 * points[9] + points[12]) / 3, rtol=1e-5)


def test_every_frame_is_either_kept_or_accounted_for() -> None:
    reasons = np.array([""] * 30 + ["blurred"] * 5 + [""] * 100 + ["no_face"] * 2 + [""] * 63, dtype="<U24")
    stretches, rejected = good_stretches(reasons, (1000, 1200), 50)
    kept = []
    for stretch in stretches:
        clips, ends = clip_ranges(stretch, 50)
        kept += clips
        rejected += ends
    covered = sorted([*kept, *((r.first, r.stop) for r in rejected)])
    assert covered[0][0] == 1000 and covered[-1][1] == 1200
    assert all(a[1] == b[0] for a, b in zip(covered[:-1], covered[1:], strict=True))
    assert len(kept) == 3 and {r.reason for r in rejected} == {"too_short", "blurred", "no_face", "left_over"}


def test_angles_and_turns_have_the_agreed_signs() -> None:
    angles = np.array([[12, -7, 4], [-20, 9, -6]], np.float32)
    turns = np.stack([rotation(*a) for a in angles.tolist()])
    np.testing.assert_allclose(head_angles(turns), angles, atol=1e-3)
    rest = rotation(5, 3, 2)
    np.testing.assert_allclose(head_from(np.stack([rest, rotation(10, 0, 0) @ rest]), rest)[:, 0], [0, 10], atol=1e-3)
    scores = np.zeros((1, 52), np.float32)
    scores[0, [UNIT["eyeLookOutLeft"], UNIT["eyeLookInRight"]]] = 0.5
    assert gaze_from(scores, np.zeros(52, np.float32))[0, 0] > 5  # to the person's left, the picture's right


def test_units_are_counted_from_the_persons_own_rest() -> None:
    neutral = np.zeros(52, np.float32)
    neutral[UNIT["mouthSmileLeft"]] = 0.3
    scores = np.tile(neutral, (3, 1))
    scores[1, UNIT["mouthSmileLeft"]], scores[2, UNIT["eyeBlinkLeft"]] = 1.0, 0.5
    units = units_from(scores, neutral)
    assert not units[0].any() and units[1, UNIT["mouthSmileLeft"]] == 1 and units[2, UNIT["eyeBlinkLeft"]] == 1


def test_the_mouth_mask_is_the_inside_of_the_lips() -> None:
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = np.stack([0.5 + 0.1 * np.cos(angle), 0.6 + 0.05 * np.sin(angle)], -1).astype(np.float32)
    mask = mouth_mask(ring)
    assert mask[38, 32] == 255 and mask[20, 32] == 0
    assert mask.mean() / 255 == pytest.approx(np.pi * 0.1 * 0.05, rel=0.08)
    assert not mouth_mask(ring * (1, 0) + (0, 0.6)).any()


@pytest.mark.parametrize("late_ms", [-320, 0, 200])
def test_the_lag_between_mouth_and_voice_is_found(late_ms: int) -> None:
    scripts = [talking(4, seed, late_ms=late_ms) for seed in range(3)]
    parts = [evidence(s.opening, s.voice, np.ones(len(s), bool)) for s in scripts]
    sync = judge([part for part in parts if part])
    assert abs(sync.lag_ms - late_ms) <= 20 and sync.r > 0.5
    assert sync.verdict == {-320: "early", 0: "in_step", 200: "late"}[late_ms]
    moved = shifted(scripts[0].voice, sync.shift_ms)
    again = evidence(scripts[0].opening, moved, np.ones(100, bool))
    assert again is not None and not out_of_step(again)


def test_lags_that_disagree_are_not_shifted_away() -> None:
    apart = [talking(4, seed, late_ms=late) for seed, late in enumerate((300, -300, 300, -300))]
    parts = [evidence(s.opening, s.voice, np.ones(len(s), bool)) for s in apart]
    assert judge([p for p in parts if p]).verdict in ("out_of_sync", "unknown")
    assert all(p is not None and out_of_step(p) for p in parts)


def test_a_voice_of_somebody_else_does_not_fit() -> None:
    parts = [evidence(talking(4, i).opening, talking(4, 1000 + 7 * i).voice, np.ones(100, bool)) for i in range(40)]
    sync = judge([p for p in parts if p])
    assert sync.verdict in ("voice_does_not_fit", "unknown") and sync.r < 0.15


def test_states_follow_voice_and_mouth() -> None:
    talk = talking(2).opening
    opening = np.concatenate([talk, np.zeros(100)]).astype(np.float32)
    probability = np.concatenate([np.ones(100), np.zeros(50)]).astype(np.float32)
    states = label(opening, probability, probability > 0.5)
    names = [AvatarState(s) for s in states.state]
    assert names[10] == AvatarState.SPEAKING and names[80] == AvatarState.LISTENING and names[140] == AvatarState.IDLE
    assert min(np.median(states.sure[part]) for part in (slice(45), slice(55, 95), slice(105, 150))) > 0.3


def test_what_is_heard_while_listening_is_the_other_party() -> None:
    voice = np.random.default_rng(0).normal(0, 0.1, 100 * 640).astype(np.float32)
    states = np.repeat([AvatarState.SPEAKING, AvatarState.LISTENING], 50).astype(np.int8)
    own, partner = split_voices(voice, states)
    np.testing.assert_allclose(own + partner, voice, atol=1e-7)
    assert not partner[: 49 * 640].any() and not own[51 * 640 :].any()


def test_speech_reaches_a_little_beyond_its_sounds() -> None:
    probability = speech_by_frame(np.repeat([0.0, 1.0, 0.0], 50).astype(np.float32), 120)
    speech = spoken(probability)
    heard = np.flatnonzero(probability > 0.5)
    assert np.flatnonzero(speech)[0] == heard[0] - 3 and speech[heard[-1] + 5] and not speech[heard[-1] + 8]


def test_people_stay_on_their_side_when_more_come() -> None:
    few = split_people({f"p{i}" for i in range(40)}, 0.2, {})
    many = split_people({f"p{i}" for i in range(80)}, 0.2, few)
    assert {who: many[who] for who in few} == few
    assert 0.1 < list(many.values()).count("test") / 80 < 0.3
    assert list(split_people({"a", "b", "c"}, 0.01, {}).values()).count("test") == 1
    assert set(split_people({"a", "b"}, 0.0, {}).values()) == {"train"}


def test_a_subfolder_is_a_person(tmp_path: Path) -> None:
    for name in ("ann/one.mp4", "ann/deep/two.MOV", "bob.webm", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    films = list_films(tmp_path, 0.5)
    assert {f.name: f.person for f in films} == {"ann/deep/two.MOV": "ann", "ann/one.mp4": "ann", "bob.webm": "bob"}
    assert len({f.key for f in films}) == 3 and not any(set(f.key) & set("./") for f in films)
    (tmp_path / "none").mkdir()
    with pytest.raises(NoVideosError, match="MP4"):
        list_films(tmp_path / "none", 0.5)


def test_the_model_is_looked_for_and_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    with pytest.raises(FaceModelMissing, match=r"--models or \$VISAVIS_FACE_MODELS"):
        find_model(tmp_path, tmp_path)
    named, assets = tmp_path / "named", tmp_path / "assets"
    for folder in (named, assets / "models"):
        folder.mkdir(parents=True)
        (folder / MODEL_FILES[1]).touch()
    assert find_model(None, assets).parent == assets / "models"
    monkeypatch.setenv(MODEL_VARIABLE, str(named))
    assert find_model(None, assets).parent == named
    assert find_model(assets / "models" / MODEL_FILES[1]).parent == assets / "models"
