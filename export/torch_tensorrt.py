"""A checkpoint's stages compiled by Torch-TensorRT, as programs that torch loads, for users who live inside torch.

torch traces each stage, Torch-TensorRT makes engines of what it can and leaves the rest to torch, and the whole is
saved as an exported program: `torch_tensorrt.load(FILE).module()` takes a stage's inputs in the order of export.stages.
It needs a GPU, unlike export.tensorrt with TensorRT-RTX.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.backends.artefacts import Artefact, Origin, read_artefact, write_artefact
from engine.backends.base import Sampling
from engine.backends.gpu.build import Range
from engine.backends.torch import TORCH_TENSORRT, need_torch_tensorrt
from engine.bundle import sha256_of
from engine.errors import BackendUnavailableError, EngineBuildError
from engine.model.avatar import load_model
from export.manifest import replace_folder
from export.stages import Stage, stages
from export.tensorrt.extents import WINDOWS, ranges

PRECISIONS: Mapping[str, torch.dtype | None] = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
ENDING = ".ep"

_SMALLEST_PART = 5
"""Fewer operators in a row than this are not worth an engine of their own."""


def export_programs(
    checkpoint: Path, sampling: Sampling, out: Path, precision: str, say: Callable[[str], None]
) -> Artefact:
    """Write an artefact with `STAGE.ep` for each stage, replacing a folder that is there.

    precision: fp32, fp16 or bf16, of what Torch-TensorRT's autocast deems safe. Raises BackendUnavailableError without
    Torch-TensorRT or a GPU, and EngineBuildError.
    """
    library = need_torch_tensorrt()
    if not torch.cuda.is_available():
        raise BackendUnavailableError(
            f"torch {torch.__version__} finds no NVIDIA GPU, which Torch-TensorRT needs to build; without one use "
            "visavis export tensorrt --library tensorrt_rtx"
        )
    model = load_model(checkpoint)[0]
    extents = ranges(model.config, sampling)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        parts = stages(model)
        for number, stage in enumerate(parts, 1):
            say(f"building program {number} of {len(parts)}: {stage.name}, Torch-TensorRT {library.__version__}")
            compile_stage(library, stage, extents, precision, folder / f"{stage.name}{ENDING}")
        write_artefact(folder, _origin(library, checkpoint, precision, [stage.name for stage in parts]))
        replace_folder(folder, out)
    return read_artefact(out)


def compile_stage(
    library: Any, stage: Stage, extents: Mapping[str, Range], precision: str, path: Path, device: str = "cuda"
) -> None:
    """One stage to a file. library: torch_tensorrt. Raises EngineBuildError with what it says."""
    examples = tuple(_example(tensor, stage.dynamic.get(key, {})).to(device) for key, tensor in stage.inputs.items())
    shapes = dynamic_shapes(stage, extents)
    low = PRECISIONS[precision]
    options = {} if low is None else {"enable_autocast": True, "autocast_low_precision_type": low}
    try:
        program = torch.export.export(stage.module.to(device).eval(), examples, dynamic_shapes=shapes, strict=False)
        compiled = library.dynamo.compile(
            program, inputs=input_ranges(library, stage, extents), min_block_size=_SMALLEST_PART, **options
        )
        library.save(
            compiled, str(path), output_format="exported_program", arg_inputs=list(examples), dynamic_shapes=shapes,
            retrace=True,
        )  # fmt: skip
    except Exception as error:  # Those of torch.export and of converters share no base class.
        raise EngineBuildError(f"Torch-TensorRT cannot compile the {stage.name} stage: {error}") from error


def _example(tensor: torch.Tensor, axes: Mapping[int, str]) -> torch.Tensor:
    """torch.export takes an extent of 1 for one that never varies."""
    doubled = [2 if axis in axes and size == 1 else 1 for axis, size in enumerate(tensor.shape)]
    return tensor.repeat(doubled)


def dynamic_shapes(stage: Stage, extents: Mapping[str, Range]) -> tuple[dict[int, Any] | None, ...]:
    """What torch.export wants to know of each input's varying axes; equal names vary together."""
    names = {axis for axes in stage.dynamic.values() for axis in axes.values()}
    dims = {name: torch.export.Dim(name, min=1, max=_extent(stage, name, extents)[2]) for name in names}
    return tuple(
        {axis: dims[name] for axis, name in stage.dynamic.get(key, {}).items()} or None for key in stage.inputs
    )


def input_ranges(library: Any, stage: Stage, extents: Mapping[str, Range]) -> list[Any]:
    """Each input's least, usual and largest shape, as torch_tensorrt.Input."""
    found = []
    for key, tensor in stage.inputs.items():
        axes = stage.dynamic.get(key, {})
        least, usual, most = (
            tuple(
                _extent(stage, axes[axis], extents)[which] if axis in axes else size
                for axis, size in enumerate(tensor.shape)
            )
            for which in range(3)
        )
        found.append(library.Input(min_shape=least, opt_shape=usual, max_shape=most, dtype=tensor.dtype))
    return found


def _extent(stage: Stage, name: str, extents: Mapping[str, Range]) -> Range:
    return extents[WINDOWS if stage.name == "audio" else name]


def _origin(library: Any, checkpoint: Path, precision: str, names: list[str]) -> Origin:
    major, minor = torch.cuda.get_device_capability()
    return Origin(
        library=TORCH_TENSORRT,
        library_version=str(library.__version__),
        device=f"sm_{major}{minor}",
        driver=f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}",
        precisions=dict.fromkeys(names, precision),
        sources={checkpoint.name: sha256_of(checkpoint)},
        settings={"torch": torch.__version__},
    )
