"""What is rewritten before OpenVINO compiles it gives the same numbers, and what only looks alike stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.bundle import find_bundle

ov = pytest.importorskip("openvino")

from openvino import opset13 as ops  # noqa: E402

from engine.backends.openvino_graphs import rewrite  # noqa: E402

Node = Any
RANDOM = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def doubled(x: Node, mode: str = "nearest", scale: float = 2.0) -> Node:
    scales, axes = ops.constant(np.full(2, scale, np.float32)), ops.constant(np.array([2, 3]))
    return ops.interpolate(
        x, scales, mode, "scales", axes=axes, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


def convolved(x: Node, side: int = 3, pad: int = 1, half: bool = False) -> Node:
    weights = normal(5, 8, side, side)
    kernel = ops.convert(ops.constant(weights.astype(np.float16)), "f32") if half else ops.constant(weights)
    return ops.convolution(x, kernel, [1, 1], [pad, pad], [pad, pad], [1, 1])


def softened(x: Node, first: int = 1, mode: str = "depth_first") -> Node:
    """Two channels of pixels; those from `first` on through a sigmoid."""

    def part(start: int, stop: int) -> Node:
        bounds = [ops.constant(np.array([number], np.int64)) for number in (start, stop, 1, 1)]
        return ops.slice(shuffled, *bounds)

    shuffled = ops.depth_to_space(x, mode, 2)
    return ops.concat([part(0, 1), ops.sigmoid(part(first, np.iinfo(np.int64).max))], 1)


def kinds(model: Any) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ordered_ops())


def graph(build: Callable[[Node], Node]) -> Any:
    x = ops.parameter([-1, 8, 6, 6], np.float32)
    y = build(x)
    y.output(0).set_names({"y"})
    return ov.Model([y], [x], "part")


def computed(model: Any, x: np.ndarray) -> np.ndarray:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    return np.array(compiled({0: x})["y"])


@pytest.mark.parametrize(
    ("build", "gone", "instead"),
    [
        (lambda x: convolved(doubled(x)), "Interpolate", "ConvolutionBackpropData"),
        (lambda x: convolved(doubled(x), half=True), "Interpolate", "ConvolutionBackpropData"),
        (softened, "Concat", "DepthToSpace"),
    ],
    ids=["doubling", "doubling with half weights", "sigmoid"],
)
def test_what_is_rewritten_computes_the_same(build: Callable[[Node], Node], gone: str, instead: str) -> None:
    model, x = graph(build), normal(3, 8, 6, 6)
    before = computed(model, x)
    assert rewrite(model) == 1
    assert not kinds(model)[gone] and kinds(model)[instead] == 1
    after = computed(model, x)
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, atol=2e-5)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: convolved(doubled(x, "linear")),
        lambda x: convolved(doubled(x, scale=3.0)),
        lambda x: convolved(doubled(x), side=1, pad=0),
        lambda x: convolved(doubled(x), pad=0),
        lambda x: softened(x, first=0),
        lambda x: softened(x, mode="blocks_first"),
        convolved,
    ],
    ids=["smooth", "threefold", "one by one", "without pad", "other channels", "other order", "not doubled"],
)
def test_what_only_looks_alike_is_left_alone(build: Callable[[Node], Node]) -> None:
    model = graph(build)
    before = kinds(model)
    assert rewrite(model) == 0 and kinds(model) == before


def test_all_five_places_of_the_shipped_decoder_are_found() -> None:
    bundle = find_bundle("nano")
    bundle.file("weights.bin")
    model = ov.Core().read_model(bundle.file("decode.onnx"))
    assert rewrite(model) == 5
    assert [output.get_any_name() for output in model.outputs] == ["displacement", "paint"]
