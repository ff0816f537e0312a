"""From a plan to a line: each stage's backend opened where it will run."""

from __future__ import annotations

import cv2

from engine.backends.mock import MockBackend
from engine.backends.registry import open_backend
from engine.bundle import Bundle
from engine.pipeline.placing import check_fits, on_cores
from engine.pipeline.plan import Plan
from engine.pipeline.remote import RemoteFront, front_command
from engine.worker.line import Front, Line, LocalFront

MOCK = "mock"


def open_line(bundle: Bundle | None, backend: str, plan: Plan | None, threads: int | None = None) -> Line:
    """Open a bundle, None for the mock. threads: where the plan names no cores. Raises BundleError, BackendError,
    PipelinePlanError or StageLostError; then nothing is left open.
    """
    if plan is None:
        return Line.of(open_backend(backend, bundle, threads) if bundle else MockBackend())
    check_fits(plan)
    denoise, decode = plan.place_of("denoise"), plan.place_of("decode")
    with on_cores(decode):
        back = open_backend(backend, bundle, decode.threads or threads) if bundle else MockBackend()
    try:
        front = _open_front(bundle, back.name, plan, threads) if denoise != decode else LocalFront(back)
    except BaseException:
        back.close()
        raise
    if composing := plan.place_of("compose").threads:
        # OpenCV has one pool for the process, whose threads would lie on other stages' cores.
        cv2.setNumThreads(composing)
    return Line(front, back, plan)


def _open_front(bundle: Bundle | None, backend: str, plan: Plan, threads: int | None) -> Front:
    place = plan.place_of("denoise")
    if place.apart:
        model = str(bundle.root) if bundle else MOCK
        return RemoteFront(front_command(model, backend, place.threads or threads), place)
    if bundle is None:
        return LocalFront(MockBackend())
    with on_cores(place):
        return LocalFront(open_backend(backend, bundle, place.threads or threads), owned=True)
