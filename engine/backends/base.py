"""The seam between the runtime and whatever computes: a model as a bundle of stage functions over numpy arrays.

The runtime knows these names and shapes and nothing else; a backend (ONNX Runtime, OpenVINO, torch, mock) knows how to
compute them. All state (caches, noise, position) is outside, in `engine.diffusion.rollout`, so that a backend can serve
any number of sessions. Imports no torch.

Axes: B sessions, F frames, C latent channels, G latent grid side, D audio width, L layers, H heads, S cache slots,
P pixels a side.
Float arrays are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from engine.diffusion.rollout import Manner
from engine.model.config import ModelConfig

Floats = NDArray[np.float32]
Reference = Mapping[str, NDArray[Any]]
"""What is computed once per portrait. `keys` and `values` [L, 1, H, tokens, head_width] start the denoiser's cache;
the other entries belong to the backend's decoder."""

Landmarker = Callable[[NDArray[np.uint8]], Floats]
"""Face points [28, 2] (fractions, see engine.portrait.landmarks) of an RGB crop uint8 [P, P, 3]."""

REFERENCE_PX = 128
"""Side of the crop that `encode_reference` sees, whatever the size of the output."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the weights want to be sampled; stored in the bundle beside them."""

    sampler: str = "consistency"
    steps: int = 2
    first_steps: int = 4
    """Steps of the first block, which has no context to lean on (First-Frame Enhancement)."""
    time_shift: float = 1.0
    first_block_frames: int = 4
    block_frames: int = 8
    context_time: float = 0.0
    noise_scale: float = 1.0
    easing: float = 0.0
    sink_decay: float = 1.0
    stress: float = 0.0
    """The last five: see engine.diffusion.rollout.Manner. stress 0: the mouth is drawn like all else."""

    def manner(self, speech: Floats | None = None) -> Manner:
        """speech: the bundle's directions of speech, which `stress` asks for."""
        plain = Manner(self.context_time, self.noise_scale, self.easing, self.sink_decay)
        return replace(plain, speech=speech, stress=self.stress) if self.stress else plain

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Sampling:
        """Unknown keys are a ValueError."""
        if unknown := set(values) - {f.name for f in fields(Sampling)}:
            raise ValueError(f"sampling settings have unknown keys {sorted(unknown)}")
        return Sampling(**values)


class Backend(Protocol):
    """One loaded model. Each method is called from one thread at a time, but `decode` may run beside the others; they
    keep nothing between calls.
    """

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> ModelConfig: ...

    @property
    def sampling(self) -> Sampling: ...

    @property
    def manner(self) -> Manner:
        """How blocks are drawn and joined."""
        ...

    @property
    def aligner(self) -> Landmarker | None:
        """The bundle's own face-point network, if it has one."""
        ...

    @property
    def moves_alpha(self) -> bool:
        """Whether `decode` takes portraits with a fourth plane, opacity, and gives RGBA for them."""
        ...

    def encode_reference(self, image: Floats) -> Reference:
        """The canonical crop of the portrait, float32 [1, 3, 128, 128] in [-1, 1]."""
        ...

    def encode_audio(self, windows: Floats) -> Floats:
        """Windows [F, 32, 80] of engine.audio.windows to embeddings [F, D]."""
        ...

    def denoise(
        self,
        *,
        latents: Floats,
        timestep: Floats,
        audio: Floats,
        listening: Floats,
        state: NDArray[np.int64],
        expression: Floats,
        expression_given: Floats,
        pose: Floats,
        pose_given: Floats,
        cache_keys: Floats,
        cache_values: Floats,
        cache_valid: Floats,
    ) -> tuple[Floats, Floats, Floats]:
        """Velocity of the flow at `timestep` for one block, and the block's own keys and values.

        latents [B, F, C, G, G]; timestep [B]; audio, listening [B, F, D]; state [B, F] (3 = unknown);
        expression [B, F, 8] with expression_given [B, F]; pose [B, F, 5] degrees with pose_given [B, F];
        cache_keys, cache_values [L, B, H, S, head_width]; cache_valid [B, S]. B sessions share one call.
        Returns velocity [B, F, C, G, G], keys and values [L, B, H, F * tokens, head_width].
        """
        ...

    def decode(self, latents: Floats, reference: Reference, portrait: Floats) -> NDArray[np.uint8]:
        """Latents [F, C, G, G] and the portrait's crop [1, 3, P, P] in [-1, 1] to RGB pictures [F, P, P, 3]."""
        ...

    def close(self) -> None:
        """Free the model; idempotent."""
        ...


@runtime_checkable
class SplitDecoder(Protocol):
    """What a backend may offer beside: its decoder in two, so that a pipeline can run them at different places.
    decode(latents, reference, portrait) is compose(predict(latents, reference), portrait).
    """

    def predict(self, latents: Floats, reference: Reference) -> tuple[Floats, Floats]:
        """The networks: displacement [F, 2, g, g] and paint [F, 4, h, h], see engine.backends.compose."""
        ...

    def compose(self, predicted: tuple[Floats, Floats], portrait: Floats) -> NDArray[np.uint8]:
        """Pictures [F, P, P, 3] at the portrait's size."""
        ...
