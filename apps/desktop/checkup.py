"""The process of a machine check: looks, opens the model, measures, and says so in lines of JSON on stdout.

    python -m apps.desktop.checkup '{"model": "auto", "backend": "auto", "threads": null}'

Lines are {"step", "fraction", "text"} as apps.desktop.firstrun.Progress, and {"verdict": ...} at the end.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from apps.desktop.firstrun import Asked, Verdict, remember, verdict_values
from apps.doctor.examine import examine
from apps.doctor.speed import SIZES_PX, frames_per_second
from engine.backends.mock import MockBackend
from engine.backends.notices import Notice, NoticeKind, notices_to
from engine.backends.registry import open_auto, open_backend
from engine.bundle import find_bundle
from engine.engine import AvatarEngine
from engine.errors import AvatarError
from engine.pipeline.opening import MOCK

_COUNT = re.compile(r"engine (?P<number>\d+) of (?P<total>\d+)")
_LOOKED, _OPENED = 0.1, 0.5
"""Fractions of the check that are over once the machine was looked at, and once the model is open."""


def main() -> None:
    asked = Asked(**json.loads(sys.argv[1]))
    _tell("looking", 0.0, "Looking at this machine")
    advice = tuple(examine()["advice"])
    try:
        with notices_to(_on_notice):
            verdict = _measured(asked, advice)
    except AvatarError as error:
        verdict = Verdict("", {}, (str(error), *advice))
    else:
        remember(asked, verdict)
    _say({"verdict": verdict_values(verdict)})


def _measured(asked: Asked, advice: tuple[str, ...]) -> Verdict:
    """Raises BundleError or BackendError."""
    _tell("opening", _LOOKED, "Opening the model")
    name, engine = _open(asked)
    fps = {}
    with engine:
        for number, side in enumerate(SIZES_PX):
            fraction = _OPENED + (1 - _OPENED) * number / len(SIZES_PX)
            _tell("measuring", fraction, f"Measuring {name} at {side} pixels")
            fps[side] = round(frames_per_second(engine, side), 1)
    return Verdict(name, fps, advice)


def _open(asked: Asked) -> tuple[str, AvatarEngine]:
    """What computes, by its name, and the model in it."""
    if asked.backend == MOCK:
        return MOCK, AvatarEngine(MockBackend(), MOCK)
    bundle = find_bundle(asked.model)
    if asked.backend == "auto":
        name, opened = open_auto(bundle, asked.threads)
        return name, AvatarEngine(opened, bundle.name)
    return asked.backend, AvatarEngine(open_backend(asked.backend, bundle, asked.threads), bundle.name)


def _on_notice(notice: Notice) -> None:
    if notice.kind is NoticeKind.BUILDING:
        found = _COUNT.search(notice.text)
        share = (int(found["number"]) - 1) / max(1, int(found["total"])) if found else None
        fraction = None if share is None else _LOOKED + (_OPENED - _LOOKED) * share
        _tell("building", fraction, notice.text[:1].upper() + notice.text[1:])


def _tell(step: str, fraction: float | None, text: str) -> None:
    _say({"step": step, "fraction": fraction, "text": text})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
