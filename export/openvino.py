"""A bundle's graphs in OpenVINO's own format: as a bundle that its runtime, of any language, opens without ONNX.

They compute the same with the same weights; the manifest says which graphs they were made of, and by what.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import openvino as ov

from engine.backends.artefacts import ORIGIN_KEY, Origin, created_by, graph_hashes
from engine.backends.openvino import IR, LIBRARY, open_backend
from engine.backends.staged import ONNX, made_for
from engine.bundle import SPEECH, Bundle, read_bundle
from engine.errors import ArgumentError, BundleCorruptError
from export.manifest import CARD, replace_folder, write_manifest
from export.parity import FLOAT_DB, Parity, compare
from export.scenes import block_lengths, make_scenes

_BLOCKS, _SIDE_PX = 3, 128


def export_openvino(bundle: Bundle, out: Path, threads: int | None = None) -> tuple[Bundle, Parity]:
    """Write the bundle to the folder `out`, replacing one that is there, and compare the two.

    Raises ArgumentError for a bundle that is no longer ONNX, BundleCorruptError for one that is not sound or when
    the results differ.
    """
    if library := made_for(bundle):
        raise ArgumentError(f"model {bundle.name} was already exported for {library}; name the bundle it was made of")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        _write(bundle, folder)
        made = read_bundle(folder)
        parity = _compare(bundle, made, threads)
        replace_folder(folder, out)
    return read_bundle(out), parity


def _write(bundle: Bundle, folder: Path) -> None:
    core = ov.Core()
    for name in bundle.files:
        path = bundle.file(name)
        if name.endswith(ONNX):
            # Large weights are float16 in the graphs already; the small ones stay exact.
            ov.save_model(core.read_model(path), folder / f"{name.removesuffix(ONNX)}{IR}", compress_to_fp16=False)
        elif name in (CARD, SPEECH):
            shutil.copyfile(path, folder / name)
    origin = Origin(
        library=LIBRARY,
        library_version=ov.__version__,
        precisions=bundle.manifest.get("precisions", {}),
        sources=graph_hashes(bundle),
    )
    write_manifest(folder, {**bundle.manifest, "made_by": created_by(), ORIGIN_KEY: origin.to_dict()})


def _compare(bundle: Bundle, made: Bundle, threads: int | None) -> Parity:
    scene = make_scenes([], None, block_lengths(bundle.sampling, _BLOCKS), _SIDE_PX)[0]
    before, after = open_backend(bundle, threads), open_backend(made, threads)
    parity = compare(before, after, scene)
    before.close()
    after.close()
    if parity.worst_db < FLOAT_DB:
        raise BundleCorruptError(
            f"{LIBRARY}'s own format of model {bundle.name} is only within {parity.worst_db:.1f} dB of it;"
            f" use the bundle itself, and report this with OpenVINO {ov.__version__}"
        )
    return parity
