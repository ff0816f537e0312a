"""Quantised graphs: what is rounded, what each layer loses, which are spared, and whether rounding grows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="exporting needs torch")
onnx = pytest.importorskip("onnx", reason="exporting needs onnx")
pytest.importorskip("onnxruntime", reason="quantising needs onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from apps.cli import main  # noqa: E402
from engine.backends.mock import MockBackend  # noqa: E402
from engine.backends.registry import open_backend  # noqa: E402
from engine.bundle import read_bundle  # noqa: E402
from engine.types import AvatarState  # noqa: E402
from export.quantize.calibrate import Recorder, calibrated, ranges  # noqa: E402
from export.quantize.drift import Drift, measure_drift, voice_curve  # noqa: E402
from export.quantize.layers import Graph, find_layers  # noqa: E402
from export.quantize.numbers import best_steps, rounded, steps_for, weight_steps  # noqa: E402
from export.quantize.qdq import GPU_OPSET, Precision, Scheme, Target, quantise  # noqa: E402
from export.quantize.results import gpu_file  # noqa: E402
from export.quantize.running import open_graph, runtimes  # noqa: E402
from export.quantize.sensitivity import MOST_DB, LayerReport, Mode, Trials, examine, snr_db, spare  # noqa: E402
from export.quantize.takes import play, speech, variety  # noqa: E402
from export.scenes import make_scenes  # noqa: E402

RANDOM = np.random.default_rng(0)
SIDE, CHANNELS, WIDTH = 8, 32, 72
SCHEMES: list[tuple[Precision, Target]] = [("int8", "cpu"), ("int8", "gpu"), ("fp8", "gpu")]


# Numbers


def test_rounding_is_off_by_half_a_step_at_most() -> None:
    values = RANDOM.uniform(-3, 5, 1000).astype(np.float32)
    for kind in ("uint8", "int8"):
        steps = steps_for(kind, -3, 5)
        assert np.abs(rounded(values, steps) - values).max() <= 0.501 * steps.scale
        assert rounded(np.zeros(1, np.float32), steps)[0] == 0, "padding stays zero"
    wide = np.array([1e-3, 0.1, 3.0, 400.0], np.float32)
    assert (np.abs(rounded(wide, steps_for("fp8", 0, 448)) - wide) <= wide / 16 + 2e-3).all(), (
        "FP8's steps are relative"
    )


def test_few_outliers_are_cut_off_for_finer_steps() -> None:
    values = np.append(RANDOM.normal(0, 1, 40_000), 12.0).astype(np.float32)
    error = [float(((rounded(values, s) - values) ** 2).mean()) for s in (
        steps_for("int8", values.min(), values.max()), best_steps("int8", values, values.min(), values.max()),
    )]  # fmt: skip
    assert error[1] < 0.9 * error[0]


def test_a_scale_a_channel_keeps_small_channels() -> None:
    weights = RANDOM.normal(0, 1, (4, 100)).astype(np.float32) * np.array([[1], [0.01], [1], [1]], np.float32)
    small = weights[1]
    one = rounded(weights, weight_steps("int8", weights, None))[1]
    each = rounded(weights, weight_steps("int8", weights, 0), 0)[1]
    assert np.abs(each - small).max() < 0.05 * np.abs(one - small).max()


# Graphs


def small_graph() -> Graph:
    """A convolution, two products that share their input, one whose input has an outlier, and what must stay as it is:
    a narrow convolution, a product of two activations, a tiny product."""
    weights = {
        "conv.weight": RANDOM.normal(0, 0.1, (CHANNELS, 16, 3, 3)), "conv.bias": RANDOM.normal(0, 0.1, CHANNELS),
        "narrow.weight": RANDOM.normal(0, 0.1, (4, 16, 32, 32)), "first.weight": RANDOM.normal(0, 0.1, (WIDTH, 64)),
        "second.weight": RANDOM.normal(0, 0.1, (WIDTH, 64)), "second.bias": np.zeros(64),
        "tiny.weight": RANDOM.normal(0, 0.1, (64, 4)), "outlier": np.where(np.arange(64) == 5, 300.0, 1.0),
        "hard.weight": RANDOM.normal(0, 0.1, (64, 64)) * np.where(np.arange(64) == 5, 1 / 300, 1.0)[:, None],
    }  # fmt: skip
    make = helper.make_node
    nodes = [
        make("Conv", ["image", "conv.weight", "conv.bias"], ["convolved"], name="conv", pads=[1, 1, 1, 1]),
        make("Conv", ["image", "narrow.weight"], ["narrowed"], name="narrow", pads=[16, 16, 15, 15]),
        make("Cast", ["first.weight.half"], ["first.weight"], name="cast", to=TensorProto.FLOAT),
        make("MatMul", ["tokens", "first.weight"], ["one"], name="first"),
        make("MatMul", ["tokens", "second.weight"], ["two"], name="second"),
        make("Add", ["two", "second.bias"], ["shifted"], name="add"),
        make("Mul", ["one", "outlier"], ["spread"], name="mul"),
        make("MatMul", ["spread", "hard.weight"], ["hardened"], name="hard"),
        make("Transpose", ["one"], ["turned"], name="turn"),
        make("MatMul", ["shifted", "turned"], ["attended"], name="attend"),
        make("MatMul", ["one", "tiny.weight"], ["tinied"], name="tiny"),
    ]
    inputs = {"image": ["b", 16, SIDE, SIDE], "tokens": ["t", WIDTH]}
    outputs = {"convolved": 4, "narrowed": 4, "attended": 2, "tinied": 2, "hardened": 2}
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items() if k != "first.weight"]
    tensors.append(numpy_helper.from_array(weights["first.weight"].astype(np.float16), "first.weight.half"))
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, [None] * v) for k, v in outputs.items()], tensors,
    )  # fmt: skip
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), Path())


def samples(count: int = 3) -> list[dict[str, Any]]:
    draw = np.random.default_rng(1).normal
    return [
        {
            "image": draw(0.5, 1, (2, 16, SIDE, SIDE)).astype(np.float32),
            "tokens": draw(0, 1, (12, WIDTH)).astype(np.float32),
        }
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return small_graph()


def nodes(graph: Graph, kind: str) -> list[Any]:
    return [node for node in graph.model.graph.node if node.op_type == kind]


def test_layers_worth_it_are_found(graph: Graph) -> None:
    layers = {layer.node: layer for layer in find_layers(graph)}
    assert set(layers) == {"conv", "first", "second", "hard"}
    assert layers["conv"].axis == 0 and layers["first"].axis == 1
    assert layers["first"].weight == "first.weight.half", "found behind its cast"
    assert layers["second"].label == "second"


@pytest.mark.parametrize("runtime", runtimes())
@pytest.mark.parametrize("precision, target", SCHEMES)
def test_quantised_graph_computes_nearly_the_same(
    graph: Graph, precision: Precision, target: Target, runtime: Any
) -> None:
    sample = samples()[0]
    quantised = calibrated(graph, samples(), Scheme(precision, target))
    onnx.checker.check_model(quantised.model, full_check=True)
    exact, seen = (open_graph(g, runtime)(sample) for g in (graph, quantised))
    names = [output.name for output in graph.model.graph.output]
    errors = {n: snr_db([[a]], [[b]]) for n, a, b in zip(names, exact, seen, strict=True)}
    assert 20 < errors["attended"] < 60, errors
    assert errors["narrowed"] > 90, errors
    assert errors["convolved"] > 90 if precision == "fp8" else 30 < errors["convolved"] < 60, "no FP8 convolutions"


def test_graph_for_gpus_is_symmetric_and_rounds_inputs_only(graph: Graph) -> None:
    quantised = calibrated(graph, samples(), Scheme("int8", "gpu"))
    tensors = {t.name: numpy_helper.to_array(t) for t in quantised.model.graph.initializer}
    rounding = nodes(quantised, "QuantizeLinear")
    assert {node.input[0] for node in rounding} == {"image", "tokens", "spread"}, "what is shared is rounded once"
    assert not any(tensors[node.input[2]].any() for node in rounding)
    assert nodes(quantised, "Conv")[0].input[2] == "conv.bias"
    assert quantised.model.opset_import[0].version == GPU_OPSET


def test_weights_alone_lose_less_and_leave_nothing_behind(graph: Graph) -> None:
    light = calibrated(graph, samples(), Scheme(weights_only=True))
    assert not nodes(light, "QuantizeLinear") and len(nodes(light, "DequantizeLinear")) == 4
    assert "first.weight.half" not in {t.name for t in light.model.graph.initializer}, "the old weights are gone"
    exact, full, less = (open_graph(g, "onnxruntime")(samples()[0]) for g in (
        graph, calibrated(graph, samples(), Scheme()), light,
    ))  # fmt: skip
    assert snr_db([exact], [less]) > snr_db([exact], [full]) + 3


def test_external_weights_stay_where_they_are(tmp_path: Path) -> None:
    """A quantised graph lies beside the float one and reads its untouched weights from the same file."""
    onnx.save(
        small_graph().model, tmp_path / "float.onnx", save_as_external_data=True, location="weights.bin",
        size_threshold=64, convert_attribute=False,
    )  # fmt: skip
    size = (tmp_path / "weights.bin").stat().st_size
    read = Graph.read(tmp_path / "float.onnx")
    layer = next(layer for layer in find_layers(read) if layer.node == "conv")
    quantised = quantise(read, [layer], Scheme(weights_only=True), {})
    onnx.save(quantised.model, tmp_path / "int8.onnx")
    assert (tmp_path / "weights.bin").stat().st_size == size > 10 * (tmp_path / "int8.onnx").stat().st_size
    exact, seen = (
        open_graph(Graph.read(tmp_path / f"{n}.onnx"), "onnxruntime")(samples()[0]) for n in ("float", "int8")
    )
    np.testing.assert_allclose(seen[2], exact[2], rtol=1e-4, atol=1e-3)


# Which layers


@pytest.fixture(scope="module")
def trials(graph: Graph) -> Trials:
    scheme, layers = Scheme("int8", "gpu"), find_layers(graph)
    seen = ranges(graph, {n for layer in layers for n in scheme.tensors(layer)}, samples())
    return Trials(graph, layers, scheme, seen, samples())


def noise_of(graph: Graph, sample: dict[str, Any]) -> Callable[[Graph], float]:
    exact = open_graph(graph, "onnxruntime")(sample)
    return lambda other: snr_db([exact], [open_graph(other, "onnxruntime")(sample)])


def test_the_layer_with_outliers_is_found_and_spared(graph: Graph, trials: Trials) -> None:
    judge = noise_of(graph, samples()[0])
    reports = examine(trials, judge)
    by_node = {report.node: report for report in reports}
    assert min(by_node, key=lambda node: by_node[node].stage_db) == "hard"
    assert by_node["hard"].weights_db > by_node["hard"].stage_db + 3, "its activations are what is hard"
    assert sum(report.cost for report in reports) == pytest.approx(1)
    alone = judge(trials.build({"hard": "float"}))
    plan = spare(trials, reports, judge, alone - 0.1)
    assert plan.modes == {"conv": "8-bit", "first": "8-bit", "second": "8-bit", "hard": "float"}
    assert plan.rollout_db == pytest.approx(alone, abs=0.01)


def test_budgets_that_nothing_or_everything_meets(graph: Graph, trials: Trials) -> None:
    reports = [LayerReport(layer.node, layer.label, 0.25, 30.0, 30.0, 40.0) for layer in trials.layers]
    assert spare(trials, reports, lambda graph: 50.0, 34.0).count("8-bit") == 4
    nothing = spare(trials, reports, lambda graph: 50.0, 60.0)
    assert nothing.count("float") == 4 and nothing.rollout_db == MOST_DB
    on_cpu = replace(trials, scheme=Scheme(), seen=ranges(graph, ["image", "convolved", "tokens", "spread"], samples()))
    light = spare(on_cpu, reports, lambda g: 30.0 if nodes(g, "QuantizeLinear") else 50.0, 34.0)
    assert light.count("weights") == 4, "activations are given up before weights"
    modes: dict[str, Mode] = dict.fromkeys(light.modes, "float")
    assert not nodes(on_cpu.build(modes), "DequantizeLinear")


# Roll-outs


class Rounding(MockBackend):
    """A model that is off by a little, and by more the longer it has lived on its own context."""

    def __init__(self, off: float, growth: float) -> None:
        self.off, self.growth = off, growth

    def denoise(self, **inputs: Any) -> Any:
        velocity, keys, values = super().denoise(**inputs)
        age = float(inputs["cache_keys"].max())
        velocity = velocity - np.float32(self.off + self.growth * age)
        return velocity, keys + np.float32(1 + age), values


def drift_of(other: MockBackend, blocks: int = 12) -> Drift:
    scene = make_scenes([], None, (4,) * blocks, 128)[0]
    opening = lambda pictures: (pictures[:, 80:112, 48:80].mean((1, 2, 3)) < 100).astype(np.float32)  # noqa: E731
    return measure_drift(MockBackend(), other, speech(scene, MockBackend.config), opening)


def test_what_grows_is_told_from_what_does_not() -> None:
    same = drift_of(MockBackend())
    assert same.ways["free"].last_db == same.ways["forced"].last_db == 99
    assert same.sync is not None and same.sync.lost == 0 and same.passes(34)
    steady, growing = drift_of(Rounding(0.1, 0.0)), drift_of(Rounding(0.1, 0.02), blocks=24)
    assert steady.ways["free"].first_db < 60
    assert growing.ways["free"].begins_db - growing.ways["free"].ends_db > 1, "free runs feed on their own errors"
    assert growing.ways["forced"].begins_db - growing.ways["forced"].ends_db < 0.5, "forced ones do not"
    assert same.steady and not growing.steady
    ends_db = growing.ways["free"].ends_db
    assert growing.sync is not None and growing.passes(ends_db + 0.9) == (abs(growing.sync.lost) <= 0.02)
    assert not growing.passes(ends_db + 1.1)


def test_voice_curve_hears_vowels_and_no_hum() -> None:
    scene = make_scenes([], None, (8,), 128)[0]
    quiet = np.full_like(scene.windows, scene.windows.min())
    hum, vowel = quiet.copy(), quiet.copy()
    hum[:, :, :3], vowel[:, :, 10:20] = 3.0, 3.0
    assert voice_curve(vowel).mean() > 3 * voice_curve(hum).mean()
    assert voice_curve(hum).mean() == pytest.approx(voice_curve(quiet).mean())


def test_calibration_hears_and_does_everything() -> None:
    """Else layers that a state, an expression or a partner reaches would have no range."""
    recorder = Recorder(MockBackend(), most=30)
    for scene in make_scenes([], None, (4,) * 24, 128)[:3]:
        for _ in play(recorder, variety(scene, MockBackend.config)):
            pass
    calls = recorder.calls["denoise"]
    assert len(calls) == 30
    states = np.concatenate([call["state"].ravel() for call in calls])
    assert set(AvatarState) <= set(states.tolist())
    for name in ("audio", "listening", "expression", "pose", "cache_valid"):
        assert any(call[name].any() for call in calls) and not all(call[name].all() for call in calls), name


# The shipped model


def test_shipped_bundle_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its smallest stage; the whole takes minutes."""
    out = tmp_path / "small"
    portrait = sorted((Path(__file__).parents[1] / "assets" / "portraits").glob("*.jpg"))[0]
    code = main([
        "export", "quantize", "nano", "-o", str(out), "--stages", "audio", "--blocks", "3", "--tried-blocks", "2",
        "--portraits", str(portrait), "--budget-db", "30", "--json",
    ])  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert code == 0 and report["passes"] and report["rollout_db"] >= 30
    layers = report["stages"]["audio"]["layers"]
    assert sum(layer["cost"] for layer in layers) == pytest.approx(1, abs=0.01)
    assert all(20 < layer["stage_db"] < 80 for layer in layers)
    bundle = read_bundle(out)
    assert {"quantization.json", "QUANTIZATION.md"} <= set(bundle.files)
    kept = report["stages"]["audio"]["kept"]
    assert ("audio" in bundle.manifest["int8_stages"]) == kept == ("audio.int8.onnx" in bundle.files)
    assert gpu_file(bundle, "audio") == "audio.onnx", "what is for CPUs is not for GPUs"
    backend = open_backend(runtimes()[0], bundle, 1)
    assert backend.encode_audio(np.zeros((2, 32, 80), np.float32)).shape == (2, bundle.config.audio_width)


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "holiday.txt").write_text("kept")
    assert main(["export", "quantize", "nano", "-o", str(tmp_path)]) == 4
    assert main(["export", "quantize", "nano", "-o", str(tmp_path / "x"), "--precision", "fp8"]) == 2
    assert (tmp_path / "holiday.txt").read_text() == "kept" and "choose another folder" in capsys.readouterr().err
