"""TensorRT by either name: `tensorrt` (10 and later) and `tensorrt_rtx` have one interface but for a few points."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from engine.errors import BackendUnavailableError

NAMES = ("tensorrt", "tensorrt_rtx")
_OLDEST = {"tensorrt": 10, "tensorrt_rtx": 1}
_PACKAGES = {"tensorrt": "pip install tensorrt cuda-bindings", "tensorrt_rtx": "pip install 'visavis[tensorrt]'"}

_log = logging.getLogger("visavis.tensorrt")


@dataclass(frozen=True, slots=True)
class Library:
    """An imported TensorRT. `api` is its module."""

    name: str
    api: Any
    logger: Any

    @property
    def version(self) -> str:
        return str(self.api.__version__)

    @property
    def compiles_on_device(self) -> bool:
        """Whether engines are portable and finished on the user's GPU, as TensorRT-RTX's are."""
        return hasattr(self.api, "IRuntimeCache")


def open_library(names: Sequence[str] = NAMES) -> Library:
    """The first of these that is installed. Raises BackendUnavailableError."""
    reasons = []
    for name in names:
        try:
            api = import_module(name)
        except (ImportError, OSError) as error:  # OSError: its libraries do not load.
            reasons.append(f"{name}: {error}; {_PACKAGES.get(name, 'unknown')}")
            continue
        if int(str(api.__version__).partition(".")[0]) >= _OLDEST[name]:
            return Library(name, api, _logger(api))
        reasons.append(f"{name} {api.__version__} is too old, {_OLDEST[name]} is needed: {_PACKAGES[name]}")
    raise BackendUnavailableError(f"TensorRT is not installed ({'; '.join(reasons)})")


def _logger(api: Any) -> Any:
    """TensorRT's messages as those of a logger of Python. What it calls an error comes back as one of ours."""

    class Bridge(api.ILogger):  # type: ignore[misc]  # The library has no type information.
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (api.ILogger.INTERNAL_ERROR, api.ILogger.ERROR):
                self.last = message
            _log.debug("%s", message)

    return Bridge()
