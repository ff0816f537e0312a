"""Where the pictures of a table's row come from: the truth itself, the codec alone, a checkpoint, or the runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.audio.features import log_mel
from engine.audio.windows import frame_windows
from engine.backends.base import REFERENCE_PX, Backend, Floats
from engine.bundle import find_bundle
from engine.engine import AvatarEngine
from engine.model.avatar import AvatarModel
from engine.model.codec import ReferenceFeatures
from engine.model.denoiser import Conditions
from engine.model.layers import resize
from engine.portrait.crop import CropBox
from engine.portrait.planes import to_planes
from engine.portrait.portrait import Portrait
from engine.types import EXPRESSIONS, VideoFrame
from training.codec import to_tensor
from training.data.clips import Clip
from training.data.media import Bytes
from training.evaluate.pairs import PairEncoder, open_encoder
from training.generate import SamplingConfig, generate
from training.grids import to_uint8
from training.objectives.blocks import conditions
from training.run import autocast

_DECODE_FRAMES = 32


class Source(Protocol):
    """One row. `paired`: its frames show what the true frames show, so that pixels can be compared."""

    name: str

    @property
    def paired(self) -> bool: ...

    @property
    def blocks(self) -> tuple[int, int] | None:
        """Frames of the first block and of every later one; None where pictures do not come in blocks."""
        ...

    def frames(self, clip: Clip) -> Bytes:
        """uint8 [F, S, S, 3] in answer to the clip's reference, voices and states."""
        ...


@runtime_checkable
class Animator(Source, Protocol):
    """A row that is generated, and so can be told more than voices and states."""

    def directed(self, clip: Clip) -> Bytes:
        """The same as `frames` with the clip's expression given."""
        ...


@dataclass(slots=True)
class GroundTruth:
    """The clip's own frames: what the probe makes of perfect pictures."""

    name: str = "ground truth"
    paired: bool = True
    blocks: tuple[int, int] | None = None

    def frames(self, clip: Clip) -> Bytes:
        return clip.frames


class _TorchPictures:
    """Pictures to latents and back with a torch model, at the clip's own size."""

    def __init__(self, model: AvatarModel) -> None:
        self.model = model.eval()
        self.device = next(model.parameters()).device

    def reference(self, clip: Clip) -> tuple[ReferenceFeatures, Tensor]:
        portrait = to_tensor(clip.reference[None]).to(self.device)
        return self.model.codec.encode_reference(self._small(portrait)), portrait

    def encode(self, images: Bytes, portrait: Tensor) -> Tensor:
        starts = range(0, len(images), _DECODE_FRAMES)
        parts = (self._small(to_tensor(images[i : i + _DECODE_FRAMES]).to(self.device)) for i in starts)
        small = self._small(portrait)
        return torch.cat([self.model.codec.encode(part, small.expand(len(part), -1, -1, -1)) for part in parts])

    def decode(self, latents: Tensor, reference: ReferenceFeatures, portrait: Tensor) -> Bytes:
        out = []
        for part in latents.split(_DECODE_FRAMES):
            n = len(part)
            decoded = self.model.codec.decode(part, reference.expand(n), portrait.expand(n, -1, -1, -1))
            out.append(to_uint8(decoded.image))
        return np.concatenate(out)

    def _small(self, images: Tensor) -> Tensor:
        return resize(images, self.model.config.encode_px)


CODEC_ROW = "codec only"


class CodecOnly:
    """True frames through the codec: the limit of everything that animates its latents."""

    name = CODEC_ROW
    paired = True
    blocks = None

    def __init__(self, model: AvatarModel) -> None:
        self._pictures = _TorchPictures(model)

    @torch.no_grad()
    def frames(self, clip: Clip) -> Bytes:
        with autocast(self._pictures.device):
            reference, portrait = self._pictures.reference(clip)
            return self._pictures.decode(self._pictures.encode(clip.frames, portrait), reference, portrait)


class Checkpoint:
    """A torch checkpoint streamed block by block from voices and states; expression and pose stay free."""

    paired = False

    def __init__(self, name: str, model: AvatarModel, how: SamplingConfig, seed: int = 0) -> None:
        self.name, self.how, self.seed = name, how, seed
        self.blocks = (how.block, how.block)
        self._pictures = _TorchPictures(model)

    def frames(self, clip: Clip) -> Bytes:
        return self._generate(clip, expression=False)

    def directed(self, clip: Clip) -> Bytes:
        return self._generate(clip, expression=True)

    @torch.no_grad()
    def _generate(self, clip: Clip, expression: bool) -> Bytes:
        model = self._pictures.model
        with autocast(self._pictures.device):
            reference, portrait = self._pictures.reference(clip)
            given = _conditions(model, clip, self._pictures.device, expression)
            motion = generate(model.denoiser, given, reference.latent, self.how, self.seed)[0]
            latents = model.codec.from_motion(motion.float(), reference)
            return self._pictures.decode(latents, reference, portrait)


def _conditions(model: AvatarModel, clip: Clip, device: torch.device, expression: bool) -> Conditions:
    frames = len(clip)
    own, partner = (
        model.audio(torch.from_numpy(frame_windows(log_mel(sound), 0, frames)).to(device))[None]
        for sound in (clip.voice, clip.partner)
    )
    batch = {
        "state": torch.from_numpy(clip.truth.state.astype(np.int64))[None].to(device),
        "expression": torch.from_numpy(clip.truth.expression)[None].to(device) * expression,
        "pose": torch.zeros(1, frames, model.config.pose_axes, device=device),
    }
    given = conditions(model.denoiser, own, partner, batch, None)
    return replace(given, expression_given=given.expression_given * expression, pose_given=given.pose_given * 0)


class RuntimeCodec:
    """The same through a bundle's own graphs."""

    paired = True
    blocks = None

    def __init__(self, backend: Backend, encoder: PairEncoder, name: str = CODEC_ROW) -> None:
        self._backend, self._encoder, self.name = backend, encoder, name

    def frames(self, clip: Clip) -> Bytes:
        small = _planes(clip.reference, REFERENCE_PX)
        reference = self._backend.encode_reference(small)
        portrait = _planes(clip.reference, len(clip.reference))
        motion = self._encoder.motion((_planes(frame, REFERENCE_PX) for frame in clip.frames), small)
        parts = np.array_split(motion, -(-len(motion) // _DECODE_FRAMES))
        return np.concatenate([self._backend.decode(part, reference, portrait) for part in parts])


def _planes(picture: Bytes, side: int) -> Floats:
    """uint8 [S, S, 3] to float32 [1, 3, side, side] in [-1, 1]."""
    if len(picture) != side:
        picture = np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    return to_planes(picture)


def bundle_codec(model: str, backend: Backend, name: str = CODEC_ROW) -> RuntimeCodec | None:
    """The codec of a bundle, by name or path, that `backend` runs; None for one that shows no latents."""
    encoder = None if backend.name == "mock" else open_encoder(find_bundle(model))
    return None if encoder is None else RuntimeCodec(backend, encoder, name)


class Runtime:
    """The engine with a model bundle, as a user runs it."""

    paired = False

    def __init__(self, name: str, engine: AvatarEngine, steps: int | None, size_px: int, seed: int = 0) -> None:
        self.name, self.steps, self.size_px, self.seed = name, steps, size_px, seed
        sampling = engine.backend.sampling
        self.blocks = (sampling.first_block_frames, sampling.block_frames)
        self.engine = engine

    def frames(self, clip: Clip) -> Bytes:
        return self._generate(clip, None)

    def directed(self, clip: Clip) -> Bytes:
        """The engine takes one expression for a whole recording: that of the frames that have one."""
        track = clip.truth.expression
        present = track[track.max(1) > 0.0]
        strengths = present.mean(0) if len(present) else track[0]
        return self._generate(clip, dict(zip(EXPRESSIONS, strengths.tolist(), strict=True)))

    def _generate(self, clip: Clip, expression: dict[str, float] | None) -> Bytes:
        made = self.stream(clip, clip.voice, clip.partner, clip.truth.state, expression)
        return np.stack([frame.image for frame in made])

    def stream(
        self, clip: Clip, voice: Floats, partner: Floats, state: NDArray[np.int8],
        expression: dict[str, float] | None = None,
    ) -> Iterator[VideoFrame]:  # fmt: skip
        """A clip's portrait with other sound: voices float32 [F * 640] at 16 kHz, state [F]."""
        return self.engine.generate(
            whole_portrait(clip), voice, partner=partner, states=state, expression=expression,
            steps=self.steps, seed=self.seed, size=self.size_px,
        )  # fmt: skip


def whole_portrait(clip: Clip) -> Portrait:
    """A clip's reference, which is a canonical crop already."""
    return Portrait(clip.reference, CropBox(0.0, 0.0, float(len(clip.reference))))
