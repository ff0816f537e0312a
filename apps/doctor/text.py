"""The doctor's report for people."""

from __future__ import annotations

from typing import Any

_GB, _MB = 1e9, 1e6


def lines(report: dict[str, Any]) -> str:
    """Of examine's report with `speed`, which is None where nothing was measured."""
    return "\n".join((*_machine(report), *_installed(report), *_backends(report), *_advice(report))) + "\n"


def _machine(report: dict[str, Any]) -> list[str]:
    machine = report["machine"]
    memory = f", {machine['memory_bytes'] / _GB:.0f} GB" if machine["memory_bytes"] else ""
    found = [
        f"Python {report['python']} on {report['system']}",
        f"processor: {machine['cpu']}, {machine['usable_cores']} of {report['cores']} cores{memory}",
    ]
    if machine["features"]:
        found.append(f"  with {', '.join(machine['features'])}")
    found += [f"graphics: {gpu['name']}, driver {gpu['driver']}" for gpu in machine["gpus"]]
    return found


def _installed(report: dict[str, Any]) -> list[str]:
    found = []
    for extra, packages in report["packages"].items():
        there = [f"{name} {number}" for name, number in packages.items() if number]
        absent = [name for name, number in packages.items() if number is None]
        if extra == "backends":
            found.append(f"{extra}: {', '.join(there) or 'none'}")
        else:
            found.append(f"{extra}: " + (f"missing {', '.join(absent)}" if absent else "complete"))
    found += [f"model {name}: {fault or 'sound'}" for name, fault in report["models"].items()]
    return found if report["models"] else [*found, "models: none found"]


def _backends(report: dict[str, Any]) -> list[str]:
    found = []
    for state in report["backends"]:
        time = f", {state['ms']:.1f} ms" if state["ms"] is not None else ""
        found.append(f"  {state['name']:22}" + (f"usable{time}" if state["usable"] else state["why"]))
    chosen = report["chosen"]
    if chosen:
        found.append(f"--backend auto takes {chosen['backend']}: {chosen['why']}")
    found.append(_speed(report["speed"]))
    kept = report["cache"]
    place = f"{kept['folder']}, {kept['bytes'] / _MB:.0f} MB" if kept["folder"] else "none"
    found.append(f"cache: {place}")
    return ["backends, in the order of preference:", *found]


def _speed(speed: dict[str, Any] | None) -> str:
    if speed is None:
        return "frames a second: not measured; visavis doctor --measure takes a few seconds"
    rates = ", ".join(f"{fps:g} at {size} px" for size, fps in speed["fps"].items())
    return f"frames a second, voice to JPEG: {rates} ({speed['backend']}, {speed['measured']})"


def _advice(report: dict[str, Any]) -> list[str]:
    verdict = "visavis talk will work" if report["ready"] else "visavis talk will not work"
    return [*(f"advice: {line}" for line in report["advice"]), verdict]
