"""Backends by name; `auto` measures which one is quickest here."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from engine.backends.base import Backend
from engine.backends.choose import open_quickest
from engine.backends.mock import MockBackend
from engine.bundle import Bundle
from engine.errors import BackendUnavailableError

NAMES = ("openvino", "onnxruntime", "tensorrt", "torch", "mock")
"""Every name but `mock` is a module of this package with `open_backend(bundle, threads) -> Backend`,
which raises BackendUnavailableError when the bundle has no graphs for it."""

CHOICES = ("auto", *NAMES)

_GRAPHS = ("openvino", "onnxruntime")
"""What `auto` chooses from."""

_PACKAGES = {"tensorrt": ("tensorrt", "tensorrt_rtx")}
"""Packages of which a backend needs one, where that is not the package of its own name."""


def check_name(name: str) -> None:
    """Raise BackendUnavailableError for a name that no backend has."""
    if name not in CHOICES:
        raise BackendUnavailableError(f"there is no backend named {name}; choose one of {', '.join(CHOICES)}")


def open_backend(name: str, bundle: Bundle, threads: int | None = None) -> Backend:
    """Load a bundle. threads: CPU threads, None for what the library prefers."""
    check_name(name)
    if name == "mock":
        return MockBackend()
    if name == "auto":
        return open_quickest(_GRAPHS, bundle, threads, open_backend)
    packages = _PACKAGES.get(name, (name,))
    if not any(map(find_spec, packages)) or find_spec(f"engine.backends.{name}") is None:
        raise BackendUnavailableError(f"backend {name} is not installed; install it or use --backend auto")
    backend: Backend = import_module(f"engine.backends.{name}").open_backend(bundle, threads)
    return backend
