"""Keeping threads on cores, and whether a plan fits this machine. Linux lets each thread have cores of its own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from engine.errors import PipelinePlanError
from engine.pipeline.plan import Place, Plan

_FIRST_DEVICE = "cuda:0"
_kept = ContextVar("kept", default=False)


def usable_cores() -> tuple[int, ...]:
    """Cores that the calling thread may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def keep_on(place: Place) -> None:
    """Keep the calling thread, and those that it starts, on the place's cores. Nothing without cores, or when the stage
    runs in another process.
    """
    if place.cores and not place.apart:
        _confine(place.cores)


@contextmanager
def on_cores(place: Place) -> Iterator[None]:
    """The calling thread on the place's cores for a while: what is started meanwhile stays there, processes too."""
    if not place.cores:
        yield
        return
    before = os.sched_getaffinity(0)
    _confine(place.cores)
    token = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(token)
        os.sched_setaffinity(0, before)


def is_kept() -> bool:
    """Whether this runs inside `on_cores`. A library that places its threads itself must be told not to."""
    return _kept.get()


def check_fits(plan: Plan) -> None:
    """Raise PipelinePlanError when this machine or this process cannot run the plan."""
    usable = usable_cores()
    for stage in plan.stages:
        place = stage.place
        if place.cores and not hasattr(os, "sched_setaffinity"):
            raise PipelinePlanError("this system cannot keep threads on cores; use a plan without core numbers")
        if missing := sorted(set(place.cores) - set(usable)):
            raise PipelinePlanError(f"stage {stage} needs core {missing[0]}, but this process may use {list(usable)}")
        if place.apart and stage.works != ("denoise",):
            raise PipelinePlanError(f"stage {stage} cannot be a process of its own; only denoise alone can")
        if not place.apart and place.device not in ("cpu", _FIRST_DEVICE):
            raise PipelinePlanError(
                f"stage {stage} must have a process of its own, or use {_FIRST_DEVICE}, the first device that this "
                "process sees; choose that one with CUDA_VISIBLE_DEVICES"
            )


def _confine(cores: Collection[int]) -> None:
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise PipelinePlanError(f"a stage cannot be kept on cores {sorted(cores)}: {error}; plan again") from error
