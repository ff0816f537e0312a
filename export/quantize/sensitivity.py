"""What each layer costs, what it loses in 8 bits, and which layers had better be spared.

Every layer is quantised alone. Its noise is measured where it can be compared: at the outputs of its stage, on inputs
from roll-outs, and in the pictures after a short roll-out of its own. Layers are then ranked by noise for the work that
they save, and as few of the worst as a budget needs are spared (found by bisection: more layers spared, less noise).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.quantize.calibrate import Seen, steps_of
from export.quantize.layers import Graph, Layer
from export.quantize.qdq import Scheme, quantise
from export.quantize.running import Arrays, Runtime, expose, open_graph

Mode = Literal["8-bit", "weights", "float"]
"""How a layer ends up: activations and weights in 8 bits, weights alone, or neither."""

MOST_DB = 99.0
_PROBED = 4
"""Samples that noise is measured on."""

Pictures = Callable[[Graph], float]
"""PSNR in dB of a short roll-out with this graph in its stage, against the float one; the worst take."""


@dataclass(frozen=True, slots=True)
class LayerReport:
    """cost: share of the multiplications of all layers of the stage. stage_db: signal to noise at the stage's worst
    output with this layer alone in 8 bits; rollout_db: PSNR of the pictures of a roll-out then. weights_db: as
    stage_db, with only its weights in 8 bits.
    """

    node: str
    label: str
    cost: float
    stage_db: float
    rollout_db: float
    weights_db: float


@dataclass(frozen=True, slots=True)
class Trials:
    """One stage, ready to be tried. seen: ranges of all activations that its scheme may round."""

    graph: Graph
    layers: Sequence[Layer]
    scheme: Scheme
    seen: Mapping[str, Seen]
    samples: Sequence[Arrays]
    runtime: Runtime = "onnxruntime"

    def build(self, modes: Mapping[str, Mode]) -> Graph:
        """The graph with each layer as told, the others in 8 bits."""
        steps = steps_of(self.seen, self.scheme.activations)
        chosen = [layer for layer in self.layers if modes.get(layer.node, "8-bit") != "float"]
        spared = {node for node, mode in modes.items() if mode == "weights"}
        return quantise(self.graph, chosen, self.scheme, steps, spared)

    def alone(self, layer: Layer, mode: Mode) -> Graph:
        modes: dict[str, Mode] = {other.node: "float" for other in self.layers}
        return self.build({**modes, layer.node: mode})


@dataclass(frozen=True, slots=True)
class Plan:
    """modes: what becomes of each layer. rollout_db: PSNR of pictures with it. tried: how many plans were measured."""

    modes: Mapping[str, Mode]
    rollout_db: float
    tried: int

    def count(self, mode: Mode) -> int:
        return sum(chosen == mode for chosen in self.modes.values())


def examine(trials: Trials, pictures: Pictures, tell: Callable[[str], None] = lambda text: None) -> list[LayerReport]:
    """Every layer alone, in the graph's order."""
    samples = trials.samples[:: max(1, len(trials.samples) // _PROBED)]
    exact = _outputs(trials.graph, trials.runtime, samples)
    costs = shares(trials.graph, trials.layers, samples[-1])
    reports = []
    for layer in trials.layers:
        tell(layer.label)
        full, light = trials.alone(layer, "8-bit"), trials.alone(layer, "weights")
        reports.append(LayerReport(
            layer.node, layer.label, costs[layer.node],
            snr_db(exact, _outputs(full, trials.runtime, samples)), pictures(full),
            snr_db(exact, _outputs(light, trials.runtime, samples)),
        ))  # fmt: skip
    return reports


def spare(trials: Trials, reports: Sequence[LayerReport], pictures: Pictures, budget_db: float) -> Plan:
    """The plan that spares fewest layers and keeps the pictures within the budget.

    First the worst layers keep their activations, where the scheme has that; if all of them do and it is not enough,
    the worst go back to float. The last resort is a plan with nothing in 8 bits.
    """
    nodes = [report.node for report in reports]
    plan, tried = _bisect(trials, pictures, budget_db, dict.fromkeys(nodes, "8-bit"), *_first_step(trials, reports))
    if plan.rollout_db < budget_db and trials.scheme.weights_alone:
        ranked = rank(reports, [report.weights_db for report in reports])
        plan, more = _bisect(trials, pictures, budget_db, dict.fromkeys(nodes, "weights"), ranked, "float")
        tried += more
    return Plan(plan.modes, plan.rollout_db, tried)


def rank(reports: Sequence[LayerReport], noise_db: Sequence[float]) -> list[str]:
    """Nodes by how much noise each unit of work brings, the worst first."""
    harm = {r.node: 10 ** (-db / 10) / max(r.cost, 1e-6) for r, db in zip(reports, noise_db, strict=True)}
    return sorted(harm, key=lambda node: -harm[node])


def shares(graph: Graph, layers: Sequence[Layer], sample: Arrays) -> dict[str, float]:
    """Each layer's share of the multiplications of all, by node."""
    sizes = [out.size for out in open_graph(expose(graph, [x.output for x in layers]), "onnxruntime")(sample)]
    shapes = [graph.weight(layer).shape for layer in layers]
    work = [size / shape[layer.axis] * np.prod(shape) for size, shape, layer in zip(sizes, shapes, layers, strict=True)]
    return {layer.node: float(w / sum(work)) for layer, w in zip(layers, work, strict=True)}


def snr_db(exact: Sequence[Sequence[NDArray[Any]]], other: Sequence[Sequence[NDArray[Any]]]) -> float:
    """Signal to noise of the worst output, over all samples; 99 where nothing differs."""
    worst = MOST_DB
    for pairs in zip(*[list(zip(a, b, strict=True)) for a, b in zip(exact, other, strict=True)], strict=True):
        signal = sum(float((a.astype(np.float64) ** 2).sum()) for a, _ in pairs)
        noise = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in pairs)
        if noise > 0:
            worst = min(worst, 10 * float(np.log10(signal / noise)) if signal > 0 else -MOST_DB)
    return worst


def _first_step(trials: Trials, reports: Sequence[LayerReport]) -> tuple[list[str], Mode]:
    return rank(reports, [r.stage_db for r in reports]), "weights" if trials.scheme.weights_alone else "float"


def _bisect(
    trials: Trials, pictures: Pictures, budget_db: float, start: dict[str, Mode], ranked: Sequence[str], spared: Mode
) -> tuple[Plan, int]:
    """The fewest of the ranked nodes spared such that the budget holds; all of them if none do."""

    def plan(count: int) -> Plan:
        modes: dict[str, Mode] = {**start, **dict.fromkeys(ranked[:count], spared)}
        exact = all(mode == "float" for mode in modes.values())
        return Plan(modes, MOST_DB if exact else pictures(trials.build(modes)), 0)

    best, tried = plan(0), 1
    if best.rollout_db >= budget_db:
        return best, tried
    low, high = 0, len(ranked)
    best = plan(high)
    while high - low > 1:
        middle = (low + high) // 2
        candidate = plan(middle)
        tried += 1
        if candidate.rollout_db >= budget_db:
            high, best = middle, candidate
        else:
            low = middle
    return best, tried + 1


def _outputs(graph: Graph, runtime: Runtime, samples: Sequence[Arrays]) -> list[Sequence[NDArray[Any]]]:
    run = open_graph(graph, runtime)
    return [run(sample) for sample in samples]
