"""The torch model itself behind the Backend interface: the yardstick of the others, on a CPU or, compiled, on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.backends.base import Floats, Landmarker, Reference, Sampling
from engine.bundle import Bundle
from engine.diffusion.rollout import Manner
from engine.errors import BackendUnavailableError
from engine.model.avatar import AvatarModel, load_model
from engine.model.codec import ReferenceFeatures, resize_grid
from engine.model.config import ModelConfig
from engine.model.denoiser import Conditions
from engine.model.layers import warp

CHECKPOINT = "model.safetensors"
TORCH_TENSORRT = "torch_tensorrt"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how torch computes. device: as torch names it. dtype: of products, "float32", "bfloat16" or "float16"
    (by autocast, which keeps sums and norms in float32). compiler: a backend of torch.compile, "" for none; "inductor"
    makes CUDA graphs of what it compiles, one for each set of shapes, so the first call of each takes its time.
    """

    device: str = "cpu"
    dtype: str = "float32"
    compiler: str = ""

    @property
    def name(self) -> str:
        return " ".join(part for part in ("torch", self.device, self.dtype, self.compiler) if part)


CPU = Placement()


class TorchBackend:
    """One call at a time, pictures by the decoder that was trained."""

    name = "torch"
    aligner: Landmarker | None = None
    moves_alpha = True

    def __init__(
        self, model: AvatarModel, sampling: Sampling, placement: Placement = CPU, manner: Manner | None = None
    ) -> None:
        """manner: by default what `sampling` says without directions of speech. Raises BackendUnavailableError for a
        device that is not there.
        """
        _check_device(placement.device)
        self._model, self._sampling = model.eval().to(placement.device), sampling
        self._manner = manner or replace(sampling, stress=0.0).manner()
        self._placement = placement
        self._reference_stage = self._compiled(self._encode_reference)
        self._audio_stage = self._compiled(self._model.audio)
        self._denoise_stage = self._compiled(self._model.denoiser.stream)
        self._decode_stage = self._compiled(self._decode)

    def _compiled(self, stage: Callable[..., Any]) -> Callable[..., Any]:
        compiler = self._placement.compiler
        if not compiler:
            return stage
        if compiler == TORCH_TENSORRT:
            need_torch_tensorrt()
        if compiler == "inductor":
            return torch.compile(stage, mode="reduce-overhead", dynamic=False)
        return torch.compile(stage, backend=compiler, dynamic=False)

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    @property
    def sampling(self) -> Sampling:
        return self._sampling

    @property
    def manner(self) -> Manner:
        return self._manner

    def encode_reference(self, image: Floats) -> Reference:
        with self._computing():
            named = self._reference_stage(self._there(image))
            return {name: tensor.float().cpu().numpy() for name, tensor in named.items()}

    def encode_audio(self, windows: Floats) -> Floats:
        with self._computing():
            embeddings: Floats = self._audio_stage(self._there(windows)).float().cpu().numpy()
        return embeddings

    def denoise(self, **inputs: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
        with self._computing():
            t = {name: self._there(array) for name, array in inputs.items()}
            conditions = Conditions(*(t[f.name] for f in fields(Conditions)))
            time = t["timestep"][:, None].expand(t["state"].shape)
            out = self._denoise_stage(
                t["latents"], time, conditions, t["cache_keys"], t["cache_values"], t["cache_valid"]
            )
            velocity, keys, values = (x.float().cpu().numpy() for x in out)
        return velocity, keys, values

    def decode(self, latents: Floats, reference: Reference, portrait: Floats) -> NDArray[np.uint8]:
        with self._computing():
            features = ReferenceFeatures(*(self._there(reference[f.name]) for f in fields(ReferenceFeatures)))
            picture, motion = self._there(portrait), self._there(latents)
            # A CPU's caches hold one picture; a GPU wants all at once.
            parts = motion.split(1) if self._placement.device == "cpu" else (motion,)
            frames = [self._decode_stage(part, features, picture).cpu() for part in parts]
            return torch.cat(frames).numpy()

    def _encode_reference(self, image: Tensor) -> dict[str, Tensor]:
        features = self._model.codec.encode_reference(image)
        keys, values = self._model.denoiser.prefill_reference(features.latent)
        return {**{f.name: getattr(features, f.name) for f in fields(features)}, "keys": keys, "values": values}

    def _decode(self, motion: Tensor, reference: ReferenceFeatures, picture: Tensor) -> Tensor:
        codec, n = self._model.codec, len(motion)
        absolute = codec.from_motion(motion, reference)
        decoded = codec.decode(absolute, reference.expand(n), picture[:, :3].expand(n, -1, -1, -1))
        image = decoded.image
        if picture.shape[1] > 3:
            grid = resize_grid(decoded.flow, picture.shape[-1])
            image = torch.cat((image, warp(picture[:, 3:].expand(n, -1, -1, -1), grid, "bicubic")), 1)
        return ((image + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def _there(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._placement.device)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        half = self._placement.dtype != "float32"
        kind = torch.device(self._placement.device).type
        with torch.inference_mode(), torch.autocast(kind, getattr(torch, self._placement.dtype), enabled=half):
            if self._placement.compiler:
                # What the last call gave is copied by now, so its memory may be written over.
                torch.compiler.cudagraph_mark_step_begin()
            yield

    def close(self) -> None:
        pass


def need_torch_tensorrt() -> Any:
    """The module; importing it makes it known to torch.compile. Raises BackendUnavailableError."""
    try:
        return import_module(TORCH_TENSORRT)
    except (ImportError, OSError) as error:
        short = ".".join(torch.__version__.split(".")[:2])
        raise BackendUnavailableError(
            f"torch-tensorrt is not installed ({error}): pip install 'torch-tensorrt=={short}.*', which goes with this "
            "torch and brings TensorRT"
        ) from error


def _check_device(name: str) -> None:
    kind = torch.device(name).type
    if kind == "cuda" and not torch.cuda.is_available():
        built = "has no CUDA" if torch.version.cuda is None else "finds no NVIDIA GPU"
        raise BackendUnavailableError(f"torch {torch.__version__} {built}; use the device cpu")


def open_backend(bundle: Bundle, threads: int | None = None) -> TorchBackend:
    """Open the checkpoint that a bundle may carry beside its graphs. threads: CPU threads of the whole process.

    Raises BundleCorruptError or BackendUnavailableError.
    """
    if CHECKPOINT not in bundle.files:
        raise BackendUnavailableError(
            f"model {bundle.name} has no checkpoint for torch; use --backend auto, or export with --keep-checkpoint"
        )
    return open_checkpoint(bundle.file(CHECKPOINT), bundle.sampling, threads, manner=bundle.manner())


def open_checkpoint(
    path: Path, sampling: Sampling, threads: int | None = None, placement: Placement = CPU, manner: Manner | None = None
) -> TorchBackend:
    """A checkpoint of engine.model.avatar.save_model."""
    if threads:
        torch.set_num_threads(threads)
    return TorchBackend(load_model(path)[0], sampling, placement, manner)
