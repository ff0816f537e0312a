"""What torch can do for a GPU, as far as it can be seen without one: fewer bits, torch.compile, Torch-TensorRT."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="these are torch's")

from apps.cli import main  # noqa: E402
from engine.backends.base import Sampling  # noqa: E402
from engine.backends.torch import Placement, TorchBackend  # noqa: E402
from engine.errors import BackendUnavailableError, EngineBuildError  # noqa: E402
from engine.model.avatar import AvatarModel, save_model  # noqa: E402
from engine.model.config import TINY  # noqa: E402
from export.parity import FLOAT_DB, compare  # noqa: E402
from export.scenes import make_scenes, stand_in_portrait  # noqa: E402
from export.stages import stages  # noqa: E402
from export.tensorrt.extents import ranges  # noqa: E402
from export.torch_tensorrt import compile_stage, dynamic_shapes, input_ranges  # noqa: E402

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    torch.manual_seed(0)
    return AvatarModel(TINY).eval()


def test_fewer_bits_stay_near(model: AvatarModel) -> None:
    scene = make_scenes([stand_in_portrait(2)], None, (4, 8), 128)[0]
    exact, coarse = TorchBackend(model, Sampling()), TorchBackend(model, Sampling(), Placement(dtype="bfloat16"))
    result = compare(exact, coarse, scene)
    assert FLOAT_DB <= result.worst_db < 99  # Near, and not the same.


def test_a_compiled_stage_computes_the_same(model: AvatarModel) -> None:
    """ "eager" takes the way through torch.compile and leaves out the compiler."""
    plain, compiled = TorchBackend(model, Sampling()), TorchBackend(model, Sampling(), Placement(compiler="eager"))
    for frames in (2, 3):
        windows = np.random.default_rng(frames).standard_normal((frames, 32, 80), np.float32)
        assert np.allclose(compiled.encode_audio(windows), plain.encode_audio(windows), atol=1e-6)


@no_gpu
def test_a_gpu_that_is_not_there_is_named(model: AvatarModel) -> None:
    with pytest.raises(BackendUnavailableError, match="use the device cpu"):
        TorchBackend(model, Sampling(), Placement("cuda"))


@pytest.mark.skipif(find_spec("torch_tensorrt") is not None, reason="Torch-TensorRT is installed")
def test_without_torch_tensorrt_the_message_names_the_fitting_version(model: AvatarModel, tmp_path: Path) -> None:
    version = ".".join(torch.__version__.split(".")[:2])
    with pytest.raises(BackendUnavailableError, match=rf"torch-tensorrt=={version}"):
        TorchBackend(model, Sampling(), Placement(compiler="torch_tensorrt"))
    save_model(model, tmp_path / "model.safetensors", {})
    assert main(["export", "torch-tensorrt", str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "out")]) == 5
    assert not (tmp_path / "out").exists()


class FakeTorchTensorrt:
    """Keeps what it is told. fails: as a converter does."""

    def __init__(self, fails: bool = False) -> None:
        self.told: dict[str, Any] = {}
        self.saved: dict[str, Any] = {}
        self._fails = fails
        self.dynamo = SimpleNamespace(compile=self._compile)

    def Input(self, **shape: Any) -> Any:  # noqa: N802  (the library's name)
        return SimpleNamespace(**shape)

    def _compile(self, program: Any, **told: Any) -> str:
        if self._fails:
            raise NotImplementedError("no converter for aten.grid_sampler")
        self.told = {"program": program, **told}
        return "compiled"

    def save(self, compiled: str, path: str, **told: Any) -> None:
        self.saved = {"compiled": compiled, "path": path, **told}


def test_a_stage_is_traced_with_its_ranges_and_saved(model: AvatarModel, tmp_path: Path) -> None:
    library, extents = FakeTorchTensorrt(), ranges(TINY, Sampling())
    audio = next(stage for stage in stages(model) if stage.name == "audio")
    compile_stage(library, audio, extents, "fp16", tmp_path / "audio.ep", device="cpu")
    (windows,) = library.told["inputs"]
    assert (windows.min_shape, windows.opt_shape, windows.max_shape) == ((1, 32, 80), (16, 32, 80), (192, 32, 80))
    assert library.told["enable_autocast"] and library.told["autocast_low_precision_type"] == torch.float16
    assert library.saved["path"].endswith("audio.ep") and library.saved["output_format"] == "exported_program"
    traced = library.told["program"].module()
    for frames in (1, 5):
        some = torch.randn(frames, 32, 80)
        assert torch.allclose(traced(some), model.audio(some), atol=1e-5)


def test_the_denoiser_is_traced_for_any_number_of_sessions_and_frames(model: AvatarModel, tmp_path: Path) -> None:
    library, extents = FakeTorchTensorrt(), ranges(TINY, Sampling())
    denoise = next(stage for stage in stages(model) if stage.name == "denoise")
    compile_stage(library, denoise, extents, "fp32", tmp_path / "denoise.ep", device="cpu")
    assert "enable_autocast" not in library.told
    varying = sorted((int(r.lower), int(r.upper)) for r in library.told["program"].range_constraints.values())
    assert varying == [(1, extents["sessions"][2]), (1, extents["frames"][2])]


def test_every_stage_tells_how_far_its_inputs_vary(model: AvatarModel) -> None:
    extents = ranges(TINY, Sampling())
    for stage in stages(model):
        inputs, shapes = input_ranges(FakeTorchTensorrt(), stage, extents), dynamic_shapes(stage, extents)
        assert len(inputs) == len(shapes) == len(stage.inputs)
        for given, axes in zip(inputs, shapes, strict=True):
            varying = {axis for axis, (a, b) in enumerate(zip(given.min_shape, given.max_shape, strict=True)) if a != b}
            assert varying == set(axes or {}), stage.name


def test_what_cannot_be_converted_is_an_error_of_ours(model: AvatarModel, tmp_path: Path) -> None:
    audio = next(stage for stage in stages(model) if stage.name == "audio")
    with pytest.raises(EngineBuildError, match="audio stage: no converter"):
        compile_stage(
            FakeTorchTensorrt(fails=True), audio, ranges(TINY, Sampling()), "fp32", tmp_path / "x.ep", device="cpu"
        )


@no_gpu
def test_without_a_gpu_the_export_points_to_the_other_way(
    model: AvatarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import torch_tensorrt

    monkeypatch.setattr(torch_tensorrt, "need_torch_tensorrt", FakeTorchTensorrt)
    save_model(model, tmp_path / "model.safetensors", {})
    with pytest.raises(BackendUnavailableError, match="tensorrt_rtx"):
        torch_tensorrt.export_programs(tmp_path / "model.safetensors", Sampling(), tmp_path / "out", "fp16", print)
