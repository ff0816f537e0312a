"""Loading pictures, finding the face, and moving pixels between picture and crop."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from faces import draw_crowd, draw_face, noise_picture
from PIL import Image

from engine.errors import (
    FaceTooSmallError,
    ImageTooLargeError,
    ImageTooSmallError,
    NoFaceError,
    NotAnImageError,
    SeveralFacesError,
    UnreadableFileError,
)
from engine.portrait import loading
from engine.portrait.crop import CropBox, canonical_crop
from engine.portrait.detect import find_crop
from engine.portrait.loading import load_image
from engine.portrait.paste import cut, paste_back
from engine.portrait.portrait import open_portrait


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats(kind: str) -> None:
    face = draw_face(200)
    pixels = load_image(encoded(face, kind))
    assert pixels.shape == (200, 200, 3)
    assert np.abs(pixels.astype(int) - np.asarray(face)).mean() < 6


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_modes_are_converted(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert load_image(encoded(draw_face(128).convert(mode), kind)).shape == (128, 128, 3)


def test_exif_rotation() -> None:
    sideways = draw_face(200).rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = load_image(encoded(sideways, "JPEG", exif=exif, quality=95))
    assert np.abs(pixels.astype(int) - np.asarray(draw_face(200))).mean() < 3


def test_transparent_parts_become_grey() -> None:
    clear = Image.new("RGBA", (100, 100), (255, 0, 0, 0))
    assert np.all(load_image(encoded(clear, "PNG")) == 128)


def test_deep_grey_keeps_its_tones() -> None:
    ramp = np.repeat(np.linspace(0, 65_535, 256, dtype=np.uint16)[None], 256, axis=0)
    pixels = load_image(encoded(Image.fromarray(ramp), "PNG"))
    assert abs(int(pixels[0, 128, 0]) - 128) <= 1


def test_animation_gives_its_first_frame() -> None:
    red, blue = (Image.new("RGB", (90, 90), colour) for colour in ("red", "blue"))
    pixels = load_image(encoded(red, "WEBP", save_all=True, append_images=[blue], duration=100, lossless=True))
    assert tuple(pixels[40, 40]) == (255, 0, 0)


def test_large_pictures_are_reduced() -> None:
    assert max(load_image(encoded(Image.new("RGB", (6000, 300)), "PNG")).shape) == loading.USUAL.working_side_px


def test_a_bomb_is_refused_from_its_header() -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(ImageTooLargeError):
        load_image(bomb)


def test_bytes_limit() -> None:
    with pytest.raises(ImageTooLargeError):
        load_image(encoded(draw_face(100), "PNG"), loading.PictureLimits(max_bytes=100))


def test_damaged_and_foreign_files() -> None:
    with pytest.raises(NotAnImageError):
        load_image(encoded(draw_face(300), "PNG")[:2000])
    with pytest.raises(NotAnImageError):
        load_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n")
    with pytest.raises(ImageTooSmallError):
        load_image(encoded(draw_face(40), "PNG"))


def test_arrays_and_folders(tmp_path: Path) -> None:
    with pytest.raises(NotAnImageError):
        load_image(np.zeros((100, 100), np.uint8))
    with pytest.raises(UnreadableFileError):
        load_image(tmp_path)


@pytest.mark.parametrize("side_px", [200, 400, 1000])
def test_face_is_found_in_the_middle_of_the_crop(side_px: int) -> None:
    crop = find_crop(np.asarray(draw_face(side_px)))
    centre = (crop.left + crop.side / 2) / side_px, (crop.top + crop.side / 2) / side_px
    # The drawn face spans y from 0.125 to 0.875, and 0.75 of the side.
    assert centre[0] == pytest.approx(0.5, abs=0.04)
    assert centre[1] == pytest.approx(0.46, abs=0.06)
    assert 1.1 < crop.side / side_px < 1.6


def test_faces_that_cannot_be_used() -> None:
    with pytest.raises(NoFaceError):
        find_crop(np.asarray(noise_picture(300)))
    with pytest.raises(SeveralFacesError):
        find_crop(np.asarray(draw_crowd(2, 300)))
    field = Image.new("RGB", (800, 800), (120, 140, 150))
    field.paste(draw_face(80), (300, 300))
    with pytest.raises(FaceTooSmallError):
        find_crop(np.asarray(field))


def test_a_bystander_is_ignored() -> None:
    scene = Image.new("RGB", (900, 600), (120, 140, 150))
    scene.paste(draw_face(500), (20, 50))
    scene.paste(draw_face(140), (700, 200))
    crop = find_crop(np.asarray(scene))
    assert crop.left + crop.side / 2 == pytest.approx(270, abs=20)


def test_the_aligner_has_the_last_word() -> None:
    points = np.random.default_rng(0).uniform(0.3, 0.7, (28, 2)).astype(np.float32)
    seen: list[CropBox] = []

    def aligner(crop: np.ndarray) -> np.ndarray:
        assert crop.shape == (128, 128, 3)
        box = seen[-1] if seen else find_crop(image)
        seen.append(canonical_crop(box.to_source(points)))
        return points

    image = np.asarray(draw_face(400))
    found = find_crop(image, aligner)
    assert (found.left, found.top, found.side) == pytest.approx((seen[-1].left, seen[-1].top, seen[-1].side), rel=1e-4)


def test_cut_is_exact_for_whole_pixels() -> None:
    image = np.asarray(noise_picture(200))
    np.testing.assert_array_equal(cut(image, CropBox(20, 30, 64), 64), image[30:94, 20:84])


def test_cut_repeats_the_edge() -> None:
    image = np.full((100, 100, 3), 77, np.uint8)
    assert np.all(cut(image, CropBox(-50, -50, 200), 256) == 77)


def test_cut_averages_when_it_reduces() -> None:
    chess = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(cut(np.dstack([chess] * 3), CropBox(0, 0, 512), 64).astype(int) - 127).max() <= 1


@pytest.mark.parametrize("side_px", [96, 128, 256, 512])
@pytest.mark.parametrize("box", [CropBox(60.3, 40.7, 250.2), CropBox(-40, -30, 300), CropBox(200.5, 220, 260)])
def test_pasting_an_unchanged_crop_changes_nothing(side_px: int, box: CropBox) -> None:
    source = np.asarray(draw_face(400))
    pasted = paste_back(cut(source, box, side_px), source, box)
    error = np.abs(pasted.astype(int) - source)
    assert error.mean() < 0.6 and error.max() < 40


def test_a_crop_on_whole_pixels_is_cut_and_pasted_without_loss() -> None:
    source = np.random.default_rng(2).integers(0, 256, (400, 380, 3), np.uint8)
    box = CropBox(60.3, 71.8, 221.4)
    whole = box.on_pixels(16)
    assert whole.side == 224 and abs(whole.left + 112 - 60.3 - 110.7) <= 0.5
    frame = cut(source, whole, 224)
    assert np.array_equal(frame, source[int(whole.top) :, int(whole.left) :][:224, :224])
    assert np.array_equal(paste_back(frame, source, whole), source)


def test_paste_fades_out_at_its_edges() -> None:
    source = np.zeros((300, 300, 3), np.uint8)
    box = CropBox(50, 50, 200)
    pasted = paste_back(np.full((128, 128, 3), 255, np.uint8), source, box)
    assert pasted[150, 150, 0] == 255 and pasted[:50].max() == 0 and pasted[51, 150, 0] < 10
    assert source.max() == 0


def test_open_portrait_gives_crops_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "face.webp"
    draw_face(300).save(path)
    portrait = open_portrait(path)
    assert portrait.crop(128).shape == (128, 128, 3)
    assert open_portrait(portrait) is portrait
    assert portrait.paste(portrait.crop(256)).shape == portrait.source.shape
