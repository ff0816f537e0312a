"""`visavis bench gpu`: one table of every way to compute a model, on CPU and GPU, one session and many.

Each row is opened, compared with the yardstick, and timed; a row that cannot run here says why. It needs neither voice
nor portrait nor anything to read them with, so that it runs wherever Python, numpy, OpenCV and torch do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.bench.machine import machine_facts
from engine.backends.base import REFERENCE_PX, Backend, Floats, Reference
from engine.backends.staged import BF16_KEY, INT8_KEY
from engine.bundle import Bundle
from engine.diffusion.flow import timesteps
from engine.diffusion.rollout import Cache, generate_block
from engine.diffusion.sampler import SAMPLERS
from engine.errors import AvatarError, BackendUnavailableError
from engine.types import FPS, AvatarState

Say = Callable[[str], None]
Open = Callable[["Case"], Backend]

_PARITY_BLOCKS = 4
_FIRST_BLOCKS = 5
"""First blocks that are timed; the median counts."""
_MOST_BLOCKS = 2_000
_REASON_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured. checkpoint: for the rows of torch; without one their network is untrained, which costs the same
    time, and has no parity with the bundle. batches: sessions that share a call, 1 first. seconds: of each timing.
    """

    bundle: Bundle
    checkpoint: Path | None = None
    sizes_px: tuple[int, ...] = (256, 512)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    seconds: float = 3.0


@dataclass(frozen=True, slots=True)
class Way:
    """One way to compute. trained: with the bundle's own weights. device: "cpu" or "gpu"."""

    name: str
    device: str
    open: Open
    trained: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """parity_db: worst block of a roll-out against the yardstick; None for the yardstick itself. fps: frames that one
    session gets, as fast as it goes. first_block_ms: median, from sound to pictures of a warm session's first block.
    batch_fps: frames for all sessions together, by how many share a call of the denoiser. sessions: at 25 fps, of the
    best of these. open_s: to load, and to build or compile whatever the first calls do.
    """

    name: str
    device: str
    size_px: int
    why_not: str = ""
    parity_db: float | None = None
    fps: float | None = None
    first_block_ms: float | None = None
    batch_fps: dict[int, float] = field(default_factory=dict)
    sessions: int | None = None
    open_s: float | None = None


def measure_gpu(case: Case, say: Say) -> dict[str, Any]:
    """The document: machine, settings, yardstick and rows."""
    ways = list(all_ways(case))
    yardsticks = _yardsticks(case, ways, say)
    rows = [row for way in ways for row in _rows(way, case, yardsticks.get(way.trained), say)]
    return {
        "format": 1,
        "kind": "gpu",
        "machine": asdict(machine_facts()),
        "model": case.bundle.name,
        "torch_weights": "checkpoint" if _checkpoint(case) else "untrained, of the same shape",
        "yardstick": {"trained" if trained else "untrained": yard.name for trained, yard in yardsticks.items()},
        "rows": [asdict(row) for row in rows],
    }


def all_ways(case: Case) -> Iterator[Way]:
    """Every row of the table, whether it can run here or not."""
    trained = _checkpoint(case) is not None
    for name, device, dtype, compiler in (
        ("torch eager, float32", "cpu", "float32", ""),
        ("torch eager, float32", "cuda", "float32", ""),
        ("torch eager, float16", "cuda", "float16", ""),
        ("torch.compile and CUDA graphs, float16", "cuda", "float16", "inductor"),
        ("torch-tensorrt", "cuda", "float32", "torch_tensorrt"),
    ):
        where = "cpu" if device == "cpu" else "gpu"
        yield Way(name, where, _torch_opener(device, dtype, compiler), trained)
    for name in ("onnxruntime", "openvino"):
        yield Way(name, "cpu", _named_opener(name))
    yield Way("onnxruntime:cuda", "gpu", _named_opener("onnxruntime:cuda"))
    for name in ("tensorrt", "tensorrt_rtx"):
        yield Way(name, "gpu", _tensorrt_opener(name))


def _torch_opener(device: str, dtype: str, compiler: str) -> Open:
    def open_it(case: Case) -> Backend:
        try:
            import torch

            from engine.backends.torch import Placement, TorchBackend, open_checkpoint
            from engine.model.avatar import AvatarModel
        except ImportError as error:
            raise BackendUnavailableError(f"torch is not installed ({error}): pip install 'visavis[export]'") from error
        placement, manner = Placement(device, dtype, compiler), case.bundle.manner()
        checkpoint = _checkpoint(case)
        if checkpoint is not None:
            return open_checkpoint(checkpoint, case.bundle.sampling, placement=placement, manner=manner)
        torch.manual_seed(0)
        return TorchBackend(AvatarModel(case.bundle.config), case.bundle.sampling, placement, manner)

    return open_it


def _named_opener(name: str) -> Open:
    def open_it(case: Case) -> Backend:
        from engine.backends.registry import open_backend

        return open_backend(name, case.bundle)

    return open_it


def _tensorrt_opener(library: str) -> Open:
    def open_it(case: Case) -> Backend:
        from engine.backends.gpu.device import open_device
        from engine.backends.gpu.library import open_library
        from engine.backends.tensorrt import find_artefact, open_with

        device = open_device()
        return open_with(case.bundle, find_artefact(case.bundle), open_library((library,)), device)

    return open_it


def _checkpoint(case: Case) -> Path | None:
    """The one that was given, or the bundle's own."""
    name = "model.safetensors"
    return case.checkpoint or (case.bundle.file(name) if name in case.bundle.files else None)


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What others are compared with: a way's name, and its pictures of a few blocks, by size."""

    name: str
    pictures: dict[int, list[NDArray[np.uint8]]]


def _yardsticks(case: Case, ways: Sequence[Way], say: Say) -> dict[bool, Yardstick]:
    """For trained weights and for untrained ones, the first way on the CPU that runs, in float32."""
    exact = replace(case, bundle=replace(case.bundle, manifest={**case.bundle.manifest, INT8_KEY: [], BF16_KEY: []}))
    found: dict[bool, Yardstick] = {}
    for way in ways:
        if way.device != "cpu" or way.trained in found:
            continue
        say(f"yardstick: {way.name}")
        try:
            backend = way.open(exact)
            name = way.name if "float32" in way.name else f"{way.name}, float32"
            found[way.trained] = Yardstick(name, {size: _pictures(backend, size) for size in case.sizes_px})
            backend.close()
        except AvatarError:
            continue  # Its row will say why.
    return found


def _rows(way: Way, case: Case, yardstick: Yardstick | None, say: Say) -> Iterator[Row]:
    say(way.name)
    began = perf_counter()
    try:
        backend = way.open(case)
        _Rollout(backend, case.sizes_px[0]).block(first=True)
    except Exception as error:  # Compilers' own exceptions share no base class, and one row must not end the table.
        yield from (Row(way.name, way.device, size, _reason(error)) for size in case.sizes_px)
        return
    opened_s = perf_counter() - began
    for size in case.sizes_px:
        say(f"{way.name} at {size}")
        try:
            yield _measured(way, backend, case, size, yardstick, opened_s)
        except Exception as error:
            yield Row(way.name, way.device, size, _reason(error), open_s=opened_s)
    backend.close()


def _reason(error: Exception) -> str:
    """The first line of what went wrong; ours speak for themselves."""
    first = str(error).strip().partition("\n")[0][:_REASON_LENGTH]
    return first if isinstance(error, AvatarError) else f"{type(error).__name__}: {first}"


def _measured(
    way: Way, backend: Backend, case: Case, size: int, yardstick: Yardstick | None, opened_s: float
) -> Row:  # fmt: skip
    first_ms = _first_block_ms(backend, size)
    batch_fps = {sessions: _fps(backend, size, sessions, case.seconds) for sessions in case.batches}
    parity_db = None
    if yardstick is not None and yardstick.name != way.name:
        pairs = zip(_pictures(backend, size), yardstick.pictures[size], strict=True)
        parity_db = min(_psnr_db(ours, theirs) for ours, theirs in pairs)
    return Row(
        way.name, way.device, size,
        parity_db=parity_db,
        fps=batch_fps[case.batches[0]],
        first_block_ms=first_ms,
        batch_fps=batch_fps,
        sessions=int(max(batch_fps.values()) / FPS),
        open_s=opened_s,
    )  # fmt: skip


def _pictures(backend: Backend, size: int) -> list[NDArray[np.uint8]]:
    """Of a few blocks, each starting from what the one before left."""
    rollout = _Rollout(backend, size)
    return [rollout.block(first=number == 0) for number in range(_PARITY_BLOCKS)]


def _psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = float(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2))
    return min(99.0, 10 * float(np.log10(255**2 / error))) if error else 99.0


def _first_block_ms(backend: Backend, size: int) -> float:
    times = []
    for _ in range(_FIRST_BLOCKS + 1):
        rollout = _Rollout(backend, size)
        began = perf_counter()
        rollout.block(first=True)
        times.append(1e3 * (perf_counter() - began))
    return float(np.median(times[1:]))


def _fps(backend: Backend, size: int, sessions: int, seconds: float) -> float:
    """Frames a second of all sessions together, whose denoiser calls are shared, after a warm-up."""
    rollout, frames = _Rollout(backend, size, sessions), 0
    rollout.block(first=True)
    rollout.block(first=False)
    began = perf_counter()
    for _ in range(_MOST_BLOCKS):
        frames += sessions * len(rollout.block(first=False))
        if perf_counter() - began > seconds:
            break
    return frames / (perf_counter() - began)


class _Rollout:
    """Speaking sessions with one portrait, made block by block as the engine makes them."""

    def __init__(self, backend: Backend, size: int, sessions: int = 1) -> None:
        self._backend, self._sessions = backend, sessions
        self._random = np.random.default_rng(0)
        self._small, self._large = _portrait(REFERENCE_PX), _portrait(size)
        self._reference: Reference = backend.encode_reference(self._small)
        slots = backend.config.context_frames * backend.config.frame_tokens
        start = Cache.start(self._reference["keys"], self._reference["values"], slots)
        self._cache = Cache.join([start] * sessions)

    def block(self, first: bool) -> NDArray[np.uint8]:
        """From sound to pictures: of the last session [F, P, P, 3]; the others' are made too."""
        config, sampling = self._backend.config, self._backend.sampling
        frames = sampling.first_block_frames if first else sampling.block_frames
        steps = sampling.first_steps if first else sampling.steps
        conditions = self._conditions(frames)

        def model(latents: Any, t: float, keys: Any, values: Any, valid: Any) -> tuple[Any, Any, Any]:
            return self._backend.denoise(
                latents=latents, timestep=np.full(self._sessions, t, np.float32), **conditions,
                cache_keys=keys, cache_values=values, cache_valid=valid,
            )  # fmt: skip

        shape = (self._sessions, frames, config.latent_channels, config.latent_grid, config.latent_grid)
        noise = self._random.standard_normal(shape, np.float32)
        times = timesteps(steps, sampling.time_shift)
        latents, self._cache = generate_block(
            model, SAMPLERS[sampling.sampler], noise, times, self._cache, self._backend.manner
        )
        return [self._backend.decode(each, self._reference, self._large) for each in latents][-1]

    def _conditions(self, frames: int) -> dict[str, NDArray[Any]]:
        config, n = self._backend.config, self._sessions
        windows = self._random.normal(-4, 2, (2 * n * frames, config.audio_window, config.mel_bins))
        own, partner = self._backend.encode_audio(windows.astype(np.float32)).reshape(2, n, frames, -1)
        return {
            "audio": own,
            "listening": partner,
            "state": np.full((n, frames), AvatarState.SPEAKING, np.int64),
            "expression": np.zeros((n, frames, config.expressions), np.float32),
            "expression_given": np.zeros((n, frames), np.float32),
            "pose": np.zeros((n, frames, config.pose_axes), np.float32),
            "pose_given": np.zeros((n, frames), np.float32),
        }


def _portrait(side: int) -> Floats:
    """Smooth waves of colour with detail, [1, 3, P, P] in [-1, 1], alike at every size."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    planes = [np.sin(2 * np.pi * (f * x + g * y)) for f, g in ((1, 2), (3, 1), (2, 5))]
    detail = 0.2 * np.sin(40 * np.pi * x) * np.sin(36 * np.pi * y)
    portrait: Floats = np.clip(0.6 * np.stack(planes) + detail, -1, 1).astype(np.float32)[None]
    return portrait
