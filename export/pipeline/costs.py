"""What a block costs, work by work, as it was measured or is supposed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockCosts:
    """Milliseconds of one block of `frames` frames where nothing else runs. calls: of the denoiser, its steps and one
    that writes the context; denoise_ms is all of them. encode_ms: pictures to what leaves the machine.
    """

    frames: int
    calls: int
    audio_ms: float
    denoise_ms: float
    decode_ms: float
    compose_ms: float
    encode_ms: float

    @property
    def call_ms(self) -> float:
        return self.denoise_ms / self.calls

    def ms(self, work: str) -> float:
        """Of one of engine.pipeline.plan.WORKS."""
        return {
            "denoise": self.audio_ms + self.denoise_ms,
            "decode": self.decode_ms,
            "compose": self.compose_ms,
            "encode": self.encode_ms,
        }[work]


@dataclass(frozen=True, slots=True)
class Costs:
    """first: of a session's first block, which is shorter and takes more steps. hand_over_ms: from the end of a stage
    until the next one has what it made, where they are at different places. cache_ms: the same for the keys and values
    of a block, which layouts that spread the denoising steps hand over as well.
    """

    block: BlockCosts
    first: BlockCosts
    hand_over_ms: float = 0.0
    cache_ms: float = 0.0
