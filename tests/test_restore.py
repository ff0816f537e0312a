"""A bundle back as a checkpoint, and the probe that training fits to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("onnxscript", reason="exporting needs onnxscript")

from torch import nn  # noqa: E402

from apps.cli import main  # noqa: E402
from engine.bundle import read_bundle  # noqa: E402
from engine.errors import BundleCorruptError  # noqa: E402
from engine.model.avatar import AvatarModel, load_model, save_model  # noqa: E402
from engine.model.config import TINY  # noqa: E402
from export.bundle import Choices, export_bundle  # noqa: E402
from export.restore import before_silu, restore  # noqa: E402
from training.codec import ANGLE_SCALE, LANDMARK_SCALE, PROBE_OUTPUTS  # noqa: E402
from training.latents import LatentClips  # noqa: E402
from training.probing import ensure_probe, fit_probe  # noqa: E402

LOST = ("codec.probe.weight", "codec.probe.bias", "denoiser.null_audio")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = AvatarModel(TINY, PROBE_OUTPUTS)
    for parameter in model.parameters():
        # No weight is zero or one by birth, so that every one is seen to come back.
        nn.init.normal_(parameter, 0.3, 0.2)
    model.codec.latent_scale.fill_(0.75)
    folder = tmp_path_factory.mktemp("restore")
    save_model(model, folder / "model.safetensors", {"stage": "consistency"})
    export_bundle(folder / "model.safetensors", folder / "bundle", Choices("tiny", half=False))
    export_bundle(folder / "model.safetensors", folder / "half", Choices("tiny"))
    return folder


@pytest.mark.parametrize(("bundle", "most"), [("bundle", 1e-5), ("half", 1e-3)])
def test_every_weight_of_a_bundle_comes_back(exported: Path, bundle: str, most: float) -> None:
    truth, _ = load_model(exported / "model.safetensors")
    restored = restore(read_bundle(exported / bundle)).state_dict()
    for key, value in truth.state_dict().items():
        if key not in LOST:
            assert (restored[key] - value).abs().max() <= most, key
    assert set(truth.state_dict()) - set(restored) == set(LOST[:2])


def test_the_command_writes_a_checkpoint_that_loads(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "model.safetensors"
    assert main(["export", "checkpoint", str(exported / "bundle"), "-o", str(out)]) == 0
    model, meta = load_model(out)
    assert (meta["stage"], meta["bundle"], model.config) == ("restored", "tiny", TINY)


def test_a_bundle_of_another_exporter_is_refused(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.restore._weights", lambda bundle, stage: {})
    with pytest.raises(BundleCorruptError, match="export it again"):
        restore(read_bundle(exported / "bundle"))


def test_what_silu_made_is_undone() -> None:
    x = torch.linspace(-1.27, 6.0, 200)
    assert (before_silu(torch.nn.functional.silu(x)) - x).abs().max() < 2e-2
    inside = x > -1.0
    assert (before_silu(torch.nn.functional.silu(x)) - x).abs()[inside].max() < 1e-4


def clips_of(weight: np.ndarray, clips: int, frames: int) -> LatentClips:
    """Clips whose labels are a linear function of their latents, and another constant in each clip."""
    rng, count = np.random.default_rng(0), clips * frames
    shape = (TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)
    latent = rng.normal(0, 1, (count, *shape)).astype(np.float32)
    told = latent.reshape(count, -1) @ weight.T + np.repeat(rng.normal(0, 3, (clips, PROBE_OUTPUTS)), frames, 0)
    units, head, gaze, points = np.split(told, (52, 55, 57), 1)
    unknown = np.zeros((0, 1), np.float32)
    return LatentClips(
        start=np.arange(0, count + 1, frames), latent=latent, reference=np.zeros((clips, *shape), np.float32),
        mel=unknown, partner_mel=unknown, state=unknown, expression=unknown, head=head * ANGLE_SCALE,
        gaze=gaze * ANGLE_SCALE, units=units, landmarks=(points / LANDMARK_SCALE).reshape(count, 28, 2),
        reference_landmarks=unknown, portrait=unknown,
    )  # fmt: skip


def test_a_probe_is_found_whatever_the_people_look_like() -> None:
    size = TINY.latent_channels * TINY.latent_grid**2
    weight = np.random.default_rng(1).normal(0, 1, (PROBE_OUTPUTS, size))
    clips = clips_of(weight, clips=8, frames=120)
    probe = fit_probe(clips)
    assert np.abs(probe.weight.detach().numpy() - weight).max() < 0.02
    assert probe.bias.abs().max() == 0
    model = AvatarModel(TINY)
    ensure_probe(model, clips)
    given = model.codec.probe
    ensure_probe(model, clips)
    assert given is not None and model.codec.probe is given
