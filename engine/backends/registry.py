"""Backends by name, in the order in which they are preferred where nothing was measured; `auto` measures.

A backend that was asked for by name is used or refused. `auto` takes what there is, and says so in one line when that
is not what this machine could or should use.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from engine.backends.base import Backend
from engine.backends.choose import open_quickest
from engine.backends.hardware import written_gpus
from engine.backends.mock import MockBackend
from engine.backends.notices import NoticeKind, tell
from engine.backends.staged import made_for
from engine.bundle import Bundle
from engine.errors import BackendUnavailableError


@dataclass(frozen=True, slots=True)
class Kind:
    """A backend: `engine.backends.{module}.open_backend(bundle, threads, device)`, without device where that is empty,
    which raises BackendUnavailableError when it cannot run the bundle here. If the module has `check_device(device)`,
    that raises it too, at once, when no bundle could be run.

    packages: any of them must be there to be imported. install: what to give to pip. measured: `auto` may take it.
    gpu: it computes on one. reads: libraries whose artefacts it runs, beside bundles of ONNX graphs. needs: a file that
    a bundle must have for it. system: the only one that can have it, as sys.platform names it.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    install: str
    device: str = ""
    measured: bool = True
    gpu: bool = False
    reads: tuple[str, ...] = ()
    needs: str = ""
    system: str = ""

    @property
    def possible(self) -> bool:
        """Whether this system can have it at all."""
        return self.system in ("", sys.platform)


KINDS = (
    Kind("onnxruntime:cuda", "onnxruntime", ("onnxruntime",), "onnxruntime-gpu", "cuda", gpu=True),
    # Compiles for minutes at its first blocks, without a word.
    Kind("onnxruntime:tensorrt", "onnxruntime", ("onnxruntime",), "onnxruntime-gpu", "tensorrt", False, gpu=True),
    Kind("openvino:gpu", "openvino", ("openvino",), "openvino", "GPU", gpu=True, reads=("openvino",)),
    Kind(
        "onnxruntime:directml",
        "onnxruntime",
        ("onnxruntime",),
        "onnxruntime-directml",
        "directml",
        gpu=True,
        system="win32",
    ),
    Kind("onnxruntime:coreml", "onnxruntime", ("onnxruntime",), "onnxruntime", "coreml", gpu=True, system="darwin"),
    Kind("openvino", "openvino", ("openvino",), "openvino", reads=("openvino",)),
    Kind("onnxruntime", "onnxruntime", ("onnxruntime",), "onnxruntime"),
    # NPUs want every length fixed, which these graphs are not.
    Kind("openvino:npu", "openvino", ("openvino",), "openvino", "NPU", False, reads=("openvino",)),
    # The yardstick, from a checkpoint beside the graphs: for development.
    Kind("torch", "torch", ("torch",), "'visavis[export]'", measured=False, needs="model.safetensors"),
)
"""The one list: in the order of preference where nothing was measured."""

NAMES = (*(kind.name for kind in KINDS), "mock")
CHOICES = ("auto", *NAMES)

_LAST_RESORT = "torch"


def check_name(name: str) -> None:
    """Raise BackendUnavailableError for a name that no backend has."""
    if name not in CHOICES:
        raise BackendUnavailableError(f"there is no backend named {name}; choose one of {', '.join(CHOICES)}")


def kind_of(name: str) -> Kind:
    """The backend of that name; a KeyError for `auto` and `mock`."""
    return {kind.name: kind for kind in KINDS}[name]


def installed(kind: Kind) -> bool:
    """Whether a package of it is there; it may still lack a driver or the device."""
    return any(find_spec(package) is not None for package in kind.packages)


def candidates(bundle: Bundle) -> list[str]:
    """What `auto` chooses from: installed, and able to read the bundle's graphs."""
    library = made_for(bundle)
    fitting = [kind for kind in KINDS if not library or library in kind.reads]
    return [kind.name for kind in fitting if kind.measured and kind.possible and installed(kind)]


def usual_backend() -> str:
    """The one that comes with the default install on this machine."""
    return "openvino" if platform.machine() in ("x86_64", "AMD64") else "onnxruntime"


def open_backend(name: str, bundle: Bundle, threads: int | None = None) -> Backend:
    """Load a bundle. threads: CPU threads, None for what the library prefers. Raises BundleError or BackendError."""
    check_name(name)
    if name == "mock":
        return MockBackend()
    if name == "auto":
        return open_auto(bundle, threads)[1]
    try:
        return _open_named(name, bundle, threads)
    except BackendUnavailableError as error:
        raise type(error)(f"{error}. Or use --backend auto, which takes what there is") from error


def open_auto(bundle: Bundle, threads: int | None = None, *, again: bool = False) -> tuple[str, Backend]:
    """The quickest backend and its name here; see engine.backends.choose. again: measure whatever is remembered."""
    names = candidates(bundle)
    if not names and (library := made_for(bundle)):
        install = next((kind.install for kind in KINDS if library in kind.reads), library)
        raise BackendUnavailableError(
            f"model {bundle.name} was exported for {library}, which is not installed: pip install {install}"
        )
    try:
        taken, backend = open_quickest(names, bundle, threads, _open_named, again=again)
    except BackendUnavailableError as error:
        last = kind_of(_LAST_RESORT)
        if last.needs not in bundle.files or not installed(last):
            raise
        tell(NoticeKind.FALLBACK, f"{error}; using {last.name}, which is slow")
        return last.name, _open_named(last.name, bundle, threads)
    if line := fallback_line(taken, names):
        tell(NoticeKind.FALLBACK, line)
    return taken, backend


def fallback_line(taken: str, names: Sequence[str]) -> str:
    """What to tell of a choice of `auto`: that something usual is missing, or a GPU idle. Empty when all is well."""
    gpus, usual = written_gpus(), usual_backend()
    if gpus and not kind_of(taken).gpu:
        return f"using {taken} on the processor, not the {gpus[0].name}; `visavis doctor` says what that would need"
    if usual not in names and taken != usual:
        return f"{usual} is not installed, or cannot run this model; using {taken} (see `visavis doctor`)"
    return ""


def _open_named(name: str, bundle: Bundle, threads: int | None) -> Backend:
    kind = kind_of(name)
    if not installed(kind):
        raise BackendUnavailableError(f"backend {name} is not installed: pip install {kind.install}")
    try:
        module = import_module(f"engine.backends.{kind.module}")
    except (ImportError, OSError) as error:  # A wheel of another system, or without its libraries.
        raise BackendUnavailableError(
            f"backend {name} is installed but cannot be loaded ({error}): pip install --force-reinstall {kind.install}"
        ) from error
    backend: Backend = (
        module.open_backend(bundle, threads, kind.device) if kind.device else module.open_backend(bundle, threads)
    )
    return backend
