"""Every dimension, rate, stride and window of the network, in one frozen record per size."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from engine.types import EXPRESSIONS, POSE_AXES


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shapes of one model size; stored beside the weights, so that a checkpoint describes itself.

    Axes: B batch, F frames, T tokens, C latent channels, G latent grid side, D width, L layers.
    """

    name: str
    encode_px: int = 128
    """Side of the pictures that the encoders see; the portrait itself is warped at any size."""
    latent_grid: int = 4
    latent_channels: int = 32
    encoder_widths: tuple[int, ...] = (48, 96, 160, 192)
    """Channels at encode_px / 4, / 8, / 16, / 32; the last one is the latent grid."""
    decoder_widths: tuple[int, ...] = (192, 160, 112, 64, 32)
    """Channels on grids of 4, 8, 16, 32 and 64; the last one carries flow, mask and paint."""
    reference_widths: tuple[int, int] = (24, 48)
    """Channels of the reference features on grids of 64 and 32."""

    mel_bins: int = 80
    audio_window: int = 32
    """Mel frames per video frame's window: 20 past, 4 current, 8 to come (2 video frames of look-ahead)."""
    audio_width: int = 192

    patch: int = 2
    """Latent cells per token side; 4 x 4 cells with patch 2 make 4 tokens a frame."""
    width: int = 256
    depth: int = 6
    heads: int = 4
    context_frames: int = 16
    """Clean frames before the block that a block may attend to."""
    block_lengths: tuple[int, ...] = (1, 2, 4, 8, 12)
    phases: tuple[float, ...] = ()
    """Falling times at which one expert hands over to the next; none for one denoiser (engine.model.experts)."""
    tiles: tuple[int, ...] = ()
    """Global frames of each layer's attention, 0 for a layer whose frames all see all (engine.model.tiles)."""

    @property
    def frame_tokens(self) -> int:
        return (self.latent_grid // self.patch) ** 2

    @property
    def token_channels(self) -> int:
        return self.latent_channels * self.patch**2

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def flow_px(self) -> int:
        return self.latent_grid * 2 ** (len(self.decoder_widths) - 1)

    @property
    def expressions(self) -> int:
        return len(EXPRESSIONS)

    @property
    def pose_axes(self) -> int:
        return len(POSE_AXES)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ModelConfig:
        """Inverse of to_dict; an unknown key is a ValueError, since a silent default would change the network."""
        known = {f.name for f in fields(ModelConfig)}
        if unknown := set(values) - known:
            raise ValueError(f"model config has unknown keys {sorted(unknown)}; this version knows {sorted(known)}")
        return ModelConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


NANO = ModelConfig(name="nano")
BASE = ModelConfig(
    name="base",
    latent_channels=64,
    encoder_widths=(64, 128, 256, 320),
    decoder_widths=(320, 256, 160, 96, 48),
    reference_widths=(32, 64),
    audio_width=256,
    width=384,
    depth=6,
    heads=6,
)
TINY = ModelConfig(
    name="tiny",
    latent_channels=8,
    encoder_widths=(16, 16, 24, 32),
    decoder_widths=(32, 24, 16, 16, 8),
    reference_widths=(8, 16),
    audio_width=32,
    width=48,
    depth=2,
    heads=2,
    context_frames=8,
)
"""For tests only: every path, no quality."""

SIZES: dict[str, ModelConfig] = {c.name: c for c in (NANO, BASE, TINY)}
