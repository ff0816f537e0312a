"""The sensitivity report: a JSON document for programs and a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from export.quantize.results import Result, StageResult
from export.quantize.speed import cpu_facts

_HEAD = """# Quantisation of {name}

{precision} for {target}s. Budget: {budget:g} dB of the pictures over {blocks} blocks, reached: {reached:.1f} dB
({verdict}). Processor of the timings: {processor}{instructions}.
"""
_STAGE = """
## {stage}{kept}

{full} layers in 8 bits, {weights} with their weights alone, {spared} in float; alone it keeps {db:.1f} dB.
{times}
| layer | cost | stage, dB | pictures, dB | weights only, dB | becomes |
|---|---|---|---|---|---|
{rows}
"""


def to_dict(result: Result) -> dict[str, Any]:
    """Everything, by stage and layer."""
    scheme = result.request.scheme
    return {
        "model": result.bundle.name,
        "precision": scheme.precision,
        "target": scheme.target,
        "budget_db": result.request.budget_db,
        "rollout_db": round(result.rollout_db, 2),
        "passes": result.passes,
        "blocks": result.request.tried_blocks,
        "calibrated_on": {
            "takes": max(1, len(result.request.scenes) - 1),
            "blocks": len(result.request.scenes[-1].blocks),
        },
        **cpu_facts(),
        "stages": {stage.stage: _stage_dict(stage) for stage in result.stages},
    }


def to_markdown(result: Result) -> str:
    """Tables, a stage each; layers in the graph's order."""
    facts = cpu_facts()
    names = ", ".join(str(name) for name in facts["instructions"])
    head = _HEAD.format(
        name=result.bundle.name,
        precision=result.request.scheme.precision.upper(),
        target=result.request.scheme.target.upper(),
        budget=result.request.budget_db,
        blocks=result.request.tried_blocks,
        reached=result.rollout_db,
        verdict="kept" if result.passes else "missed",
        processor=facts["processor"],
        instructions=f" ({names})" if names else "",
    )
    return head + "".join(_stage_text(stage) for stage in result.stages)


def _stage_dict(stage: StageResult) -> dict[str, Any]:
    layers = [{**_rounded(asdict(layer)), "mode": stage.plan.modes[layer.node]} for layer in stage.layers]
    return {
        "kept": stage.kept,
        "rollout_db": round(stage.plan.rollout_db, 2),
        "plans_tried": stage.plan.tried,
        "ms": {runtime: _rounded(ways) for runtime, ways in stage.ms.items()},
        "layers": layers,
    }


def _stage_text(stage: StageResult) -> str:
    plan = stage.plan
    rows = [
        f"| {x.label} | {x.cost:.1%} | {x.stage_db:.1f} | {x.rollout_db:.1f} | {x.weights_db:.1f}"
        f" | {plan.modes[x.node]} |"
        for x in stage.layers
    ]
    times = [
        f"{runtime}, ms a call: " + ", ".join(f"{way} {value:.2f}" for way, value in ways.items()) + ".\n"
        for runtime, ways in stage.ms.items()
    ]
    return _STAGE.format(
        stage=stage.stage, kept="" if stage.kept else ": not used", full=plan.count("8-bit"),
        weights=plan.count("weights"), spared=plan.count("float"), db=plan.rollout_db,
        times="\n" + "\n".join(times) if times else "", rows="\n".join(rows),
    )  # fmt: skip


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
