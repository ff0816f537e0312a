"""Photo puppets: mesh arithmetic, the fit, the rig's contacts; and, where assets and EGL exist, the drawn truth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.portrait.crop import CropBox
from engine.portrait.landmarks import INDEX
from training.data.puppets.contact import INNER_LOWER, INNER_UPPER, meet_lips, part_lips, seam_height
from training.data.puppets.errors import AssetsMissing, PortraitUnusable
from training.data.puppets.eyes import OUTLINES, pull_inside
from training.data.puppets.face_model import N_UNITS, FaceModel, Rim, load_face_model
from training.data.puppets.fit import FaceFit, fit_face, scaled_rotation
from training.data.puppets.glasses import expression_share
from training.data.puppets.lids import membrane, shut_eyes
from training.data.puppets.mesh import Projection, rim_rings, thin_plate, vertex_normals
from training.data.puppets.motion import rotation
from training.data.puppets.photo import PhotoFace, crop_texture, read_photo
from training.data.puppets.portraits import Screening, screen
from training.data.puppets.variants import Variant, colour_texture, make_variant
from training.data.truth import UNIT, FramePose

RNG = np.random.default_rng(3)


def _assets() -> Path:
    return Path(os.environ.get("VISAVIS_ASSETS", Path(__file__).resolve().parents[2] / "shared"))


def _tiny_model(n: int = 60) -> FaceModel:
    """A bumpy sheet with two identity modes and one unit: enough for the fit."""
    x, y = RNG.uniform(-7, 7, (2, n))
    vertices = np.stack([x, y, 10 - 0.1 * (x**2 + y**2)], 1).astype(np.float32)
    identity = np.stack([np.outer(x > 0, [0.5, 0, 0]), np.outer(y, [0, 0.05, 0.03])]).astype(np.float32)
    units = np.zeros((N_UNITS, n, 3), np.float32)
    units[UNIT["mouthSmileLeft"]] = np.outer((x > 0) & (y < 0), [0.4, 0.8, 0])
    nothing = np.zeros(0, np.int32)
    rim = Rim(nothing, nothing, np.zeros(0, bool))
    every = np.arange(n, dtype=np.int32)
    return FaceModel(vertices, units, np.zeros_like(units), identity, {}, every, every, every[:28], rim, {})


def test_head_turns_go_the_agreed_way() -> None:
    nose = np.array([0.0, 0.0, 1.0])
    assert (rotation(20, 0, 0) @ nose)[0] > 0.3  # towards the right edge
    assert (rotation(0, 20, 0) @ nose)[1] < -0.3  # down
    assert (rotation(0, 0, 20) @ np.array([1.0, 0, 0]))[1] > 0.3  # counter-clockwise
    np.testing.assert_allclose(rotation(5, 0, 0) @ rotation(0, 6, 0) @ rotation(0, 0, 7), rotation(5, 6, 7), atol=1e-6)


def test_projection_lifts_back() -> None:
    view = Projection(np.array([0.4, 0.6], np.float32), 0.05)
    camera = RNG.normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(view.lift(view.image(camera)), camera[:, :2], atol=1e-5)
    assert view.image(np.array([[0.0, 1.0, 0.0]]))[0, 1] < 0.6  # up in the world is up in the picture


def test_normals_point_out_of_a_counter_clockwise_triangle() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9]], np.float32)
    normals = vertex_normals(vertices, np.array([[0, 1, 2]], np.int32))
    np.testing.assert_allclose(normals[:3], np.tile([0, 0, 1], (3, 1)))
    assert not normals[3].any()


def test_rings_grow_outwards_from_the_loop() -> None:
    strip = np.array([[i, i + 1, i + 2] for i in range(6)], np.int32)
    ring, origin = rim_rings(strip, np.array([0]), 8, deepest=2)
    assert ring.tolist() == [0, 1, 1, 2, 2, -1, -1, -1]
    assert origin[4] == 0


def test_thin_plate_meets_its_points_and_keeps_planes() -> None:
    sources = RNG.uniform(size=(20, 2))
    values = RNG.normal(size=(20, 2))
    np.testing.assert_allclose(thin_plate(sources, values, sources, 0.0), values, atol=1e-4)
    plane = np.stack([2 * sources[:, 0] - sources[:, 1] + 1, sources[:, 1]], 1)
    at = RNG.uniform(size=(7, 2))
    expected = np.stack([2 * at[:, 0] - at[:, 1] + 1, at[:, 1]], 1)
    np.testing.assert_allclose(thin_plate(sources, plane, at, 0.1), expected, atol=1e-4)


def test_scaled_rotation_is_recovered() -> None:
    model = RNG.normal(size=(40, 3))
    true = rotation(12, -7, 4).astype(np.float64)
    found, scale = scaled_rotation(model, 3.0 * model @ true[:2].T)
    np.testing.assert_allclose(found, true, atol=1e-8)
    assert scale == pytest.approx(3.0)


def test_fit_finds_pose_shape_and_smile() -> None:
    model = _tiny_model()
    shape = model.vertices + 1.2 * model.identity[0] + 0.6 * model.units[UNIT["mouthSmileLeft"]]
    view = Projection(np.array([0.5, 0.5], np.float32), 0.04)
    fit = fit_face(model, view.image(shape @ rotation(8, 3, -5).T))
    assert fit.error < 0.01
    np.testing.assert_allclose(fit.rotation, rotation(8, 3, -5), atol=0.05)
    assert fit.units[UNIT["mouthSmileLeft"]] > 0.3
    assert fit.units[UNIT["jawOpen"]] == 0  # a closed mouth is never explained by the jaw


def test_seam_is_the_visible_edge_of_each_lip() -> None:
    x = np.tile(np.linspace(-1, 1, 5), 2)
    vertices = np.stack([x, np.repeat([0.2, 0.1], 5), np.zeros(10)], 1).astype(np.float32)
    rim = Rim(np.arange(10, dtype=np.int32), np.repeat([6, 7], 5).astype(np.int32), np.ones(10, bool))
    np.testing.assert_allclose(seam_height(vertices, rim, True, (6, 8), np.array([0.0, 0.3])), 0.1, atol=1e-6)


def test_hidden_eye_is_taken_from_the_visible_eye() -> None:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    outline = np.stack([2 * np.cos(angle), np.sin(angle)], 1)
    places = np.array([[0.0, 0.3], [0.0, 1.5], [1.9, 1.9]])
    found = pull_inside(places, outline, np.zeros(2), 1.1)
    np.testing.assert_allclose(found[0], places[0], atol=1e-6)
    assert abs(found[1, 1]) < 0.9  # iris under the lid
    assert np.hypot(*found[2]) > 1.2  # white stays white


def test_crop_texture_keeps_pixels_and_never_mirrors() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :20] = 200
    texture = crop_texture(image, CropBox(0.0, 0.0, 40.0), 40, 8)
    np.testing.assert_array_equal(texture[8:48, 8:48], image)
    beyond = crop_texture(image, CropBox(20.0, 0.0, 40.0), 40, 8)
    assert beyond[:, -15:].max() < 60  # a mirrored edge would bring the bright half back


def test_variants_are_deterministic_and_differ() -> None:
    assert make_variant(0, 60) == Variant()
    assert make_variant(7, 60) == make_variant(7, 60) != make_variant(8, 60)
    shifts = np.array([make_variant(k, 60).identity for k in range(1, 30)])
    assert 0.7 < np.abs(shifts).max() <= 0.9
    scales = [make_variant(k, 60).crop_scale for k in range(1, 60)]
    assert 0.92 <= min(scales) < 0.96 and 1.05 < max(scales) <= 1.10
    texture = RNG.integers(0, 255, (8, 8, 3), np.uint8)
    assert colour_texture(texture, Variant(), np.zeros((8, 8))) is texture


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(AssetsMissing, match="ict_small.npz"):
        load_face_model(tmp_path)
    with pytest.raises(PortraitUnusable, match="nobody.jpg"):
        read_photo(tmp_path / "nobody.jpg")


@pytest.fixture(scope="module")
def puppet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    assets = _assets()
    portrait = assets / "portraits" / "cc0" / "076.jpg"
    if not portrait.is_file():
        pytest.skip("no portraits: set VISAVIS_ASSETS or put ../shared next to the repository")
    pytest.importorskip("mediapipe")
    pytest.importorskip("moderngl")
    from training.data.puppets import PuppetSubject
    from training.data.puppets.errors import GraphicsUnavailable

    try:
        subject = PuppetSubject(portrait, 128, assets, cache=tmp_path_factory.mktemp("faces"))
    except GraphicsUnavailable as error:
        pytest.skip(f"no EGL: {error}")
    yield subject
    subject.close()


def _pose(head: tuple[float, ...] = (0, 0, 0), gaze: tuple[float, ...] = (0, 0), **units: float) -> FramePose:
    values = np.zeros(len(UNIT), np.float32)
    for name, value in units.items():
        for row in [UNIT[name]] if name in UNIT else [UNIT[f"{name}Left"], UNIT[f"{name}Right"]]:
            values[row] = value
    return FramePose(values, np.array(head, np.float32), np.array(gaze, np.float32), 0.0)


def _warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    place = cv2.resize(flow, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) * len(image) - 0.5
    return cv2.remap(image, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def test_rest_is_the_photograph(puppet) -> None:  # noqa: ANN001
    reference = puppet.set_reference(None)
    line = (np.arange(64, dtype=np.float32) + 0.5) / 64
    np.testing.assert_allclose(reference.flow, np.stack(np.meshgrid(line, line), -1), atol=1e-3)
    assert reference.known.mean() > 0.99 and reference.mouth.max() == 0
    gap = reference.landmarks[INDEX["lip_lower_inner"]] - reference.landmarks[INDEX["lip_upper_inner"]]
    assert np.abs(gap).max() < 0.006


@pytest.mark.parametrize("mirrored_reference", [None, _pose(head=(-6, 0, 2))])
def test_flow_explains_what_is_known(puppet, mirrored_reference: FramePose | None) -> None:  # noqa: ANN001
    reference = puppet.set_reference(mirrored_reference)
    drawn = puppet.draw(_pose(head=(10, -4, 3), mouthSmile=0.7), truth=True)
    known = cv2.resize(drawn.known, (128, 128))
    error = (_warp(reference.image, drawn.flow).astype(np.float32) - drawn.image) ** 2
    unmoved = (reference.image.astype(np.float32) - drawn.image) ** 2
    assert (error.mean(-1) * known).sum() / known.sum() < 0.15 * unmoved.mean()


def test_open_mouth_must_be_painted(puppet) -> None:  # noqa: ANN001
    puppet.set_reference(None)
    drawn = puppet.draw(_pose(jawOpen=0.4), truth=True)
    lips = drawn.landmarks[[INDEX["lip_upper_inner"], INDEX["lip_lower_inner"]]]
    x, y = (lips.mean(0) * 64).astype(int)
    assert drawn.mouth[y, x] == 1 and drawn.known[y, x] == 0
    assert lips[1, 1] - lips[0, 1] > 0.03


@pytest.mark.parametrize("before", [(0, 0), (-9, 2)])
def test_turned_eyes_are_pulled_from_the_reference(puppet, before: tuple[float, float]) -> None:  # noqa: ANN001
    reference = puppet.set_reference(_pose(gaze=before))
    drawn = puppet.draw(_pose(gaze=(13, 0)), truth=True)
    pulled = _warp(reference.image, drawn.flow)
    for side in ("left", "right"):
        middle = drawn.landmarks[[INDEX[f"lid_{side}_upper"], INDEX[f"lid_{side}_lower"]]].mean(0)
        x, y = (middle * 64).astype(int)
        assert drawn.known[y, x - 1 : x + 2].max() > 0.9
        assert drawn.flow[y, x, 0] < reference.flow[y, x, 0] - 0.005  # the iris came from the left
        x, y = (middle * 128).astype(int)
        box = np.s_[y - 1 : y + 2, x - 5 : x + 6]
        error, unmoved = (
            np.abs(p[box].astype(np.float32) - drawn.image[box]).mean() for p in (pulled, reference.image)
        )
        assert error < 0.6 * unmoved


def test_eyes_that_the_reference_has_shut_must_be_painted(puppet) -> None:  # noqa: ANN001
    puppet.set_reference(_pose(eyeBlink=1.0))
    drawn = puppet.draw(_pose(gaze=(6, 0)), truth=True)
    for side in ("left", "right"):
        x, y = (drawn.landmarks[[INDEX[f"lid_{side}_upper"], INDEX[f"lid_{side}_lower"]]].mean(0) * 64).astype(int)
        assert drawn.known[y, x - 1 : x + 2].max() < 0.3


def test_lids_shade_the_slit_they_leave(puppet) -> None:  # noqa: ANN001
    puppet.set_reference(None)
    shut, nearly = (puppet.draw(_pose(eyeBlink=x)) for x in (1.0, 0.8))
    for side in ("left", "right"):
        middle = nearly.landmarks[[INDEX[f"lid_{side}_upper"], INDEX[f"lid_{side}_lower"]]].mean(0)
        x, y = (middle * 128).astype(int)
        box = np.s_[y - 1 : y + 2, x - 5 : x + 6]
        assert nearly.image[box].mean() < 0.9 * shut.image[box].mean()


def test_blink_closes_and_landmarks_turn_with_the_head(puppet) -> None:  # noqa: ANN001
    rest = puppet.draw(FramePose.rest()).landmarks
    shut = puppet.draw(_pose(eyeBlink=1.0)).landmarks
    for side in ("left", "right"):
        pair = [INDEX[f"lid_{side}_upper"], INDEX[f"lid_{side}_lower"]]
        before, after = (float(np.diff(points[pair, 1])[0]) for points in (rest, shut))
        assert after < 0.25 * before
    nose = INDEX["nose_tip"]
    assert puppet.draw(_pose(head=(10, 0, 0))).landmarks[nose, 0] > rest[nose, 0] + 0.02
    assert puppet.draw(_pose(head=(0, 10, 0))).landmarks[nose, 1] > rest[nose, 1] + 0.01


def test_drawing_is_deterministic(puppet) -> None:  # noqa: ANN001
    pose = _pose(head=(5, 2, 1), jawOpen=0.2, gaze=(4, 4))
    first = puppet.draw(pose).image
    puppet.draw(_pose(mouthPucker=1.0))
    np.testing.assert_array_equal(first, puppet.draw(pose).image)


def _face_with_eyes() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Even skin with two dark openings; landmarks and lid lines in fractions of a crop without padding."""
    picture = np.full((200, 200, 3), (200, 150, 120), np.uint8)
    points = np.full((478, 2), 0.5, np.float32)
    seams = {}
    angle = np.linspace(np.pi, -np.pi, 16, endpoint=False)  # from the outer corner round below, as OUTLINES
    for side, (x, cheek) in {"right": (0.3, 50), "left": (0.7, 280)}.items():
        outline = np.stack([x + 0.1 * np.cos(angle), 0.4 + 0.04 * np.sin(angle)], 1)
        points[list(OUTLINES[side][0])] = outline
        points[cheek] = (x, 0.7)
        cv2.fillPoly(picture, [np.round(outline * 200).astype(np.int32)], (20, 15, 10))
        line = np.linspace(x - 0.1, x + 0.1, 9)
        seams[side] = np.stack([line, np.full(9, 0.43)], 1).astype(np.float32)
    return picture, points, seams


def test_shut_eyes_are_skin_with_a_line_of_lashes() -> None:
    picture, points, seams = _face_with_eyes()
    shut = shut_eyes(picture, points, seams, 0)
    for x in (60, 140):
        assert picture[80, x].max() < 30 < 150 < shut[80, x].max()  # skin where the eye was
        assert shut[86, x].mean() < 0.6 * shut[80, x].mean()  # lashes on the seam
    np.testing.assert_array_equal(shut[150:], picture[150:])


def test_membrane_keeps_dark_frames_out_of_the_skin() -> None:
    patch = np.full((56, 56, 3), 180, np.float32)
    patch[14:18] = 20  # the rim of a pair of glasses
    hole = np.zeros((56, 56), bool)
    hole[20:36, 14:42] = True
    assert membrane(patch, hole)[hole].min() > 165


def test_shut_lids_move_by_flow_where_skin_was_seen(puppet) -> None:  # noqa: ANN001
    reference = puppet.set_reference(None)
    drawn = puppet.draw(_pose(eyeBlink=1.0), truth=True)
    for side in ("left", "right"):
        x, lid = reference.landmarks[INDEX[f"lid_{side}_upper"]] * 64
        brow = reference.landmarks[INDEX[f"brow_{side}_middle"]][1] * 64
        column = drawn.known[int(brow) + 1 : int(lid) + 3, int(x)]
        moved = np.abs(drawn.flow[..., 1] - reference.flow[..., 1])[int(brow) + 1 : int(lid) + 3, int(x)]
        assert ((column > 0.5) & (moved > 0.002)).any() and (column < 0.5).any()


def test_a_smiling_mouth_is_shut_without_its_teeth() -> None:
    rings = np.repeat([5, 6, 7, 8, 10, 5, 6, 7, 8, 10], 9).astype(np.int32)
    x = np.tile(np.linspace(-2, 2, 9), 10)
    y = np.repeat([0.3] * 4 + [0.8] + [-0.3] * 4 + [-0.8], 9)
    rest = np.stack([x, y, np.zeros(90)], 1).astype(np.float32)
    model = replace(_tiny_model(90), mouth_rim=Rim(np.arange(90, dtype=np.int32), rings, y > 0))
    view = Projection(np.array([0.5, 0.5], np.float32), 0.1)
    points = np.full((478, 2), 0.5, np.float32)
    for row, height in ((INNER_UPPER, 0.4), (INNER_LOWER, -0.4)):
        points[list(row)] = view.image(np.stack([np.linspace(-2, 2, 11), np.full(11, height), np.zeros(11)], 1))
    parted = part_lips(model, rest, points, view)
    met = meet_lips(model, parted, points, view)
    upper, lower, above = (slice(k + 2, k + 7) for k in (0, 45, 36))
    assert (parted[upper, 1] > 0.4).all() and (parted[lower, 1] < -0.4).all()  # texture: lip, not teeth
    assert np.abs(met[upper, 1]).max() < 0.04 and np.abs(met[lower, 1]).max() < 0.04  # shape: shut
    assert (met[above, 1] > met[upper, 1] + 0.1).all()  # the skin above goes along without folding


def test_glasses_stay_while_lids_and_cheeks_move() -> None:
    points = np.full((478, 2), 0.5, np.float32)
    points[468], points[473] = (0.6, 0.4), (0.4, 0.4)  # a head that is upright, either iris first
    rims = np.array([[0.4, 0.36], [0.4, 0.48], [0.5, 0.4], [0.6, 0.48], [0.3, 0.4]], np.float32)
    np.testing.assert_array_equal(expression_share(rims, points, (0.2, 0.4)), 0)
    free = np.array([[0.4, 0.4], [0.62, 0.41], [0.5, 0.65], [0.5, 0.2]], np.float32)
    np.testing.assert_array_equal(expression_share(free, points, (0.2, 0.4)), 1)
    brow = expression_share(np.array([[0.4, 0.31]], np.float32), points, (0.2, 0.4))
    assert 0.05 < brow[0] < 0.6


def test_screening_takes_smiles_but_no_shouts() -> None:
    face = _photo_face(gap=0.05)
    assert screen(face, Screening()) is None
    assert "mouth" in str(screen(_photo_face(gap=0.15), Screening()))
    assert "turned" in str(screen(_photo_face(gap=0.0, yaw=25), Screening()))


def _photo_face(gap: float, yaw: float = 0.0) -> PhotoFace:
    """A face half the crop wide whose lips are `gap` of its width apart."""
    points = np.full((478, 2), 0.5, np.float32)
    points[0], points[1] = (0.25, 0.5), (0.75, 0.5)
    points[14, 1] += gap * 0.5
    zeros = np.zeros(1, np.float32)
    fit = FaceFit(rotation(yaw, 0, 0), 0.05, points[0], np.zeros(3, np.float32), zeros, zeros, 0.01)
    return PhotoFace(points, np.zeros(52, np.float32), CropBox(0.0, 0.0, 400.0), fit, 1, (400, 400))
