"""The plan that is followed when nobody asks for one."""

from __future__ import annotations

import os

from engine.backends.hardware import written_gpus
from engine.pipeline.placing import usable_cores
from engine.pipeline.plan import Plan

_PLACEABLE = ("auto", "openvino", "onnxruntime")


def usual_plan(backend: str) -> Plan | None:
    """On two cores of a processor: the decoder's networks on one, all else on the other, which is how their times come
    out most alike (docs/lab-notes.md). None elsewhere: more cores have not been measured, and GPUs need no such plan.
    """
    cores = usable_cores()
    if len(cores) != 2 or not hasattr(os, "sched_setaffinity") or backend not in _PLACEABLE or written_gpus():
        return None
    first, second = cores
    return Plan.parse(f"denoise@cpu:{first}/decode@cpu:{second}/compose+encode@cpu:{first}")
