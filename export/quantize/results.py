"""What is asked of a quantisation, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.backends.staged import STAGES
from engine.bundle import Bundle
from export.quantize.layers import Graph
from export.quantize.qdq import Scheme
from export.quantize.sensitivity import LayerReport, Plan
from export.scenes import Scene

GPU_KEY = "gpu_graphs"
"""Key of the manifest: by stage, the file with its quantised graph for GPUs."""
QUANTISED = (".int8.onnx", ".gpu.onnx")
"""How the names of quantised graphs end."""


def gpu_file(bundle: Bundle, stage: str) -> str:
    """The file of the graph that a GPU's library should read: the quantised one if there is one."""
    return str(bundle.manifest.get(GPU_KEY, {}).get(stage, f"{stage}.onnx"))


@dataclass(frozen=True, slots=True)
class Request:
    """scenes: the first is measured on and never calibrated on, unless it is the only one. budget_db: PSNR of the
    pictures that the roll-out of the measured scene must keep, in its worst block, all stages together.
    """

    scheme: Scheme
    scenes: Sequence[Scene]
    budget_db: float = 34.0
    stages: Sequence[str] = STAGES
    tried_blocks: int = 4


@dataclass(frozen=True, slots=True)
class StageResult:
    """ms: of one call, by runtime and by how the stage is computed. kept: whether the bundle uses it."""

    stage: str
    layers: Sequence[LayerReport]
    plan: Plan
    graph: Graph
    ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """bundle: what was written. rollout_db: of all stages whose plans keep their budgets, together."""

    bundle: Bundle
    request: Request
    stages: Sequence[StageResult]
    rollout_db: float

    @property
    def passes(self) -> bool:
        return self.rollout_db >= self.request.budget_db
