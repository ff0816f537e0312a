"""What a figure was measured with and on: versions and machine, for the top of a report."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import engine

_PACKAGES = ("numpy", "torch", "openvino", "onnxruntime", "opencv-python-headless", "av")
_CPU_INFO = Path("/proc/cpuinfo")


def facts() -> tuple[tuple[str, str], ...]:
    """(name, value) of everything that a figure may depend on besides its command line."""
    return (
        ("visavis", engine.__version__),
        ("Python", platform.python_version()),
        *((name, found) for name in _PACKAGES if (found := _version(name))),
        ("machine", f"{_processor()}, {os.cpu_count()} threads, {platform.system()} {platform.machine()}"),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """The processor's name; Python knows it on some systems only."""
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
