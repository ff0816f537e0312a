"""Adapting a decoder to one person: weights out of a bundle and back, a gain that is real, refusals that say why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
onnx = pytest.importorskip("onnx", reason="needs the export extra")
pytest.importorskip("onnxscript", reason="needs the export extra")

from apps.cli import main  # noqa: E402
from apps.commands.train.personalize import write  # noqa: E402
from engine.backends.registry import open_backend  # noqa: E402
from engine.backends.staged import INT8_KEY  # noqa: E402
from engine.bundle import Bundle  # noqa: E402
from engine.model.avatar import AvatarModel, save_model  # noqa: E402
from engine.model.config import TINY  # noqa: E402
from engine.portrait.landmarks import INDEX, LANDMARKS  # noqa: E402
from export.bundle import Choices, export_bundle  # noqa: E402
from export.codec import manifest_hash, read_codec  # noqa: E402
from tests.fake_films import finder, joined, still, talking, write_film  # noqa: E402
from tests.fake_subjects import FakeSubject, fake_performance  # noqa: E402
from training.personal.adapt import PersonalConfig, adapt  # noqa: E402
from training.personal.film import pairs_of_film  # noqa: E402
from training.personal.measure import REGIONS, Gain, measure  # noqa: E402
from training.personal.pairs import NotGainedError, PersonPairs, PersonUnusable, drawn_pairs, pairs_of  # noqa: E402

PERSON = FakeSubject(3, 128)
FEATURES = {
    "eye_right_outer": (0.32, 0.42), "eye_left_outer": (0.68, 0.42), "lid_right_lower": (0.4, 0.46),
    "mouth_right": (0.42, 0.66), "mouth_left": (0.58, 0.66), "lip_upper_outer": (0.5, 0.62),
    "lip_lower_outer": (0.5, 0.7), "chin": (0.5, 0.84), "forehead": (0.5, 0.2), "cheek_right": (0.26, 0.5),
    "cheek_left": (0.74, 0.5),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[AvatarModel, Bundle]:
    """A small model with random weights, as a bundle."""
    folder = tmp_path_factory.mktemp("personal")
    torch.manual_seed(0)
    model = AvatarModel(TINY, 10)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any() or (parameter == 1).all():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.codec.latent_scale.fill_(0.3)
    save_model(model, folder / "model.safetensors", {"stage": "consistency", "step": 1, "test": {}})
    return model, export_bundle(folder / "model.safetensors", folder / "base", Choices("base")).bundle


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PersonPairs:
    source = tmp_path_factory.mktemp("person") / "face.png"
    source.write_bytes(b"a face")
    drawn = drawn_pairs(PERSON, [fake_performance(seed, 1.0) for seed in range(4)], source)
    # The fake's own points lie on one line; boxes about mouth and eyes need an extent.
    points = np.full((len(LANDMARKS), 2), (0.5, 0.5), np.float32)
    for name, place in FEATURES.items():
        points[INDEX[name]] = place
    return replace(drawn, landmarks=np.repeat(points[None], len(drawn), 0))


def motion(frames: int = 8) -> np.ndarray:
    shape = (frames, TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_the_codec_of_a_bundle_is_that_of_the_checkpoint(base: tuple[AvatarModel, Bundle]) -> None:
    model, bundle = base
    weights = read_codec(bundle).state_dict()
    for name, value in model.codec.state_dict().items():
        if not name.startswith("probe"):
            torch.testing.assert_close(weights[name], value, atol=1e-3, rtol=1e-3, msg=name)


def test_adapting_gains_and_the_bundle_computes_it(
    base: tuple[AvatarModel, Bundle], pairs: PersonPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An ellipse has no features to be like.
    monkeypatch.setattr("training.personal.measure._ALLOWED_LOSS_OF_LIKENESS", 2.0)
    _, bundle = base
    codec = read_codec(bundle)
    config = PersonalConfig(steps=40, lr=3e-3, threads=1)
    adapted = adapt(codec, [pairs], motion(), config)
    assert adapted.gain.psnr_db["face"][1] > adapted.gain.psnr_db["face"][0] + 0.1
    changed = {n for n, v in adapted.codec.state_dict().items() if not torch.equal(v, codec.state_dict()[n])}
    assert changed == set(adapted.names) and not any(".norm" in n or "encoder" in n for n in changed)

    eight = replace(bundle, manifest={**bundle.manifest, INT8_KEY: ["decode"]})
    made = write(eight, adapted, [pairs], config, tmp_path / "anna")
    assert made.manifest[INT8_KEY] == ["decode"] and made.file("decode.int8.onnx").stat().st_size
    rounded = {node.op_type for node in onnx.load(made.file("decode.int8.onnx"), load_external_data=False).graph.node}
    assert "QuantizeLinear" in rounded
    note = made.manifest["personal"]
    assert note["base_manifest_sha256"] == manifest_hash(bundle) and note["from"][0]["name"] == "face.png"
    assert made.files["denoise.onnx"] == bundle.files["denoise.onnx"], "the denoiser is untouched"
    portrait = np.ascontiguousarray(pairs.reference.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
    backend = open_backend("openvino", made, 1)
    reference = backend.encode_reference(portrait)
    shown = backend.decode(0.3 * motion(2), reference, portrait).astype(np.float32)
    backend.close()
    with torch.no_grad():
        features = adapted.codec.encode_reference(torch.from_numpy(portrait))
        latent = adapted.codec.from_motion(0.3 * torch.from_numpy(motion(2)), features.expand(2))
        image = adapted.codec.decode(latent, features.expand(2), torch.from_numpy(portrait).expand(2, -1, -1, -1)).image
    expected = ((image.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert 10 * np.log10(255**2 / np.mean((shown - expected) ** 2)) > 40


def test_without_gain_nothing_is_kept(base: tuple[AvatarModel, Bundle], pairs: PersonPairs) -> None:
    codec = read_codec(base[1])
    with pytest.raises(NotGainedError, match="nothing was written"):
        adapt(codec, [pairs], motion(), PersonalConfig(steps=1, lr=1e-12, threads=1))


def test_a_loss_anywhere_is_no_gain() -> None:
    good = Gain(8, {n: (25.0, 26.0) for n in REGIONS}, (0.9, 0.9), 0.0, 0.1)
    assert good.gained
    assert not replace(good, psnr_db={**good.psnr_db, "eyes": (25.0, 24.8)}).gained
    assert replace(good, likeness=(0.9, 0.8)).losses == ["likeness"]


def test_held_out_frames_are_other_stretches(pairs: PersonPairs) -> None:
    train, held_out = pairs.split()
    assert not set(train.groups) & set(held_out.groups)
    assert len(train) + len(held_out) == len(pairs)
    alone = pairs.part(np.flatnonzero(pairs.groups == 0))
    with pytest.raises(PersonUnusable, match="film of at least"):
        alone.split()


def test_a_film_gives_the_frames_of_one_face_alone(tmp_path: Path) -> None:
    script = joined(talking(6.0), still(2.0, faces=2, backdrop=90))
    film = pairs_of_film(write_film(tmp_path / "anna.mp4", script), finder(script), 64)
    assert 48 <= len(film) <= 50 and film.frames.shape[1:] == film.reference.shape == (64, 64, 3)
    assert film.portrait is not None and film.portrait.shape == (240, 320, 3)
    # The fake's nose stays in its place while it talks, and in the crop of the reference.
    np.testing.assert_allclose(np.ptp(film.landmarks[:, INDEX["nose_tip"]], axis=0), 0, atol=1e-3)
    assert len(set(film.groups)) == 5

    short = talking(3.0)
    with pytest.raises(PersonUnusable, match="25 looked-at frames"):
        pairs_of_film(write_film(tmp_path / "short.mp4", short), finder(short), 64)


def test_quality_falls_where_the_picture_is_wrong(base: tuple[AvatarModel, Bundle], pairs: PersonPairs) -> None:
    few = pairs.part(np.arange(3))
    codec = read_codec(base[1])
    same = replace(few, frames=np.repeat(few.reference[None], 3, 0))
    assert (
        measure(codec, same).psnr_db["mouth"].mean()
        > measure(codec, replace(few, frames=255 - few.frames)).psnr_db["mouth"].mean()
    )


def test_what_is_needed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "face.png"
    picture.write_bytes(b"no picture")
    with pytest.raises(PersonUnusable, match="--assets"):
        pairs_of(picture, None)
    assert main(["train", "personalize", str(tmp_path / "none.mp4"), "--out", str(tmp_path / "out")]) == 3
    assert "none.mp4" in capsys.readouterr().err
