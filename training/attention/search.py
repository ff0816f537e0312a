"""Which tiles each layer can do without (Efficient-vDiT, arXiv 2502.06155, its second stage).

Layer by layer, the others unchanged: the sparsest mask whose damage to the layer's own output stays below a bound. The
paper's bound is in units of the layer's output, so it means something else for every model; ours is a share of what the
layer adds to its input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from engine.model.denoiser import Conditions, Denoiser
from engine.model.tiles import tile_sparsity

_LEAST = 1e-12


class Question(NamedTuple):
    """What a denoiser's forward is asked, see there."""

    noisy: Tensor
    clean: Tensor
    t: Tensor
    given: Conditions
    reference: Tensor
    block_of: Tensor
    t_clean: Tensor


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's input and output [B, T, D] in one pass."""

    into: Tensor
    out: Tensor


@dataclass(frozen=True, slots=True)
class Found:
    """tiles: global frames of each layer, 0 where it must see all; damages: of each candidate, for each layer."""

    tiles: tuple[int, ...]
    damages: tuple[dict[int, float], ...]


@contextmanager
def recorded(denoiser: Denoiser) -> Iterator[list[Layer]]:
    """While in its body, the list holds the layers of the denoiser's latest pass."""
    layers: list[Layer] = []
    after = [block.after for block in denoiser.blocks]

    def wrapped(i: int) -> Callable[..., Tensor]:
        def call(x: Tensor, attended: Tensor, m: tuple[Tensor, ...]) -> Tensor:
            out = after[i](x, attended, m)
            if i == 0:
                layers.clear()
            layers.append(Layer(x, out))
            return out

        return call

    for i, block in enumerate(denoiser.blocks):
        block.after = wrapped(i)
    try:
        yield layers
    finally:
        for block in denoiser.blocks:
            del block.after


@torch.no_grad()
def search_tiles(denoiser: Denoiser, questions: Sequence[Question], candidates: Sequence[int], damage: float) -> Found:
    """candidates: numbers of global frames to try. The denoiser must see all; its config is as before afterwards."""
    depth, original = denoiser.config.depth, denoiser.config
    sums: list[dict[int, float]] = [dict.fromkeys(sorted(candidates), 0.0) for _ in range(depth)]
    try:
        for question in questions:
            denoiser.config = replace(original, tiles=())
            with recorded(denoiser) as whole:
                denoiser(*question)
                kept = list(whole)
            for layer in range(depth):
                for count in sums[layer]:
                    tiles = tuple(count if i == layer else 0 for i in range(depth))
                    denoiser.config = replace(original, tiles=tiles)
                    with recorded(denoiser) as sparse:
                        denoiser(*question)
                    sums[layer][count] += _damage(sparse[layer], kept[layer]) / len(questions)
    finally:
        denoiser.config = original
    chosen = tuple(next((k for k, d in layer.items() if d <= damage), 0) for layer in sums)
    return Found(chosen, tuple(sums))


def _damage(sparse: Layer, whole: Layer) -> float:
    """Squared change of a layer's output, as a share of the energy of what it adds to its input."""
    added = (whole.out - whole.into).float().square().mean().clamp_min(_LEAST)
    return float((sparse.out - whole.out).float().square().mean() / added)


def window_sparsity(context: int, block: int, tiles: Sequence[int]) -> float:
    """Mean share of tiles left out over layers, where a block of frames sees so many before it."""
    frames = context + block
    return sum(tile_sparsity(frames, count) if count else 0.0 for count in tiles) / max(1, len(tiles))
