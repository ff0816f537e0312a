"""What layers are given in real use: inputs of the stages over roll-outs, and the ranges inside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import Backend, Floats, Reference
from engine.backends.staged import STAGES
from export.quantize.layers import Graph, find_layers
from export.quantize.numbers import Kind, Steps, best_steps
from export.quantize.qdq import Scheme, quantise
from export.quantize.running import Arrays, expose, open_graph

_VALUES_PER_SAMPLE = 4096
_DECODER_READS = ("latent", "fine", "coarse")


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one tensor: its ends, and some of its values."""

    low: float
    high: float
    values: Floats


class Recorder:
    """A backend that keeps what its stages are asked: by stage, so many calls, drawn evenly from all there are."""

    def __init__(self, backend: Backend, most: int = 40) -> None:
        self._backend, self._most = backend, most
        self._random, self._counts = np.random.default_rng(0), dict.fromkeys(STAGES, 0)
        self.calls: dict[str, list[Arrays]] = {stage: [] for stage in STAGES}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def encode_reference(self, image: Floats) -> Reference:
        self._keep("reference", {"image": image})
        return self._backend.encode_reference(image)

    def encode_audio(self, windows: Floats) -> Floats:
        self._keep("audio", {"windows": windows})
        return self._backend.encode_audio(windows)

    def denoise(self, **inputs: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
        self._keep("denoise", inputs)
        return self._backend.denoise(**inputs)

    def decode(self, latents: Floats, reference: Reference, portrait: Floats) -> NDArray[np.uint8]:
        parts = {name: reference[name] for name in _DECODER_READS if name in reference}
        self._keep("decode", {"latents": latents, **parts})
        return self._backend.decode(latents, reference, portrait)

    def _keep(self, stage: str, inputs: Arrays) -> None:
        self._counts[stage] += 1
        kept = self.calls[stage]
        # Reservoir sampling: every call so far is among the kept with the same chance.
        place = len(kept) if len(kept) < self._most else int(self._random.integers(self._counts[stage]))
        if place < self._most:
            kept[place : place + 1] = [{name: np.array(value) for name, value in inputs.items()}]


def ranges(graph: Graph, tensors: Iterable[str], samples: Sequence[Arrays]) -> dict[str, Seen]:
    """What values the tensors take while the graph computes the samples."""
    wanted = sorted(set(tensors))
    run = open_graph(expose(graph, wanted), "onnxruntime")
    random = np.random.default_rng(0)
    lows, highs = (dict.fromkeys(wanted, 0.0) for _ in range(2))
    values: dict[str, list[Floats]] = {name: [] for name in wanted}
    for sample in samples:
        for name, found in zip(wanted, run(sample), strict=True):
            flat = found.ravel()
            lows[name], highs[name] = min(lows[name], float(flat.min())), max(highs[name], float(flat.max()))
            few = flat if flat.size <= _VALUES_PER_SAMPLE else random.choice(flat, _VALUES_PER_SAMPLE)
            values[name].append(few)
    return {name: Seen(lows[name], highs[name], np.concatenate(values[name])) for name in wanted}


def steps_of(seen: Mapping[str, Seen], kind: Kind) -> dict[str, Steps]:
    return {name: best_steps(kind, s.values, s.low, s.high) for name, s in seen.items()}


def calibrated(graph: Graph, samples: Sequence[Arrays], scheme: Scheme) -> Graph:
    """The graph with all layers that the scheme takes in 8 bits."""
    layers = [layer for layer in find_layers(graph) if scheme.takes(layer)]
    tensors = {name for layer in layers for name in scheme.tensors(layer)}
    seen = ranges(graph, tensors, samples) if tensors else {}
    return quantise(graph, layers, scheme, steps_of(seen, scheme.activations))
