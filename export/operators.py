"""Which operators the graphs of a bundle may use: ONNX's own, so that every runtime has them without a plug-in."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from engine.errors import BundleCorruptError

STANDARD_DOMAINS = ("", "ai.onnx")
LEAST_OPSET, MOST_OPSET = 16, 21
"""GridSample came with 16; what is beyond 21 only the newest runtimes read."""


def check_standard(graph: onnx.ModelProto, name: str) -> None:
    """Raise BundleCorruptError when a node is not of ONNX's own operators in an opset that all runtimes read.

    name: of the graph, for the message.
    """
    opset = next((o.version for o in graph.opset_import if o.domain in STANDARD_DOMAINS), 0)
    if not LEAST_OPSET <= opset <= MOST_OPSET:
        raise BundleCorruptError(
            f"{name} is of ONNX opset {opset}; only {LEAST_OPSET} to {MOST_OPSET} run everywhere. Export it again"
        )
    own = [f"{node.domain}.{node.op_type}" for node in _nodes(graph.graph) if node.domain not in STANDARD_DOMAINS]
    if own or graph.functions:
        what = own[0] if own else graph.functions[0].name
        raise BundleCorruptError(f"{name} uses {what}, which is not a standard operator; export it again without it")


def drop_unused_domains(graph: onnx.ModelProto) -> None:
    """Some tools declare every domain they know. Runtimes may refuse what they do not know, used or not."""
    used = {node.domain for node in _nodes(graph.graph)} | set(STANDARD_DOMAINS)
    kept = [entry for entry in graph.opset_import if entry.domain in used]
    del graph.opset_import[:]
    graph.opset_import.extend(kept)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
