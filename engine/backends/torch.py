"""The torch model itself behind the Backend interface: the yardstick of the others, for development only."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.backends.base import Floats, Landmarker, Reference, Sampling
from engine.bundle import Bundle
from engine.errors import BackendUnavailableError
from engine.model.avatar import AvatarModel, load_model
from engine.model.codec import ReferenceFeatures
from engine.model.config import ModelConfig
from engine.model.denoiser import Conditions

CHECKPOINT = "model.safetensors"


class TorchBackend:
    """Float32 on the CPU, one call at a time, pictures by the decoder that was trained."""

    name = "torch"
    aligner: Landmarker | None = None

    def __init__(self, model: AvatarModel, sampling: Sampling) -> None:
        self._model, self._sampling = model.eval(), sampling

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    @property
    def sampling(self) -> Sampling:
        return self._sampling

    @torch.inference_mode()
    def encode_reference(self, image: Floats) -> Reference:
        features = self._model.codec.encode_reference(torch.from_numpy(image))
        keys, values = self._model.denoiser.prefill_reference(features.latent)
        named = {f.name: getattr(features, f.name) for f in fields(features)}
        return {name: tensor.numpy() for name, tensor in {**named, "keys": keys, "values": values}.items()}

    @torch.inference_mode()
    def encode_audio(self, windows: Floats) -> Floats:
        embeddings: Floats = self._model.audio(torch.from_numpy(windows)).numpy()
        return embeddings

    @torch.inference_mode()
    def denoise(self, **inputs: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
        t = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        conditions = Conditions(*(t[f.name] for f in fields(Conditions)))
        time = t["timestep"][:, None].expand(t["state"].shape)
        out = self._model.denoiser.stream(
            t["latents"], time, conditions, t["cache_keys"], t["cache_values"], t["cache_valid"]
        )
        velocity, keys, values = (x.numpy() for x in out)
        return velocity, keys, values

    @torch.inference_mode()
    def decode(self, latents: Floats, reference: Reference, portrait: Floats) -> NDArray[np.uint8]:
        features = ReferenceFeatures(*(torch.from_numpy(reference[f.name]) for f in fields(ReferenceFeatures)))
        picture = torch.from_numpy(portrait)
        frames = [self._decode_frame(latent[None], features, picture) for latent in torch.from_numpy(latents)]
        return torch.cat(frames).numpy()

    def _decode_frame(self, motion: Tensor, reference: ReferenceFeatures, picture: Tensor) -> Tensor:
        codec = self._model.codec
        image = codec.decode(codec.from_motion(motion, reference), reference, picture).image
        return ((image + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def close(self) -> None:
        pass


def open_backend(bundle: Bundle, threads: int | None = None) -> TorchBackend:
    """Open the checkpoint that a bundle may carry beside its graphs. threads: CPU threads of the whole process.

    Raises BundleCorruptError or BackendUnavailableError.
    """
    if CHECKPOINT not in bundle.files:
        raise BackendUnavailableError(
            f"model {bundle.name} has no checkpoint for torch; use --backend auto, or export with --keep-checkpoint"
        )
    return open_checkpoint(bundle.file(CHECKPOINT), bundle.sampling, threads)


def open_checkpoint(path: Path, sampling: Sampling, threads: int | None = None) -> TorchBackend:
    """A checkpoint of engine.model.avatar.save_model."""
    if threads:
        torch.set_num_threads(threads)
    return TorchBackend(load_model(path)[0], sampling)
