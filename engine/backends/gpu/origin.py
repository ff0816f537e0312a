"""What sets one folder of engines apart from another, in the words of engine.backends.artefacts."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence

from engine.backends.artefacts import Artefact, Origin
from engine.backends.gpu.build import ENGINE, GRAPH, Plan, Range
from engine.backends.gpu.device import Device
from engine.backends.gpu.library import Library

_SYSTEM = "system"


def this_system() -> str:
    """Engines are portable between neither systems nor kinds of processor."""
    return f"{platform.system()} {platform.machine()}"


def origin_of(
    library: Library, plan: Plan, sources: Mapping[str, str], stages: Sequence[str], device: Device | None = None
) -> Origin:
    """The origin of engines that this library builds here by this plan. Its `device` names the architectures that they
    are for. device: the GPU that they were tuned on, if they were: then its driver is part of the origin too.
    """
    ranges = {name: " ".join(map(str, extents)) for name, extents in plan.ranges.items()}
    return Origin(
        library=library.name,
        library_version=library.version,
        device=" ".join(plan.targets),
        driver="" if device is None or library.compiles_on_device else f"{device.name}, CUDA {device.driver}",
        precisions=dict.fromkeys(stages, plan.precision),
        sources=dict(sources),
        settings={_SYSTEM: this_system(), **ranges},
    )


def plan_again(origin: Origin, architecture: str) -> Plan:
    """The plan behind an origin, for another GPU. ValueError when it is none of ours."""
    ranges: dict[str, Range] = {}
    for name, extents in origin.settings.items():
        if name != _SYSTEM:
            least, usual, most = map(int, str(extents).split())
            ranges[name] = (least, usual, most)
    (precision,) = set(origin.precisions.values())
    return Plan(precision, ranges, (architecture,))


def serves(origin: Origin, library: Library, device: Device) -> bool:
    """Whether this library loads engines of that origin on this GPU."""
    made = (origin.library, origin.library_version, origin.settings.get(_SYSTEM))
    return made == (library.name, library.version, this_system()) and device.architecture in origin.device.split()


def graphs_in(artefact: Artefact) -> dict[str, bytes]:
    """Typed graphs by stage, verified. Raises ArtefactCorruptError."""
    return _files(artefact, GRAPH)


def engines_in(artefact: Artefact) -> dict[str, bytes]:
    """Engines by stage, verified. Raises ArtefactCorruptError."""
    return _files(artefact, ENGINE)


def _files(artefact: Artefact, ending: str) -> dict[str, bytes]:
    return {stage: artefact.file(f"{stage}{ending}").read_bytes() for stage in artefact.origin.precisions}
