"""What this machine can compute with, as far as the system tells without any library: what engines are built for."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_FEATURES = (
    "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16",
    "amx_fp16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
"""Instructions that decide how quickly networks run, as Linux names them."""

_NVIDIA = Path("/proc/driver/nvidia")
_SMI_S = 5.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """memory_bytes: None where only the name could be had."""

    name: str
    driver: str
    memory_bytes: int | None = None


@lru_cache(maxsize=1)
def processor() -> str:
    """The processor's name."""
    return _named(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def processor_features() -> tuple[str, ...]:
    """Those of its instructions that matter here; empty where the system does not tell."""
    told = (_named(Path("/proc/cpuinfo"), "flags") or _named(Path("/proc/cpuinfo"), "Features")).split()
    return tuple(name for name in _FEATURES if name in told)


def processor_id() -> str:
    """Name and instructions: virtual machines of one name may differ in what they pass on."""
    return " ".join((processor(), *processor_features()))


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Of the machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


@lru_cache(maxsize=1)
def nvidia_gpus() -> tuple[Gpu, ...]:
    """NVIDIA's, at no cost where there are none: by the driver's tool, which takes a moment."""
    return _asked_gpus() or written_gpus()


def _asked_gpus() -> tuple[Gpu, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_SMI_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
    return tuple(Gpu(r[0], r[1], int(r[2]) << 20 if r[2].isdecimal() else None) for r in rows if len(r) == 3)


def written_gpus() -> tuple[Gpu, ...]:
    """NVIDIA's, as far as their driver's notes in the file system go: at once, and on Linux only."""
    words = _first_line(_NVIDIA / "version").split()
    driver = next((word for word in words if word[:1].isdigit() and "." in word), "")
    names = (_named(path, "Model") for path in sorted((_NVIDIA / "gpus").glob("*/information")))
    return tuple(Gpu(name, driver) for name in names if name)


def _named(path: Path, key: str) -> str:
    """Value of the first `key : value` line of a file of the system; empty when there is none."""
    pairs = (line.partition(":") for line in _text(path).splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def _first_line(path: Path) -> str:
    return _text(path).partition("\n")[0]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
