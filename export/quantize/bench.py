"""Where quantised stages are judged: the float bundle, what its stages were given, and the pictures it made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.backends.staged import STAGES, StagedBackend
from engine.backends.staged import Graph as Running
from engine.bundle import Bundle
from export.parity import psnr_db
from export.quantize.calibrate import Recorder, ranges
from export.quantize.layers import Graph, find_layers
from export.quantize.qdq import Scheme
from export.quantize.results import Request
from export.quantize.running import Arrays, open_graph, read_stage, runtimes
from export.quantize.sensitivity import Trials
from export.quantize.takes import Take, play, speech, variety


@dataclass(frozen=True, slots=True)
class Bench:
    """The float bundle, opened; what its stages were given; and the pictures of the measured take."""

    bundle: Bundle
    running: Mapping[str, Running]
    calls: Mapping[str, Sequence[Arrays]]
    take: Take
    pictures: Sequence[NDArray[np.uint8]]

    @staticmethod
    def open(bundle: Bundle, request: Request) -> Bench:
        graphs = {stage: read_stage(bundle, stage) for stage in STAGES}
        running = {stage: open_graph(graph, runtimes()[0]) for stage, graph in graphs.items()}
        recorder = Recorder(StagedBackend("float", bundle, running))
        for scene in list(request.scenes[1:]) or request.scenes:
            for _ in play(recorder, variety(scene, bundle.config)):
                pass
        first = request.scenes[0]
        frames = sum(first.blocks[: request.tried_blocks])
        short = replace(first, blocks=first.blocks[: request.tried_blocks], windows=first.windows[:frames])
        take = speech(short, bundle.config)
        pictures = list(play(StagedBackend("float", bundle, running), take))
        return Bench(bundle, running, recorder.calls, take, pictures)

    def trials(self, stage: str, scheme: Scheme) -> Trials:
        graph = read_stage(self.bundle, stage)
        layers = [layer for layer in find_layers(graph) if scheme.takes(layer)]
        tensors = {name for layer in layers for name in scheme.tensors(layer)}
        seen = ranges(graph, tensors, self.calls[stage]) if tensors else {}
        return Trials(graph, layers, scheme, seen, self.calls[stage])

    def judge(self, stage: str) -> Callable[[Graph], float]:
        return lambda graph: self.rollout_db({stage: graph})

    def rollout_db(self, graphs: Mapping[str, Graph]) -> float:
        """PSNR of the worst block with these graphs in place of the float ones."""
        changed = {stage: open_graph(graph, "onnxruntime") for stage, graph in graphs.items()}
        backend = StagedBackend("8-bit", self.bundle, {**self.running, **changed})
        return min(psnr_db(a, b) for a, b in zip(self.pictures, play(backend, self.take), strict=True))
