"""Typed graphs to engines, through TensorRT's Python interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from engine.backends.cache import cache_folder
from engine.backends.gpu.library import Library
from engine.errors import BackendUnavailableError, EngineBuildError

Say = Callable[[str], None]
"""Told what is done next."""

Range = tuple[int, int, int]
"""Least, usual and most."""

GRAPH, ENGINE = ".onnx", ".engine"
"""Endings of a stage's typed graph, and of the engine built from it."""

_AMPERE = 80


@dataclass(frozen=True, slots=True)
class Plan:
    """What engines are to be like. ranges: least, usual and most of each axis that varies, by its name in the graphs.

    targets: compute capabilities such as "sm_86"; for `tensorrt` the one of the GPU that is here, since it builds for
    no other. precision: of the graphs, which have it already; fp32 forbids rounding products to TF32, too.
    """

    precision: str
    ranges: Mapping[str, Range]
    targets: tuple[str, ...]


def usual_targets(library: Library) -> tuple[str, ...]:
    """Every GPU from Ampere on that TensorRT-RTX builds for; engines for one of them are no smaller."""
    names = [name for name in dir(library.api.ComputeCapability) if name.startswith("SM")]
    return tuple(f"sm_{number}" for number in sorted(int(name[2:]) for name in names) if number >= _AMPERE)


def build_into(folder: Path, library: Library, graphs: Mapping[str, bytes], plan: Plan, say: Say) -> None:
    """Write `STAGE.onnx`, the typed graph, and `STAGE.engine` of each stage. Raises EngineBuildError."""
    for number, (stage, graph) in enumerate(graphs.items(), 1):
        say(f"building engine {number} of {len(graphs)}: {stage}, {library.name} {library.version}")
        (folder / f"{stage}{GRAPH}").write_bytes(graph)
        (folder / f"{stage}{ENGINE}").write_bytes(build_engine(library, stage, graph, plan))


def build_engine(library: Library, stage: str, graph: bytes, plan: Plan) -> bytes:
    """One graph to a serialised engine. Raises EngineBuildError with what the library says."""
    api = library.api
    builder = api.Builder(library.logger)
    network = builder.create_network(_flags(api))
    parser = api.OnnxParser(network, library.logger)
    if not parser.parse(graph):
        reasons = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise EngineBuildError(f"{library.name} {library.version} cannot read the {stage} graph: {reasons}")
    config = builder.create_builder_config()
    _configure(library, config, plan)
    profile = builder.create_optimization_profile()
    if _set_ranges(profile, network, plan.ranges):
        config.add_optimization_profile(profile)
    with _timings(library, config):
        began = perf_counter()
        engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineBuildError(
            f"{library.name} {library.version} built no engine of the {stage} graph after "
            f"{perf_counter() - began:.0f} s: {library.logger.last or 'it gives no reason'}"
        )
    return bytes(engine)


def _flags(api: Any) -> int:
    """Strong typing is a flag in TensorRT 10, and the only way there is in 11."""
    flag = getattr(api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(library: Library, config: Any, plan: Plan) -> None:
    flags = library.api.BuilderFlag
    if plan.precision == "fp32":
        config.clear_flag(flags.TF32)
    if hasattr(flags, "REQUIRE_USER_ALLOCATION"):
        # Without it, TensorRT-RTX allocates memory while it runs, which no CUDA graph can hold.
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)
    if not library.compiles_on_device:
        return
    config.num_compute_capabilities = len(plan.targets)
    for index, target in enumerate(plan.targets):
        config.set_compute_capability(_capability(library, target), index)


def _capability(library: Library, target: str) -> Any:
    known = library.api.ComputeCapability
    capability = getattr(known, target.replace("_", "").upper(), None)
    if capability is None:
        names = sorted(name for name in dir(known) if name.startswith("SM"))
        raise BackendUnavailableError(
            f"{library.name} {library.version} has no target {target}; it has {', '.join(names)}"
        )
    return capability


def _set_ranges(profile: Any, network: Any, ranges: Mapping[str, Range]) -> bool:
    """Tell the profile how large each input may be; whether any varies."""
    varies = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 not in shape:
            continue
        varies = True
        names = [tensor.get_dimension_name(axis) for axis in range(len(shape))]
        profile.set_shape(tensor.name, *(_sized(shape, names, ranges, which) for which in range(3)))
    return varies


def _sized(shape: tuple[int, ...], names: list[str], ranges: Mapping[str, Range], which: int) -> tuple[int, ...]:
    return tuple(ranges[name][which] if extent == -1 else extent for extent, name in zip(shape, names, strict=True))


@contextmanager
def _timings(library: Library, config: Any) -> Iterator[None]:
    """Keep how long `tensorrt`'s kernels took between builds. TensorRT-RTX measures none while it builds."""
    folder = None if library.compiles_on_device else cache_folder("tensorrt")
    if folder is None:
        yield
        return
    path = folder / f"timings-{library.version}"
    known = path.read_bytes() if path.is_file() else b""
    config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    yield
    temporary = path.with_suffix(".part")
    try:
        temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
        temporary.replace(path)
    except OSError:
        pass  # They will be measured again next time.
