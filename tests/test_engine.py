"""The engine's public call, voice activity, directions and bundles."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faces import draw_face

import engine
from engine.bundle import find_bundle, read_bundle
from engine.direction import expression_vector, parse_expression, parse_state_track
from engine.errors import ArgumentError, AudioEmptyError, AvatarError, BundleCorruptError
from engine.model.config import TINY
from engine.types import AvatarState
from engine.vad import automatic_states, voice_activity

FACE = np.asarray(draw_face(256))


def speech(seconds: float, level: float = 0.3) -> np.ndarray:
    """Syllables: a buzz that swells and fades four times a second."""
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * time_s)
    return (level * swell * np.sign(np.sin(2 * np.pi * 140 * time_s))).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 640, 641, 16_000, 20_001])
def test_frames_cover_all_of_the_sound(samples: int) -> None:
    pcm = speech(2)[:samples]
    frames = list(engine.load(backend="mock").generate(FACE, pcm, size=128))
    assert len(frames) == -(-samples // 640)
    np.testing.assert_array_equal(np.concatenate([frame.audio for frame in frames])[:samples], pcm)
    assert [frame.pts_us for frame in frames] == [40_000 * i for i in range(len(frames))]
    assert frames[0].image.shape == (128, 128, 3) and frames[0].image.dtype == np.uint8
    assert frames[0].timing["denoise_ms"] > 0


def test_states_reach_the_frames_and_close_the_mouth() -> None:
    pcm = speech(1)
    states = np.full(25, AvatarState.SPEAKING, np.int8)
    states[10:] = AvatarState.LISTENING
    frames = list(engine.load(backend="mock").generate(FACE, pcm, states=states, size=128))
    assert [frame.state for frame in frames] == [AvatarState(int(state)) for state in states]
    quiet = np.stack([frame.image for frame in frames[10:]])
    assert np.all(quiet == quiet[0])
    assert any(np.any(frame.image != quiet[0]) for frame in frames[:10])


def test_arguments_are_checked_before_the_first_frame() -> None:
    model = engine.load(backend="mock")
    with pytest.raises(AudioEmptyError):
        model.generate(FACE, np.zeros(0, np.float32))
    for wrong in (
        {"size": 100},
        {"steps": 0},
        {"states": np.zeros(3)},
        {"states": np.full(25, 7)},
        {"expression": {"x": 1}},
    ):
        with pytest.raises(ArgumentError):
            model.generate(FACE, speech(1), **wrong)


def test_public_names_resolve() -> None:
    import visavis

    for name in engine.__all__:
        assert getattr(visavis, name) is getattr(engine, name)
    with pytest.raises(AttributeError):
        _ = engine.nothing


def test_every_error_has_its_own_code() -> None:
    def below(kind: type[AvatarError]) -> list[type[AvatarError]]:
        return [kind, *(leaf for child in kind.__subclasses__() for leaf in below(child))]

    tree = below(AvatarError)
    codes = [kind.code for kind in tree]
    assert [code for code, times in Counter(codes).items() if times > 1] == []
    # Packages may add their own below this tree; those drawn in its docstring are the ones defined beside it.
    leaves = [kind for kind in tree if not kind.__subclasses__() and kind.__module__ == "engine.errors"]
    assert [kind.code for kind in leaves if kind.code not in (engine.errors.__doc__ or "")] == []


def test_voice_activity_finds_speech_in_a_noisy_room() -> None:
    room = np.random.default_rng(0).normal(0, 0.003, 16_000 * 6).astype(np.float32)
    room[32_000:64_000] += speech(2)
    active = voice_activity(room)
    assert active[51:99].all()
    assert not active[:44].any() and not active[112:].any()


@pytest.mark.parametrize("level", [0.0, 1e-4, 1e-3])
def test_hiss_is_not_speech(level: float) -> None:
    assert not voice_activity(np.random.default_rng(0).normal(0, level, 48_000).astype(np.float32)).any()


def test_own_voice_outranks_the_partner() -> None:
    own = np.concatenate([speech(1), np.zeros(32_000, np.float32)])
    states = automatic_states(own, np.concatenate([speech(2), np.zeros(16_000, np.float32)]))
    assert states[5] == AvatarState.SPEAKING and states[40] == AvatarState.LISTENING and states[70] == AvatarState.IDLE


def test_expressions() -> None:
    assert parse_expression("happy:0.6, surprised") == {"happy": 0.6, "surprised": 1.0}
    np.testing.assert_allclose(expression_vector({"happy": 0.6})[:2], [0.6, 0])


def test_state_track() -> None:
    automatic = np.full(100, AvatarState.SPEAKING, np.int8)
    states = parse_state_track("1 listening\n2 auto\n3 IDLE\n", automatic)
    assert [AvatarState(int(states[i])).name for i in (24, 25, 50, 99)] == ["SPEAKING", "LISTENING", "SPEAKING", "IDLE"]


def make_bundle(root: Path) -> Path:
    root.mkdir()
    (root / "decode.onnx").write_bytes(b"graph")
    files = {"decode.onnx": {"sha256": hashlib.sha256(b"graph").hexdigest(), "bytes": 5}}
    manifest = {"format": 1, "name": "toy", "config": TINY.to_dict(), "sampling": {"steps": 3}, "files": files}
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def test_bundle_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_bundle(tmp_path / "toy")
    bundle = read_bundle(root)
    assert bundle.config == TINY and bundle.sampling.steps == 3
    assert bundle.file("decode.onnx").read_bytes() == b"graph"
    monkeypatch.setenv("VISAVIS_MODELS", str(tmp_path))
    assert find_bundle("toy").root == root


def test_an_altered_bundle_is_refused(tmp_path: Path) -> None:
    bundle = read_bundle(make_bundle(tmp_path / "toy"))
    (bundle.root / "decode.onnx").write_bytes(b"other")
    with pytest.raises(BundleCorruptError, match="not the file"):
        bundle.file("decode.onnx")
    (bundle.root / "decode.onnx").unlink()
    with pytest.raises(BundleCorruptError, match="lacks"):
        bundle.file("decode.onnx")
    with pytest.raises(BundleCorruptError, match="has no"):
        bundle.file("denoise.onnx")
