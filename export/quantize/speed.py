"""How long the graphs of a stage take on this CPU, in turns, so that what else the machine does meets all of them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import process_time

from export.quantize.layers import Graph
from export.quantize.running import Arrays, Runtime, open_graph

_ROUNDS = 8
_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)
"""What makes 8 and 16 bits quick, as Linux names it."""


def times_ms(
    graphs: Mapping[str, Graph], samples: Sequence[Arrays], runtime: Runtime, bf16: Sequence[str] = ()
) -> dict[str, float]:
    """Least processor time of a call on one thread, by name. bf16: names that are computed in it."""
    running = {name: open_graph(graph, runtime, name in bf16) for name, graph in graphs.items()}
    best = dict.fromkeys(graphs, float("inf"))
    for _ in range(_ROUNDS):
        for name, run in running.items():
            begun = process_time()
            for sample in samples:
                run(sample)
            best[name] = min(best[name], 1e3 * (process_time() - begun) / len(samples))
    return best


def cpu_facts() -> dict[str, object]:
    """The processor's name and which instructions for few bits it has; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {"processor": platform.processor() or platform.machine(), "instructions": []}
    known = {line.partition(":")[0].strip(): line.partition(":")[2].split() for line in reversed(lines)}
    flags = set(known.get("flags", known.get("Features", [])))
    name = " ".join(known.get("model name", [platform.machine()]))
    return {"processor": name, "instructions": [flag for flag in _FLAGS if flag in flags]}
