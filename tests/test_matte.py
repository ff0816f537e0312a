"""The matte: people are cut out whole, the flow moves it with the picture, and nothing else changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.backends.compose import compose
from engine.backends.mock import MockBackend
from engine.bundle import shipped_models
from engine.engine import AvatarEngine
from engine.errors import BackendUnavailableError
from engine.portrait.matte import cut_out
from engine.portrait.planes import to_planes
from engine.portrait.portrait import open_portrait
from engine.session import SessionConfig
from engine.worker.messages import Open, from_frame, to_frame

PORTRAITS = sorted((shipped_models().parent / "portraits").glob("*.jpg"))


def drawn_person(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A head with dark hair and shoulders before a light gradient, and its true opacity [side, side]."""
    large = 4 * side
    y, x = (np.indices((large, large)) + 0.5) / large
    hair = ((x - 0.5) / 0.27) ** 2 + ((y - 0.44) / 0.36) ** 2 < 1
    face = ((x - 0.5) / 0.19) ** 2 + ((y - 0.54) / 0.26) ** 2 < 1
    neck = (np.abs(x - 0.5) < 0.11) & (y > 0.7)
    coat = ((x - 0.5) / 0.48) ** 2 + ((y - 1.12) / 0.27) ** 2 < 1
    picture = np.stack([180 + 40 * x, 200 + 20 * y, 225 - 30 * x], -1)
    for where, colour in ((hair, (60, 40, 30)), (neck | face, (205, 160, 135)), (coat, (40, 60, 120))):
        picture[where] = colour
    opacity = (hair | face | neck | coat).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 3, (side, side, 3))
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) + noise
    return small.clip(0, 255).astype(np.uint8), cv2.resize(opacity, (side, side), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("side", [192, 512])
def test_a_person_is_cut_out_to_a_pixel(side: int) -> None:
    picture, truth = drawn_person(side)
    rgba = cut_out(picture)
    assert rgba.shape == (side, side, 4) and rgba.dtype == np.uint8
    wrong = np.abs(rgba[..., 3] / 255 - truth)
    assert wrong.mean() < 0.006, f"{wrong.mean():.4f} of the picture is wrong"
    assert np.array_equal(rgba, cut_out(picture)), "the same portrait must be cut the same way"


def test_edges_lose_the_colour_of_the_background() -> None:
    picture, truth = drawn_person(256)
    rgba = cut_out(picture).astype(float)
    edge = (truth > 0.3) & (truth < 0.7)
    # Of the hair only: it is dark before a light background.
    edge[150:] = False
    assert picture[edge].mean() > 90
    assert rgba[edge][:, :3].mean() < 80


@pytest.mark.parametrize("path", PORTRAITS, ids=lambda path: path.stem)
def test_shipped_people_are_whole(path: Path) -> None:
    """Face, hair and neck are there, the upper corners are not, and all is one piece, but for stray hairs."""
    opacity = cut_out(open_portrait(path).crop(256))[..., 3]
    line = np.arange(256) / 256
    skull = ((line[None] - 0.5) / 0.2) ** 2 + ((line[:, None] - 0.47) / 0.3) ** 2 < 1
    assert opacity[skull].min() > 250 and opacity[-20:, 118:138].min() > 250
    assert opacity[:100, :8].max() < 5 and opacity[:100, -8:].max() < 5
    assert 0.25 < opacity.mean() / 255 < 0.75
    person = (opacity > 127).astype(np.uint8)
    _, _, pieces, _ = cv2.connectedComponentsWithStats(person)
    assert pieces[1:, cv2.CC_STAT_AREA].max() > 0.999 * person.sum()
    filled = cv2.drawContours(
        person.copy(), cv2.findContours(person, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], -1, 1, cv2.FILLED
    )
    assert filled.sum() < 1.002 * person.sum(), "there are holes in the person"


def test_the_flow_moves_the_matte_with_the_picture() -> None:
    side, shift_px = 64, 8
    picture = np.zeros((side, side, 4), np.uint8)
    picture[20:40, 20:40] = (200, 100, 50, 255)
    displacement = np.zeros((1, 2, 16, 16), np.float32)
    displacement[:, 0] = shift_px / (side / 2)
    paint = np.zeros((1, 4, 32, 32), np.float32)
    paint[:, 3] = 1
    paint[:, 3, :4] = 0  # All painted, far from the person.
    moved = compose(displacement, paint, to_planes(picture))[0]
    assert np.array_equal(moved[12:, :-shift_px, 3], picture[12:, shift_px:, 3])
    inside = (slice(24, 36), slice(24 - shift_px, 36 - shift_px))
    # Cubic sampling rings at the edges of such a picture.
    assert np.abs(moved[inside].astype(int) - (200, 100, 50, 255)).max() <= 1
    assert moved[:8, :, 3].max() == 0, "painted background must stay transparent"
    plain = compose(displacement, paint, to_planes(picture[..., :3]))[0]
    assert np.array_equal(plain, moved[..., :3])


def test_sessions_give_rgba_when_asked_and_rgb_else() -> None:
    async def first(alpha: bool) -> np.ndarray:
        async with (
            AvatarEngine(MockBackend(), "mock") as engine,
            engine.session(PORTRAITS[0], size=128, alpha=alpha, config=SessionConfig(paced=False)) as avatar,
        ):
            avatar.push_audio(np.full(16_000, 0.2, np.float32))
            avatar.flush()
            async for frame in avatar.frames():
                return frame.image
        raise AssertionError("no frame came")

    rgba, rgb = asyncio.run(first(True)), asyncio.run(first(False))
    assert rgba.shape == (128, 128, 4) and rgb.shape == (128, 128, 3)
    solid = rgba[..., 3] == 255
    assert solid.mean() > 0.2 and np.abs(rgba[solid][:, :3].astype(int) - rgb[solid]).mean() < 3


def test_a_cut_out_face_crosses_the_pipe_to_a_worker() -> None:
    with AvatarEngine(MockBackend(), "mock") as engine:
        face = engine.face(PORTRAITS[0], 128, alpha=True)
        assert face.picture.shape == (1, 4, 128, 128) and face.reference.shape == (1, 3, 128, 128)
        back = from_frame(to_frame(Open(1, face)))
    assert isinstance(back, Open) and np.array_equal(back.face.picture, face.picture)


def test_a_backend_without_alpha_says_so() -> None:
    class Opaque(MockBackend):
        moves_alpha = False

    with AvatarEngine(Opaque(), "mock") as engine, pytest.raises(BackendUnavailableError, match="background"):
        engine.face(PORTRAITS[0], 128, alpha=True)


def test_torch_moves_the_matte_as_the_graphs_do() -> None:
    torch = pytest.importorskip("torch")
    from engine.backends.base import Sampling
    from engine.backends.torch import TorchBackend
    from engine.model.avatar import AvatarModel
    from engine.model.config import TINY

    torch.manual_seed(0)
    backend = TorchBackend(AvatarModel(TINY), Sampling())
    picture = cut_out(drawn_person(128)[0])
    reference = backend.encode_reference(to_planes(picture[..., :3]))
    latents = np.zeros((2, TINY.latent_channels, TINY.latent_grid, TINY.latent_grid), np.float32)
    rgba = backend.decode(latents, reference, to_planes(picture))
    assert rgba.shape == (2, 128, 128, 4)
    assert np.array_equal(rgba[..., :3], backend.decode(latents, reference, to_planes(picture[..., :3])))
    # An untrained decoder does not move: its flow heads start at zero.
    assert np.abs(rgba[0, ..., 3].astype(int) - picture[..., 3]).max() <= 2
