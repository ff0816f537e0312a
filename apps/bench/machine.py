"""Facts about the machine, so that figures can be told apart. Its name and its user are not among them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import engine
from engine.supervisor import resident_bytes

_PACKAGES = ("numpy", "opencv-python-headless", "openvino", "onnxruntime", "torch")


@dataclass(frozen=True, slots=True)
class Machine:
    """cores: those that this process may use. load_average_1min: of all processes, when the run began; what others take
    is missing in the figures. versions: of installed packages.
    """

    cpu: str
    cores: int
    gpus: list[str]
    system: str
    python: str
    load_average_1min: float | None
    versions: dict[str, str]
    date_utc: str


def machine_facts() -> Machine:
    """Of this machine, now."""
    return Machine(
        cpu=_cpu(),
        cores=_cores(),
        gpus=_gpus(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        load_average_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        versions={"visavis": engine.__version__, **_versions()},
        date_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def resident_mb(pids: Iterable[int]) -> float | None:
    """Memory that the processes hold together, in 10^6 bytes; None where the system does not tell."""
    held = [resident_bytes(pid) for pid in pids]
    known = [size for size in held if size is not None]
    return sum(known) / 1e6 if len(known) == len(held) else None


def _cpu() -> str:
    return _named(Path("/proc/cpuinfo"), "model name") or platform.processor() or "unknown"


def _gpus() -> list[str]:
    """Names of NVIDIA GPUs, which their driver writes down."""
    folder = Path("/proc/driver/nvidia/gpus")
    return [name for path in sorted(folder.glob("*/information")) if (name := _named(path, "Model"))]


def _named(path: Path, key: str) -> str:
    """Value of the first `key : value` line of a file of the system; empty when there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
