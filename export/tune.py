"""Which stages of a bundle may be computed in fewer bits: tried on roll-outs, kept when near enough and faster."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from engine.backends.base import Backend
from engine.backends.openvino import open_backend
from engine.backends.staged import BF16_KEY, INT8_KEY
from engine.bundle import Bundle, read_bundle
from engine.errors import BundleCorruptError
from export.manifest import write_manifest
from export.operators import drop_unused_domains
from export.parity import FLOAT_DB, INT8_DB, Parity, Streamed, compare_streams, roll_out
from export.quantize.calibrate import Recorder, calibrated
from export.quantize.qdq import Scheme
from export.quantize.running import read_stage
from export.quantize.takes import play, variety
from export.scenes import Scene

INT8_STAGES = {"denoise": Scheme(weights_only=True), "decode": Scheme()}
"""Stages that are tried in 8 bits, and how. The denoiser reads many weights for few tokens, so that weights alone save
as much time as weights and activations do, and they lose less (docs/lab-notes.md)."""
_CLEARLY = 0.85
_THREADS = 1
"""Threads that wait for each other use processor time too, and would blur the comparison."""

Way = tuple[str, tuple[str, ...], tuple[str, ...]]
"""A name, the stages in bfloat16, the stages in 8 bits."""
_FLOAT_WAYS: tuple[Way, ...] = (
    ("float32", (), ()),
    ("bf16 denoise", ("denoise",), ()),
    ("bf16 decode", ("decode",), ()),
    ("bf16", ("denoise", "decode"), ()),
)
_INT8_WAYS: tuple[Way, ...] = (
    ("int8 decode", (), ("decode",)),
    ("int8 denoise", (), ("denoise",)),
    ("int8", (), ("denoise", "decode")),
    ("int8 denoise, bf16 decode", ("decode",), ("denoise",)),
    ("int8 decode, bf16 denoise", ("denoise",), ("decode",)),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to compute a bundle, and how it fared in its worst scene."""

    name: str
    bf16_stages: tuple[str, ...]
    int8_stages: tuple[str, ...]
    worst_db: float
    denoise_ms_per_frame: float
    decode_ms_per_frame: float

    @property
    def ms_per_frame(self) -> float:
        return self.denoise_ms_per_frame + self.decode_ms_per_frame

    def ms(self, stage: str) -> float:
        """Of a stage, per frame."""
        return self.denoise_ms_per_frame if stage == "denoise" else self.decode_ms_per_frame

    @property
    def passes(self) -> bool:
        return self.worst_db >= (INT8_DB if self.int8_stages else FLOAT_DB)


def tune(bundle: Bundle, truth: Backend, scenes: Sequence[Scene], int8: bool) -> list[Trial]:
    """Try bfloat16 by stage, and 8 bits if told to; rewrite the manifest with the best.

    truth: the torch model. Raises BundleCorruptError when not even float32 comes near it.
    """
    expected = [list(roll_out(truth, scene)) for scene in scenes]
    ways = _FLOAT_WAYS
    if int8:
        bundle, ways = _add_int8(bundle, scenes), _FLOAT_WAYS + _INT8_WAYS
    trials = [_try(bundle, way, scenes, expected) for way in ways]
    if not trials[0].passes:
        raise BundleCorruptError(
            f"{bundle.root} in float32 is only within {trials[0].worst_db:.1f} dB of torch, less than {FLOAT_DB}"
        )
    _write(bundle, *settle(trials), trials)
    return trials


def settle(trials: Sequence[Trial]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Stages for bfloat16, and stages whose 8-bit graphs are kept.

    Those are kept that beat float32 in their own stage, for processors and libraries without bfloat16; where there is
    bfloat16, it goes first unless 8 bits are clearly the quickest.
    """
    passing = [trial for trial in trials if trial.passes]
    plain = next(trial for trial in trials if not trial.int8_stages and not trial.bf16_stages)
    floating = min((t for t in passing if not t.int8_stages), key=lambda t: t.ms_per_frame)
    quantised = [t for t in passing if t.int8_stages and all(t.ms(s) < plain.ms(s) for s in t.int8_stages)]
    if not quantised:
        return floating.bf16_stages, ()
    best = min(quantised, key=lambda t: t.ms_per_frame)
    if best.ms_per_frame < _CLEARLY * floating.ms_per_frame:
        return best.bf16_stages, best.int8_stages
    # The most stages in 8 bits that were near enough together, for those who have nothing else.
    kept = max((t for t in quantised if not t.bf16_stages), key=lambda t: len(t.int8_stages), default=best)
    return floating.bf16_stages, kept.int8_stages


def quantise_again(bundle: Bundle, stages: Collection[str], scene: Scene) -> Bundle:
    """A bundle whose weights are new, with 8-bit graphs of the stages that used to have one, calibrated on the scene;
    as it is when their pictures are not near enough to those in float32.
    """
    wanted = tuple(stage for stage in INT8_STAGES if stage in stages)
    if not wanted:
        return bundle
    made = _add_int8(bundle, [scene], wanted)
    exact, rounded = (_streamed(variant(made, (), int8), scene) for int8 in ((), wanted))
    near = compare_streams(exact, rounded).worst_db >= INT8_DB
    _write(made, tuple(made.manifest.get(BF16_KEY, ())), wanted if near else (), ())
    return read_bundle(bundle.root)


def variant(bundle: Bundle, bf16_stages: tuple[str, ...], int8_stages: tuple[str, ...] = ()) -> Bundle:
    """The same files computed in another way."""
    changes: dict[str, Any] = {BF16_KEY: list(bf16_stages), INT8_KEY: list(int8_stages)}
    return replace(bundle, manifest={**bundle.manifest, **changes})


def int8_file(stage: str) -> str:
    return f"{stage}.int8.onnx"


def _add_int8(bundle: Bundle, scenes: Sequence[Scene], stages: Collection[str] = tuple(INT8_STAGES)) -> Bundle:
    """With 8-bit graphs, calibrated on roll-outs in float32 that ask for everything."""
    recorder = Recorder(open_backend(variant(bundle, ()), _THREADS))
    for scene in scenes:
        for _ in play(recorder, variety(scene, bundle.config)):
            pass
    for stage in stages:
        graph = calibrated(read_stage(bundle, stage), recorder.calls[stage], INT8_STAGES[stage])
        drop_unused_domains(graph.model)
        onnx.save(graph.model, bundle.root / int8_file(stage))
    recorder.close()
    write_manifest(bundle.root, bundle.manifest)
    return read_bundle(bundle.root)


def _try(bundle: Bundle, way: Way, scenes: Sequence[Scene], expected: Sequence[list[Streamed]]) -> Trial:
    name, bf16_stages, int8_stages = way
    backend = open_backend(variant(bundle, bf16_stages, int8_stages), _THREADS)
    results: list[Parity] = [
        compare_streams(stream, list(roll_out(backend, scene))) for scene, stream in zip(scenes, expected, strict=True)
    ]
    backend.close()
    return Trial(
        name, bf16_stages, int8_stages, min(r.worst_db for r in results),
        min(r.denoise_ms_per_frame for r in results), min(r.decode_ms_per_frame for r in results),
    )  # fmt: skip


def _streamed(bundle: Bundle, scene: Scene) -> list[Streamed]:
    backend = open_backend(bundle, _THREADS)
    try:
        return list(roll_out(backend, scene))
    finally:
        backend.close()


def _write(bundle: Bundle, bf16_stages: tuple[str, ...], int8_stages: tuple[str, ...], trials: Sequence[Trial]) -> None:
    for stage in set(INT8_STAGES) - set(int8_stages):
        (bundle.root / int8_file(stage)).unlink(missing_ok=True)
    manifest = dict(variant(bundle, bf16_stages, int8_stages).manifest)
    manifest["metrics"] = {
        **manifest["metrics"],
        **{f"parity of {t.name} with torch, dB": round(t.worst_db, 1) for t in trials if t.passes},
    }
    write_manifest(bundle.root, manifest)
