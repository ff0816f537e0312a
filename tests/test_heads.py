"""Computer-graphics people: geometry without a GPU, and pictures with truth where EGL works."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from engine.errors import BackendUnavailableError, FileMissingError
from engine.portrait.crop import canonical_crop
from engine.portrait.landmarks import INDEX

pytest.importorskip("anny", reason="the head generator needs the PyPI package anny")
pytest.importorskip("moderngl", reason="the head generator needs moderngl")

from training.data.heads import procedural
from training.data.heads.base import MIDLINE_LIPS, base_head, morph_rows, rotation
from training.data.heads.camera import portrait_camera
from training.data.heads.glasses import Glasses, bake_glasses
from training.data.heads.identity import sample_identity
from training.data.heads.parts import bake_eyes
from training.data.heads.posing import (
    LANDMARK_VERTICES,
    LandmarkRig,
    gaze_turn,
    head_turn,
    pivot_of,
    rest_of,
    row_strengths,
)  # fmt: skip
from training.data.heads.regions import beard_region, fold_map, place_map
from training.data.heads.renderer import Quality, shared_context
from training.data.heads.subdivide import catmull_clark
from training.data.heads.subject import HeadSubject
from training.data.heads.wardrobe import AssetFolder, sample_look
from training.data.truth import UNIT, Drawn, FramePose

SEEDS = range(6)
FRAME = 3.0
"""A picture's side is about this long at the face, dm; gaps below are fractions of it."""


def pose(head: tuple[float, float, float] = (0, 0, 0), gaze: tuple[float, float] = (0, 0), **units: float) -> FramePose:
    strengths = np.zeros(52, np.float32)
    for name, value in units.items():
        strengths[UNIT[name]] = value
    return FramePose(strengths, np.float32(head), np.float32(gaze), 0.0)


def places(seed: int, moment: FramePose) -> dict[str, np.ndarray]:
    identity = sample_identity(np.random.default_rng(seed))
    rest = rest_of(identity, np.zeros(3, np.float32))
    rig = LandmarkRig(identity, LANDMARK_VERTICES, pivot_of(identity))
    world = rig.world(row_strengths(moment, rest), head_turn(moment, rest))
    return {name: world[i] for name, i in INDEX.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_lips_touch_at_rest_and_part_with_the_jaw(seed: int) -> None:
    rest, spoken = places(seed, pose()), places(seed, pose(jawOpen=0.4))
    assert abs(rest["lip_upper_inner"] - rest["lip_lower_inner"])[1] < 0.01 * FRAME
    assert (spoken["lip_upper_inner"] - spoken["lip_lower_inner"])[1] > 0.03 * FRAME


@pytest.mark.parametrize("seed", SEEDS)
def test_lids_close_with_a_blink(seed: int) -> None:
    for side in ("left", "right"):
        apart = [
            places(seed, moment)[f"lid_{side}_upper"][1] - places(seed, moment)[f"lid_{side}_lower"][1]
            for moment in (pose(), pose(eyeBlinkLeft=1, eyeBlinkRight=1))
        ]
        assert apart[0] > 0.03
        assert apart[1] < 0.005


def test_lids_follow_the_gaze_down() -> None:
    ahead, down = places(1, pose()), places(1, pose(gaze=(0, 20)))
    assert down["lid_left_upper"][1] < ahead["lid_left_upper"][1] - 0.01


def test_head_turns_as_the_contract_says() -> None:
    assert (rotation(30, 0, 0) @ (0, 0, 1))[0] > 0.4  # yaw > 0: the nose goes to the picture's right
    assert (rotation(0, 30, 0) @ (0, 0, 1))[1] < -0.4  # pitch > 0: down
    turned, rest = places(2, pose(head=(15, 0, 0))), places(2, pose())
    assert turned["nose_tip"][0] > rest["nose_tip"][0] + 0.1
    assert turned["mouth_left"][0] > turned["mouth_right"][0]


def test_only_lower_teeth_follow_the_jaw() -> None:
    identity = sample_identity(np.random.default_rng(3))
    rest = rest_of(identity, np.zeros(3, np.float32))
    teeth, _ = procedural.mouth_parts(identity, sample_look(identity, np.random.default_rng(3)))[0]
    closed, opened = (teeth.positions(row_strengths(p, rest)) for p in (pose(), pose(jawOpen=0.5)))
    drop = closed[:, 1] - opened[:, 1]
    lower = closed[:, 1] < np.median(closed[:, 1])
    assert drop[lower].mean() > 0.06
    assert abs(drop[~lower]).min() < 1e-4
    assert len(base_head().lower_teeth) == len(base_head().upper_teeth)


def test_camera_frames_the_canonical_crop() -> None:
    world = np.stack(list(places(4, pose()).values()))
    points = portrait_camera(world, 12.0, 4.0, -3.0).project(world)
    box = canonical_crop(points)
    assert np.allclose([box.left, box.top, box.side], [0, 0, 1], atol=1e-4)


def test_catmull_clark_keeps_a_plane_and_its_area() -> None:
    grid = np.stack([*np.meshgrid(np.arange(4.0), np.arange(4.0)), np.zeros((4, 4))], -1).reshape(-1, 3)
    corner = np.array([r * 4 + c for r in range(3) for c in range(3)])
    faces = np.stack([corner, corner + 1, corner + 5, corner + 4], 1).astype(np.int32)
    matrix, quads, uv = catmull_clark(faces, grid[faces][..., :2], len(grid))
    assert quads.shape == (36, 4) and uv.shape == (36, 4, 2)
    assert np.allclose(np.asarray(matrix.sum(1)).ravel(), 1)
    assert np.allclose((matrix @ grid)[:, 2], 0)


def test_identities_differ_and_repeat() -> None:
    first, again, other = (sample_identity(np.random.default_rng(s)).vertices for s in (7, 7, 8))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_glasses_clear_the_eyes_and_the_nose(seed: int) -> None:
    identity = sample_identity(np.random.default_rng(seed))
    frame, lens = bake_glasses(identity, Glasses("oval", (20, 20, 20), 0.015, 1.0, 0.0))
    eyes = np.concatenate([identity.vertices[e] for e in base_head().eyes])
    assert lens.base[:, 2].min() > eyes[:, 2].max()
    assert abs(lens.base[:, 0]).min() > 0.05  # no lens covers the bridge of the nose
    assert frame.base[:, 2].max() < eyes[:, 2].max() + 0.5
    assert (frame.normals_of(frame.base) ** 2).sum(1) == pytest.approx(1, abs=1e-3)


def test_regions_lie_where_they_are_named() -> None:
    mesh, side = base_head().mesh, 512

    def texel(vertex: int) -> tuple[int, int]:
        u, v = mesh.texcoords[mesh.face_texcoords[mesh.faces == vertex][0]]
        return int((1 - v) * side), int(u * side)

    chin, forehead, mouth_left = (LANDMARK_VERTICES[INDEX[n]] for n in ("chin", "forehead", "mouth_left"))
    assert np.abs(place_map(side)[texel(chin)] - mesh.vertices[chin]).max() < 0.06
    assert beard_region("goatee", side)[texel(chin)] > 0.5 > beard_region("moustache", side)[texel(chin)]
    assert all(beard_region(style, side)[texel(forehead)] == 0 for style in ("full", "goatee", "moustache"))
    assert fold_map(side)[..., 0].max() > 200 and fold_map(side)[texel(mouth_left)][0] == 0


def test_asset_folder_names_what_it_lacks(tmp_path) -> None:
    with pytest.raises(FileMissingError, match="skins"):
        AssetFolder(tmp_path)


@pytest.fixture(scope="module")
def subject() -> Iterator[HeadSubject]:
    try:
        shared_context()
    except BackendUnavailableError as error:
        pytest.skip(f"no EGL here: {error}")
    made = HeadSubject(5, 128, quality=Quality(texture_px=512, bake_px=64, sky_directions=6))
    yield made
    made.close()


def test_picture_is_repeatable_and_framed(subject: HeadSubject) -> None:
    first, again = subject.set_reference(None), subject.draw(FramePose.rest())
    assert first.image.shape == (128, 128, 3) and first.image.dtype == np.uint8
    assert np.array_equal(first.image, again.image)
    box = canonical_crop(first.landmarks)
    assert np.allclose([box.left, box.top, box.side], [0, 0, 1], atol=1e-4)


def test_rest_flow_is_identity(subject: HeadSubject) -> None:
    subject.set_reference(None)
    drawn = subject.draw(FramePose.rest(), truth=True)
    centre = (np.arange(64) + 0.5) / 64
    still = np.stack(np.meshgrid(centre, centre), -1)
    assert np.abs(drawn.flow - still)[drawn.known > 0.9].max() < 0.01
    assert drawn.known.mean() > 0.9
    assert drawn.mouth.max() == 0


def test_warping_the_reference_gives_the_frame(subject: HeadSubject) -> None:
    cv2 = pytest.importorskip("cv2")
    reference = subject.set_reference(None).image
    drawn = subject.draw(pose((14, 5, -4), jawOpen=0.25, mouthSmileLeft=0.5), truth=True)
    flow, known = (cv2.resize(m, (128, 128)) for m in (drawn.flow, drawn.known))
    warped = cv2.remap(reference, flow[..., 0] * 128 - 0.5, flow[..., 1] * 128 - 0.5, cv2.INTER_LINEAR)
    place = known > 0.95
    errors = [np.square(a.astype(float) - drawn.image)[place].mean() for a in (warped, reference)]
    assert errors[0] < errors[1] / 8  # 9 dB


def test_mouth_map_marks_the_open_mouth_as_unknown(subject: HeadSubject) -> None:
    subject.set_reference(None)
    drawn = subject.draw(pose(jawOpen=0.5), truth=True)
    x, y = (drawn.landmarks[INDEX["lip_upper_inner"]] + drawn.landmarks[INDEX["lip_lower_inner"]]) / 2 * 64
    assert drawn.mouth[int(y), int(x)] > 0.9
    assert drawn.known[int(y), int(x)] < 0.1
    assert 2 < drawn.mouth.sum() < 120


def project(subject: HeadSubject, points: np.ndarray, moment: FramePose) -> np.ndarray:
    """Places of the unturned head [N, 3] in the picture of a moment, [N, 2]."""
    turned = (points - subject._pivot) @ head_turn(moment, subject._rest).T + subject._pivot
    return subject._camera.project(turned)


def eye_cells(drawn: Drawn) -> np.ndarray:
    """Cells of the truth grid well between the lids, [64, 64]."""
    y, x = (np.mgrid[:64, :64] + 0.5) / 64
    inside = np.zeros((64, 64), bool)
    for side in ("left", "right"):
        upper, lower = (drawn.landmarks[INDEX[f"lid_{side}_{part}"]] for part in ("upper", "lower"))
        outer, inner = (drawn.landmarks[INDEX[f"eye_{side}_{part}"]] for part in ("outer", "inner"))
        across = (x - (outer[0] + inner[0]) / 2) / (0.4 * abs(outer[0] - inner[0]))
        inside |= across**2 + ((y - (upper[1] + lower[1]) / 2) / (0.45 * (lower[1] - upper[1]))) ** 2 < 1
    return inside


@pytest.mark.parametrize("gaze", [(13, 0), (-10, 0), (8, -4)])
def test_flow_follows_places_on_a_turning_eyeball(subject: HeadSubject, gaze: tuple[float, float]) -> None:
    """Where the rotation of the eyeball puts a place of it, the flow says where the reference had that place."""
    subject.set_reference(None)
    rest, moment = FramePose.rest(), pose((4, 2, 0), gaze)
    drawn = subject.draw(moment, truth=True)
    _, centres, radius = bake_eyes(subject.identity)
    right, down = np.tan(np.radians(np.meshgrid(np.linspace(-40, 40, 33), np.linspace(-20, 20, 17)))).reshape(2, -1)
    on_eye = np.stack([right, -down, np.ones_like(right)], -1)
    on_eye /= np.linalg.norm(on_eye, axis=1, keepdims=True)
    exact = set()
    for centre in centres:
        then, now = (
            project(subject, centre + radius * on_eye @ gaze_turn(p, subject._rest).T, p) for p in (rest, moment)
        )
        column, row = (now * 64).astype(int).T
        here = (np.stack([column, row], -1) + 0.5) / 64
        off = drawn.flow[row, column] - (here + then - now)
        right_there = (drawn.known[row, column] > 0.9) & (np.abs(off).max(1) < 0.002)  # an eighth of a cell
        exact |= set(zip(row[right_there].tolist(), column[right_there].tolist(), strict=True))
    on_lids = eye_cells(drawn)
    assert sum(on_lids[cell] for cell in exact) > 0.25 * on_lids.sum()


def test_eyes_change_the_picture_but_not_the_known_skin(subject: HeadSubject) -> None:
    subject.set_reference(None)
    drawn = subject.draw(pose(gaze=(20, 0)), truth=True)
    x, y = (drawn.landmarks[INDEX["lid_left_upper"]] + drawn.landmarks[INDEX["lid_left_lower"]]) / 2
    still = subject.draw(FramePose.rest()).image.astype(int)
    change = np.abs(drawn.image - still).sum(-1)
    assert change[int(y * 128) - 2 : int(y * 128) + 3, int(x * 128) - 6 : int(x * 128) + 7].max() > 30
    assert change[110:, :10].max() == 0


def test_what_the_lids_uncover_of_an_eye_is_unknown(subject: HeadSubject) -> None:
    subject.set_reference(pose(eyeBlinkLeft=1, eyeBlinkRight=1))
    drawn = subject.draw(FramePose.rest(), truth=True)
    assert drawn.known[eye_cells(drawn)].mean() < 0.25
    subject.set_reference(None)


@pytest.mark.parametrize("seed", SEEDS)
def test_upper_teeth_show_as_the_jaw_opens(seed: int) -> None:
    """Their edge hangs below the upper lip, in front of the lower teeth, which stay behind the lower lip."""
    identity = sample_identity(np.random.default_rng(seed))
    rows = row_strengths(pose(jawOpen=0.15), rest_of(identity, np.zeros(3, np.float32)))
    moved = identity.vertices + np.einsum("r,rvc->vc", rows, morph_rows())
    upper, lower = (v[abs(v[:, 0]) < 0.12] for v in (moved[base_head().upper_teeth], moved[base_head().lower_teeth]))
    upper_lip, lower_lip = moved[list(MIDLINE_LIPS)]
    assert 0.015 < upper_lip[1] - upper[:, 1].min() < 0.06
    assert lower[:, 1].max() < upper_lip[1] - 0.015
    assert upper[:, 2].max() < upper_lip[2]
