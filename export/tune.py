"""Which stages of a bundle may be computed in fewer bits: tried on roll-outs, kept when near enough and faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import onnx

from engine.backends.base import Backend, Floats, Reference
from engine.backends.openvino import open_backend
from engine.backends.staged import BF16_KEY, INT8_KEY
from engine.bundle import Bundle, read_bundle
from engine.errors import BundleCorruptError
from export.manifest import write_manifest
from export.operators import drop_unused_domains
from export.parity import FLOAT_DB, INT8_DB, Parity, Streamed, compare_streams, roll_out
from export.quantize import decode_samples, quantize_decode
from export.scenes import Scene

INT8_FILE = "decode.int8.onnx"
_CLEARLY = 0.85
_THREADS = 1
"""Threads that wait for each other use processor time too, and would blur the comparison."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to compute a bundle, and how it fared in its worst scene."""

    name: str
    bf16_stages: tuple[str, ...]
    int8: bool
    worst_db: float
    denoise_ms_per_frame: float
    decode_ms_per_frame: float

    @property
    def ms_per_frame(self) -> float:
        return self.denoise_ms_per_frame + self.decode_ms_per_frame

    @property
    def passes(self) -> bool:
        return self.worst_db >= (INT8_DB if self.int8 else FLOAT_DB)


def tune(bundle: Bundle, truth: Backend, scenes: Sequence[Scene], decode_graph: onnx.ModelProto | None) -> list[Trial]:
    """Try bfloat16 by stage, and 8 bits when the float32 decode graph is given; rewrite the manifest with the best.

    truth: the torch model. Raises BundleCorruptError when not even float32 comes near it.
    """
    expected = [list(roll_out(truth, scene)) for scene in scenes]
    ways: list[tuple[str, tuple[str, ...], bool]] = [
        ("float32", (), False),
        ("bf16 denoise", ("denoise",), False),
        ("bf16 decode", ("decode",), False),
        ("bf16", ("denoise", "decode"), False),
    ]
    if decode_graph is not None:
        graph = quantize_decode(decode_graph, decode_samples(_rolls(truth, scenes, expected)))
        drop_unused_domains(graph)
        (bundle.root / INT8_FILE).write_bytes(graph.SerializeToString())
        write_manifest(bundle.root, bundle.manifest)
        bundle = read_bundle(bundle.root)
        ways += [("int8 decode", (), True), ("int8 decode, bf16 denoise", ("denoise",), True)]
    trials = [_try(bundle, way, scenes, expected) for way in ways]
    if not trials[0].passes:
        raise BundleCorruptError(
            f"{bundle.root} in float32 is only within {trials[0].worst_db:.1f} dB of torch, less than {FLOAT_DB}"
        )
    bf16_stages, int8 = settle(trials)
    _write(bundle, bf16_stages, int8, trials)
    return trials


def settle(trials: Sequence[Trial]) -> tuple[tuple[str, ...], bool]:
    """Stages for bfloat16, and whether to keep the quantised decoder.

    It is kept when it beats float32, for processors without bfloat16; the others use it too when it is clearly the
    quickest there is.
    """
    passing = [trial for trial in trials if trial.passes]
    plain = next(trial for trial in trials if not trial.int8 and not trial.bf16_stages)
    floating = min((t for t in passing if not t.int8), key=lambda t: t.ms_per_frame)
    quantised = min((t for t in passing if t.int8), key=lambda t: t.ms_per_frame, default=None)
    if quantised is None or quantised.decode_ms_per_frame >= plain.decode_ms_per_frame:
        return floating.bf16_stages, False
    if quantised.ms_per_frame < _CLEARLY * floating.ms_per_frame:
        return quantised.bf16_stages, True
    return floating.bf16_stages, True


def variant(bundle: Bundle, bf16_stages: tuple[str, ...], int8: bool) -> Bundle:
    """The same files computed in another way."""
    changes: dict[str, Any] = {BF16_KEY: list(bf16_stages), INT8_KEY: ["decode"] if int8 else []}
    return replace(bundle, manifest={**bundle.manifest, **changes})


def _rolls(
    truth: Backend, scenes: Sequence[Scene], expected: Sequence[list[Streamed]]
) -> list[tuple[Floats, Reference]]:
    return [
        (block.latents, truth.encode_reference(scene.small))
        for scene, stream in zip(scenes, expected, strict=True)
        for block in islice(stream, 0, None, 2)
    ]


def _try(
    bundle: Bundle, way: tuple[str, tuple[str, ...], bool], scenes: Sequence[Scene],
    expected: Sequence[list[Streamed]],
) -> Trial:  # fmt: skip
    name, bf16_stages, int8 = way
    backend = open_backend(variant(bundle, bf16_stages, int8), _THREADS)
    results: list[Parity] = [
        compare_streams(stream, list(roll_out(backend, scene))) for scene, stream in zip(scenes, expected, strict=True)
    ]
    backend.close()
    return Trial(
        name, bf16_stages, int8, min(r.worst_db for r in results),
        min(r.denoise_ms_per_frame for r in results), min(r.decode_ms_per_frame for r in results),
    )  # fmt: skip


def _write(bundle: Bundle, bf16_stages: tuple[str, ...], int8: bool, trials: Sequence[Trial]) -> None:
    if not int8:
        (bundle.root / INT8_FILE).unlink(missing_ok=True)
    manifest = dict(variant(bundle, bf16_stages, int8).manifest)
    manifest["metrics"] = {
        **manifest["metrics"],
        **{f"parity of {t.name} with torch, dB": round(t.worst_db, 1) for t in trials if t.passes},
    }
    write_manifest(bundle.root, manifest)
