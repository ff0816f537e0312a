"""A bundle's graphs to TensorRT engines, one for each stage, in a folder that says what they are."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from engine.backends.artefacts import Artefact, graph_hashes, read_artefact, write_artefact
from engine.backends.gpu.build import Plan, Say, build_into, usual_targets
from engine.backends.gpu.device import open_device
from engine.backends.gpu.library import Library
from engine.backends.gpu.origin import origin_of
from engine.backends.staged import ALIGNER, STAGES, WEIGHTS
from engine.bundle import Bundle
from engine.errors import ArgumentError, BundleCorruptError
from export.manifest import replace_folder
from export.quantize.results import gpu_file
from export.tensorrt.compose import with_composition
from export.tensorrt.extents import WINDOWS, ranges
from export.tensorrt.typed import PRECISIONS, typed


def export_engines(
    bundle: Bundle, library: Library, out: Path, precision: str, targets: Sequence[str], say: Say
) -> Artefact:
    """Write an artefact for a bundle: each stage's typed graph and its engine. A folder that is there is replaced.

    precision: fp32, fp16 or bf16. targets: compute capabilities such as "sm_86", none for all that TensorRT-RTX has
    from Ampere on; `tensorrt` builds for the GPU that is here and takes none. Raises BundleCorruptError, ArgumentError,
    BackendUnavailableError or EngineBuildError.
    """
    if precision not in PRECISIONS:
        raise ArgumentError(f"there is no precision {precision}; choose one of {', '.join(PRECISIONS)}")
    targets = _targets(library, targets)
    say("typing graphs")
    graphs = {stage: graph.SerializeToString() for stage, graph in typed_graphs(bundle, precision).items()}
    plan = Plan(precision, ranges(bundle.config, bundle.sampling), targets)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        build_into(folder, library, graphs, plan, say)
        write_artefact(folder, origin_of(library, plan, graph_hashes(bundle), tuple(graphs)))
        replace_folder(folder, out)
    return read_artefact(out)


def _targets(library: Library, wanted: Sequence[str]) -> tuple[str, ...]:
    if library.compiles_on_device:
        return tuple(wanted) or usual_targets(library)
    if wanted:
        raise ArgumentError(f"{library.name} builds for the GPU that is here; only tensorrt_rtx takes targets")
    return (open_device().architecture,)


def typed_graphs(bundle: Bundle, precision: str) -> dict[str, onnx.ModelProto]:
    """Each stage's graph in that precision, with the composition of pictures in the decoder's. What a quantised graph
    for GPUs has in 8 bits stays so.
    """
    names = [*STAGES, *([ALIGNER] if f"{ALIGNER}.onnx" in bundle.files else [])]
    return {name: typed(_load(bundle, name), precision) for name in names}


def _load(bundle: Bundle, stage: str) -> onnx.ModelProto:
    path = bundle.file(gpu_file(bundle, stage))
    bundle.file(WEIGHTS)
    try:
        graph = onnx.load(path)
    except (OSError, ValueError) as error:
        raise BundleCorruptError(f"{path} cannot be read ({error}); copy or export the bundle again") from error
    if stage == "decode":
        return with_composition(graph)
    if stage == "audio":
        # Windows come from many sessions at once, so this axis is longer than a block.
        graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param = WINDOWS
        graph.graph.output[0].type.tensor_type.shape.dim[0].dim_param = WINDOWS
        del graph.graph.value_info[:]
    return graph
