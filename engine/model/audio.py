"""Streaming audio encoder: one embedding per video frame from a fixed window of log-mel frames.

Each frame sees its own window (20 mel frames before, its own 4, 8 to come: 80 ms of look-ahead) and nothing else, so
streamed and whole use are the same computation and the only state is the tail of the mel stream.
"""

from __future__ import annotations

from torch import Tensor, nn

from engine.model.config import ModelConfig

MEL_CENTRE, MEL_SPREAD = -5.0, 4.0
"""Rough mean and spread of log-mel values of speech between -26 and -6 dBFS."""


class AudioEncoder(nn.Module):
    """windows [N, 32, 80] of log-mel to embeddings [N, audio_width]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.audio_width
        self.convs = nn.Sequential(
            nn.Conv1d(config.mel_bins, d, 3, padding=1), nn.GELU(),
            nn.Conv1d(d, d, 4, stride=2, padding=1), nn.GELU(),
            nn.Conv1d(d, d, 4, stride=2, padding=1), nn.GELU(),
            nn.Conv1d(d, d, 4, stride=2, padding=1), nn.GELU(),
        )  # fmt: skip
        self.out = nn.Sequential(
            nn.Linear(d * config.audio_window // 8, 2 * d), nn.GELU(), nn.Linear(2 * d, d), nn.LayerNorm(d)
        )

    def forward(self, windows: Tensor) -> Tensor:
        x = ((windows - MEL_CENTRE) / MEL_SPREAD).transpose(1, 2)
        return self.out(self.convs(x).flatten(1))
