"""A bundle to one with stages in 8 bits: calibrate, examine, spare what a budget needs, prove, write."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from engine.backends.staged import INT8_KEY, STAGES
from engine.bundle import Bundle, read_bundle
from export.bundle import replace_folder
from export.manifest import write_manifest
from export.quantize.bench import Bench
from export.quantize.qdq import Scheme
from export.quantize.report import to_dict, to_markdown
from export.quantize.results import GPU_KEY, Request, Result, StageResult
from export.quantize.running import runtimes
from export.quantize.sensitivity import MOST_DB, LayerReport, Mode, Plan, Trials, examine, spare
from export.quantize.speed import times_ms

REPORT_JSON, REPORT_TABLE = "quantization.json", "QUANTIZATION.md"
Tell = Callable[[str], None]
_MARGINS_DB = (0.0, 3.0, 6.0)
"""Tried in turn when stages that keep their own budgets miss the common one together."""
_CLEARLY = 0.95
"""A stage in 8 bits is kept for CPUs if it takes at most this share of the time somewhere."""
_AS_QUICK = 1.03
"""Times that differ by less are the same."""


def quantise_bundle(bundle: Bundle, out: Path, request: Request, tell: Tell = lambda text: None) -> Result:
    """Write the bundle with quantised graphs beside its float ones, replacing a folder that is there.

    Raises BundleCorruptError for a bundle that lacks a stage.
    """
    tell("rolling out")
    bench = Bench.open(bundle, request)
    trials = {stage: bench.trials(stage, request.scheme) for stage in request.stages}
    trials = {stage: trial for stage, trial in trials.items() if trial.layers}
    reports = {}
    for stage, trial in trials.items():
        reports[stage] = examine(trial, bench.judge(stage), lambda text, s=stage: tell(f"{s}: {text}"))
    results, together = _settle(bench, trials, reports, request, tell)
    if request.scheme.target == "cpu":
        results = [_timed(bench, trials[result.stage], result) for result in results]
        together = bench.rollout_db({result.stage: result.graph for result in results if result.kept})
    made = Result(bundle, request, results, together)
    _write(made, out)
    return replace(made, bundle=read_bundle(out))


def _settle(
    bench: Bench, trials: Mapping[str, Trials], reports: Mapping[str, list[LayerReport]], request: Request, tell: Tell
) -> tuple[list[StageResult], float]:
    """Plans of all stages that keep the budget together. Noise of independent stages adds, so each gets its share."""
    share_db = 10 * float(np.log10(max(1, len(trials))))
    results: list[StageResult] = []
    together = MOST_DB
    for margin_db in _MARGINS_DB:
        results = []
        for stage, trial in trials.items():
            tell(f"{stage}: choosing")
            budget_db = request.budget_db + share_db + margin_db
            plan = spare(trial, reports[stage], bench.judge(stage), budget_db)
            if plan.rollout_db >= budget_db and plan.count("float") < len(plan.modes):
                results.append(StageResult(stage, reports[stage], plan, trial.build(plan.modes)))
            else:
                results.append(StageResult(stage, reports[stage], plan, trial.graph, kept=False))
        together = bench.rollout_db({r.stage: r.graph for r in results if r.kept})
        if together >= request.budget_db:
            break
    return results, together


def _timed(bench: Bench, trials: Trials, result: StageResult) -> StageResult:
    """With its times; where rounding activations saves no time on the first runtime, it is not done."""
    ms = _times(trials, result)
    here = ms[runtimes()[0]]
    if result.kept and result.plan.count("8-bit") and here["weights"] <= _AS_QUICK * here["chosen"]:
        modes: dict[str, Mode] = dict.fromkeys(result.plan.modes, "weights")
        graph = trials.build(modes)
        plan = Plan(modes, bench.rollout_db({result.stage: graph}), result.plan.tried + 1)
        result = replace(result, plan=plan, graph=graph)
        ms = {runtime: {**ways, "chosen": ways["weights"]} for runtime, ways in ms.items()}
    return replace(result, ms=ms, kept=result.kept and _is_quicker(ms))


def _times(trials: Trials, result: StageResult) -> dict[str, dict[str, float]]:
    longest = sorted(trials.samples, key=lambda sample: max(len(v.ravel()) for v in sample.values()))[-1:]
    ways = {
        "float32": trials.graph, "bf16": trials.graph, "chosen": result.graph,
        "8-bit": trials.build({}), "weights": trials.build(dict.fromkeys((x.node for x in trials.layers), "weights")),
    }  # fmt: skip
    ms = {}
    for runtime in runtimes():
        known = {k: g for k, g in ways.items() if k != "bf16" or runtime == "openvino"}
        ms[runtime] = times_ms(known, longest, runtime, bf16=("bf16",))
    return ms


def _is_quicker(ms: Mapping[str, Mapping[str, float]]) -> bool:
    return any(ways["chosen"] < _CLEARLY * ways["float32"] for ways in ms.values())


def _write(result: Result, out: Path) -> None:
    bundle, scheme = result.bundle, result.request.scheme
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        replaced = {graph_name(stage, scheme) for stage in result.request.stages}
        for name in set(bundle.files) - replaced:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.file(name), folder / name)
        for stage in result.stages:
            if stage.kept:
                onnx.save(stage.graph.model, folder / graph_name(stage.stage, scheme))
        (folder / REPORT_JSON).write_text(json.dumps(to_dict(result), indent=1) + "\n", encoding="utf-8")
        (folder / REPORT_TABLE).write_text(to_markdown(result), encoding="utf-8")
        write_manifest(folder, _manifest(result))
        replace_folder(folder, out)


def graph_name(stage: str, scheme: Scheme) -> str:
    return f"{stage}.int8.onnx" if scheme.target == "cpu" else f"{stage}.{scheme.precision}.gpu.onnx"


def _manifest(result: Result) -> dict[str, Any]:
    manifest, request = dict(result.bundle.manifest), result.request
    kept = [stage.stage for stage in result.stages if stage.kept]
    if request.scheme.target == "gpu":
        return {**manifest, GPU_KEY: {stage: graph_name(stage, request.scheme) for stage in kept}}
    untouched = [stage for stage in manifest.get(INT8_KEY, ()) if stage not in request.stages]
    return {**manifest, INT8_KEY: [stage for stage in STAGES if stage in {*kept, *untouched}]}
