"""Checkpoint to model bundle: graphs, manifest and model card, written aside and moved into place when complete."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors import SafetensorError

from engine.backends.artefacts import Origin
from engine.backends.base import Sampling
from engine.backends.staged import ALIGNER, ONNX_LIBRARY, STAGES, WEIGHTS
from engine.backends.torch import CHECKPOINT, TorchBackend
from engine.bundle import Bundle, read_bundle, sha256_of
from engine.errors import ArgumentError, BundleCorruptError, FileMissingError, UnreadableFileError
from engine.model.avatar import AvatarModel, load_model
from export.card import model_card
from export.manifest import CARD, make_manifest, replace_folder, write_manifest
from export.onnx import OPSET, share_weights, to_onnx
from export.operators import check_standard
from export.scenes import Scene
from export.stages import stages
from export.tune import Trial, tune


@dataclass(frozen=True, slots=True)
class Choices:
    """What an export may be told. half: weights in float16. int8: try stages in 8 bits.

    scenes: what precisions are tried on; without any, everything is computed in float32 and nothing is measured.
    """

    name: str
    sampling: Sampling = Sampling()
    aligner: Path | None = None
    half: bool = True
    int8: bool = False
    keep_checkpoint: bool = False
    scenes: Sequence[Scene] = ()


@dataclass(frozen=True, slots=True)
class Exported:
    """A written bundle, and how the ways to compute it fared."""

    bundle: Bundle
    trials: Sequence[Trial]

    @property
    def bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.bundle.manifest["files"].values())


def export_bundle(checkpoint: Path, out: Path, choices: Choices) -> Exported:
    """Write a checkpoint as a bundle folder, replacing one that is there; verified before it takes its place.

    Raises FileMissingError for an absent checkpoint or aligner, ArgumentError for a model with attention tiles,
    BundleCorruptError if what was written is not sound or
    does not compute what the checkpoint does.
    """
    for path in (checkpoint, choices.aligner):
        if path is not None and not path.is_file():
            raise FileMissingError(f"there is no file {path}")
    model, meta = _load(checkpoint)
    if any(model.config.tiles):
        raise ArgumentError(
            f"{checkpoint} leaves attention tiles out, which no graph can; at run time a block sees too few frames for "
            "that to save anything, so export the student of the run's folder `dense`"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        _write_graphs(model, folder, choices.half)
        manifest = make_manifest(model, choices.name, choices.sampling, meta, _origin(checkpoint, choices.half))
        if choices.aligner is not None:
            _add_aligner(choices.aligner, folder)
            manifest["aligner_px"] = _input_px(folder / f"{ALIGNER}.onnx")
        if choices.keep_checkpoint:
            shutil.copyfile(checkpoint, folder / CHECKPOINT)
        write_manifest(folder, manifest)
        trials = _try_precisions(model, read_bundle(folder), choices)
        manifest = dict(read_bundle(folder).manifest)
        (folder / CARD).write_text(model_card(manifest), encoding="utf-8")
        write_manifest(folder, manifest)
        verify(read_bundle(folder))
        replace_folder(folder, out)
    return Exported(read_bundle(out), trials)


def _origin(checkpoint: Path, half: bool) -> Origin:
    return Origin(
        library=ONNX_LIBRARY,
        library_version=onnx.__version__,
        precisions={"weights": "float16" if half else "float32", "inputs and outputs": "float32"},
        sources={checkpoint.name: sha256_of(checkpoint)},
        settings={"opset": OPSET, "traced by": f"torch {torch.__version__}"},
    )


def _load(checkpoint: Path) -> tuple[AvatarModel, dict[str, Any]]:
    try:
        return load_model(checkpoint)
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(f"{checkpoint} is no checkpoint that this version can load: {error}") from error


def _try_precisions(model: AvatarModel, bundle: Bundle, choices: Choices) -> list[Trial]:
    if not choices.scenes:
        return []
    return tune(bundle, TorchBackend(model, choices.sampling), choices.scenes, choices.int8)


def verify(bundle: Bundle) -> None:
    """Check every file's hash and every graph's soundness. Raises BundleCorruptError."""
    for name in bundle.files:
        path = bundle.file(name)
        if path.suffix == ".onnx":
            try:
                onnx.checker.check_model(str(path))
                check_standard(onnx.load(path, load_external_data=False), str(path))
            except (onnx.checker.ValidationError, ValueError) as error:
                raise BundleCorruptError(f"{path} is not a valid graph: {error}") from error
    if missing := {f"{stage}.onnx" for stage in STAGES} - set(bundle.files):
        raise BundleCorruptError(f"model bundle {bundle.root} lacks {', '.join(sorted(missing))}; export it again")


def _write_graphs(model: AvatarModel, folder: Path, half: bool) -> None:
    graphs = {stage.name: to_onnx(stage, half) for stage in stages(model)}
    (folder / WEIGHTS).write_bytes(share_weights(graphs))
    for name, graph in graphs.items():
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())


def _add_aligner(source: Path, folder: Path) -> None:
    target = folder / f"{ALIGNER}.onnx"
    if source.suffix == ".safetensors":
        from engine.model.face_reader import export_aligner, load_reader

        export_aligner(load_reader(source)[0], target)
    else:
        shutil.copyfile(source, target)


def _input_px(graph: Path) -> int:
    shape = onnx.load(graph, load_external_data=False).graph.input[0].type.tensor_type.shape
    return int(shape.dim[-1].dim_value)
