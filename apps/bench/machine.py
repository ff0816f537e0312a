"""Facts about the machine, so that figures can be told apart. Its name and its user are not among them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import engine
from engine.backends.hardware import processor, usable_cores, written_gpus
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
        cpu=processor(),
        cores=usable_cores(),
        gpus=[gpu.name for gpu in written_gpus()],
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


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
