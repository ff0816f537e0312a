"""What is said of pictures before they become portraits, and the library that keeps them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from faces import draw_crowd, draw_face, noise_picture
from PIL import Image

from apps.desktop import library as library_module
from apps.desktop.examination import PREVIEW_PX, Pixels, examine
from apps.desktop.folders import FOLDER_VARIABLE
from apps.desktop.library import Card, LibraryFullError, PortraitLibrary
from apps.desktop.points import FacePoints, shipped_points
from engine.bundle import shipped_models
from engine.errors import (
    ArgumentError,
    BackendFailedError,
    FileMissingError,
    ImageTooLargeError,
    NoFaceError,
    NotAnImageError,
    OutputNotWritableError,
    SeveralFacesError,
)
from engine.portrait.detect import find_crop, find_faces
from engine.portrait.landmarks import INDEX
from engine.portrait.loading import load_image

SHIPPED = shipped_models().parent / "portraits"
ANNA = load_image(SHIPPED / "anna.jpg")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "config"))
    monkeypatch.setenv("VISAVIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "config" / "portraits"


@pytest.fixture(scope="module")
def points() -> FacePoints:
    return FacePoints(shipped_points())


def lit(picture: Pixels, factor: float) -> Pixels:
    return (picture.astype(np.float32) * factor).clip(0, 255).astype(np.uint8)


def half_dark(picture: Pixels) -> Pixels:
    dark = picture.copy()
    dark[:, : dark.shape[1] // 2] //= 5
    return dark


def with_bystander(picture: Pixels) -> Pixels:
    side = len(picture)
    strip = cv2.copyMakeBorder(cv2.resize(picture, (300, 300)), 200, side - 500, 0, 0, cv2.BORDER_REPLICATE)
    return np.hstack([picture, np.asarray(strip, np.uint8)])


def rotated(picture: Pixels, degrees: float) -> Pixels:
    side = len(picture)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), degrees, 0.8)
    return np.asarray(cv2.warpAffine(picture, turn, (side, side), borderMode=cv2.BORDER_REPLICATE), np.uint8)


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (lambda p: lit(p, 0.3), "dark"),
        (lambda p: lit(p, 2.5), "bright"),
        (half_dark, "one_sided"),
        (lambda p: cv2.GaussianBlur(p, (0, 0), 8), "blurred"),
        (lambda p: cv2.resize(p, (200, 200), interpolation=cv2.INTER_AREA), "small"),
        (lambda p: np.ascontiguousarray(p[130:640, 150:620]), "cut_off"),
        (lambda p: rotated(p, 30), "tilted"),
        (with_bystander, "company"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_harms_a_portrait_is_named(points: FacePoints, harm: Callable[[Pixels], Pixels], code: str) -> None:
    assert code in [doubt.code for doubt in examine(harm(ANNA), points).warnings]


@pytest.mark.parametrize(
    ("moved", "by", "code"),
    [
        ("nose_tip", (0.1, 0.0), "turned"),
        ("nose_tip", (-0.1, 0.0), "turned"),
        ("lip_lower_inner", (0, 0.07), "mouth_open"),
    ],
)
def test_what_face_points_tell(points: FacePoints, moved: str, by: tuple[float, float], code: str) -> None:
    def other(crop: Pixels) -> np.ndarray:
        found = points(crop)
        found[INDEX[moved]] += by
        return found

    assert [doubt.code for doubt in examine(ANNA, other).warnings] == [code]


def test_a_good_portrait_is_shown_as_the_model_will_see_it(points: FacePoints) -> None:
    seen = examine(SHIPPED / "anna.jpg", points)
    assert seen.warnings == () and seen.crop == find_crop(ANNA)
    assert seen.preview.shape == (PREVIEW_PX, PREVIEW_PX, 3) and seen.preview.dtype == np.uint8


@pytest.mark.parametrize(
    ("picture", "fault"),
    [(noise_picture(300), NoFaceError), (draw_crowd(2, 200), SeveralFacesError)],
    ids=["noise", "crowd"],
)
def test_pictures_without_one_face_are_refused(picture: Image.Image, fault: type[Exception]) -> None:
    with pytest.raises(fault):
        PortraitLibrary().add(np.asarray(picture), "nobody")
    assert "nobody" not in PortraitLibrary().names()


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture")
    Image.new("1", (9_000, 9_000)).save(tmp_path / "bomb.png")
    library = PortraitLibrary()
    with pytest.raises(NotAnImageError):
        library.examine(tmp_path / "notes.jpg")
    with pytest.raises(ImageTooLargeError):
        library.add(tmp_path / "bomb.png")
    with pytest.raises(FileMissingError):
        library.add(tmp_path / "gone.png")


def test_a_network_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "points.onnx").write_bytes(b"nothing")
    with pytest.raises(BackendFailedError, match="install"):
        FacePoints(tmp_path / "points.onnx")


def test_without_the_network_the_pixels_still_speak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "shipped_points", lambda: tmp_path / "absent.onnx")
    assert [doubt.code for doubt in PortraitLibrary().examine(lit(ANNA, 0.3)).warnings] == ["dark"]


def test_shipped_portraits_are_good_and_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    library = PortraitLibrary()
    cards = list(library.cards())
    assert [card.name for card in cards] == sorted(path.stem for path in SHIPPED.glob("*.jpg"))
    assert not any(card.own or card.warnings for card in cards)
    assert {card.thumbnail.shape for card in cards} == {(96, 96, 3)}

    def never(*_: object) -> None:
        raise AssertionError("looked at again")

    monkeypatch.setattr(library_module, "examine", never)
    again = list(PortraitLibrary().cards())
    assert [same(one, other) for one, other in zip(cards, again, strict=True)] == [True] * len(cards)


def same(one: Card, other: Card) -> bool:
    facts = (one.name, one.path, one.warnings) == (other.name, other.path, other.warnings)
    return facts and np.array_equal(one.thumbnail, other.thumbnail)


def test_a_picture_is_taken_in_without_what_the_camera_wrote(tmp_path: Path, folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Camera of Marie"
    draw_face(300).rotate(90, expand=True).save(tmp_path / "IMG_1.jpg", exif=exif, quality=95)
    card = PortraitLibrary().add(tmp_path / "IMG_1.jpg", "Marie & Pierre/../x")
    assert card.own and card.name == "Marie Pierre x" and card.path == folder / "Marie Pierre x.jpg"
    assert b"Camera" not in card.path.read_bytes()
    upright = load_image(card.path).astype(int)
    assert np.abs(upright - np.asarray(draw_face(300), int)).mean() < 3
    assert PortraitLibrary().names()[0] == card.name and PortraitLibrary().path("") == card.path


@pytest.mark.parametrize(("given", "name"), [("", "portrait"), ("CON", "CON portrait"), ("../..", "portrait")])
def test_names_are_fit_for_every_system(given: str, name: str) -> None:
    assert PortraitLibrary().add(np.asarray(draw_face(300)), given).name == name


def test_a_name_is_given_once_and_removing_frees_it(folder: Path) -> None:
    library = PortraitLibrary()
    face = np.asarray(draw_face(300))
    assert [library.add(face, "Anna").name for _ in range(2)] == ["Anna 2", "Anna 3"]
    library.remove("Anna 2")
    assert "Anna 2" not in library.names() and [path.name for path in folder.iterdir()] == ["Anna 3.jpg"]
    with pytest.raises(ArgumentError, match="comes with"):
        library.remove("anna")
    with pytest.raises(FileMissingError, match="anna, clara"):
        library.remove("Anna 2")


def test_a_damaged_picture_does_not_hide_the_others(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    names = [card.name for card in PortraitLibrary().cards()]
    assert "broken" not in names and "anna" in names


def test_the_library_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "MOST_OWN", 1)
    library = PortraitLibrary()
    library.add(np.asarray(draw_face(300)), "one")
    with pytest.raises(LibraryFullError):
        library.add(np.asarray(draw_face(300)), "two")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritableError, match="cannot be kept"):
        PortraitLibrary(tmp_path / "file" / "portraits").add(np.asarray(draw_face(300)), "one")


def test_faces_are_found_from_several_threads_at_once() -> None:
    """OpenCV's cascades mix up pictures that two threads show them: the library looks while a session starts."""
    pictures = [load_image(path) for path in sorted(SHIPPED.glob("*.jpg"))[:4]]
    alone = [find_faces(picture) for picture in pictures]
    found: dict[int, list[bool]] = {}

    def look(number: int) -> None:
        found[number] = [find_faces(pictures[number]) == alone[number] for _ in range(2)]

    threads = [threading.Thread(target=look, args=(number,)) for number in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: [True] * 2 for number in range(len(pictures))}
