"""TensorRT: typed graphs and engines of the shipped bundle, what is refused, and the runtime on a pretended GPU."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="typing graphs needs onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="the pretended GPU computes with ONNX Runtime")

from fake_gpu import FakeGpu, fake_library  # noqa: E402

from apps.cli import main  # noqa: E402
from apps.doctor.examine import why_not  # noqa: E402
from engine.backends.artefacts import MANIFEST, Artefact, graph_hashes, read_artefact, write_artefact  # noqa: E402
from engine.backends.cache import FOLDER_VARIABLE as CACHE_VARIABLE  # noqa: E402
from engine.backends.gpu.build import ENGINE, Plan, build_engine, build_into  # noqa: E402
from engine.backends.gpu.folder import FOLDER_VARIABLE, OWN_FOLDER  # noqa: E402
from engine.backends.gpu.library import open_library  # noqa: E402
from engine.backends.gpu.origin import origin_of  # noqa: E402
from engine.backends.gpu.stage import EngineStage  # noqa: E402
from engine.backends.notices import notices_to  # noqa: E402
from engine.backends.registry import candidates, kind_of, open_backend  # noqa: E402
from engine.backends.tensorrt import TensorrtBackend, find_artefact, open_with  # noqa: E402
from engine.bundle import Bundle, read_bundle, shipped_models  # noqa: E402
from engine.errors import (  # noqa: E402
    ArtefactCorruptError,
    ArtefactStaleError,
    BackendFailedError,
    BackendUnavailableError,
    EngineBuildError,
)
from engine.scheduler import MAX_BATCH  # noqa: E402
from export.manifest import write_manifest  # noqa: E402
from export.parity import FLOAT_DB, compare  # noqa: E402
from export.quantize.calibrate import calibrated  # noqa: E402
from export.quantize.qdq import Scheme  # noqa: E402
from export.quantize.results import GPU_KEY  # noqa: E402
from export.quantize.running import read_stage  # noqa: E402
from export.scenes import make_scenes, stand_in_portrait  # noqa: E402
from export.tensorrt.engines import typed_graphs  # noqa: E402
from export.tensorrt.extents import SESSIONS, ranges  # noqa: E402
from export.tensorrt.typed import HEAVY, PRECISIONS  # noqa: E402

SIDE = 160
"""No power of two, and not the size that anything is painted at."""
BLOCKS = (4, 2, 4)


@lru_cache
def typed_nano(precision: str) -> dict[str, onnx.ModelProto]:
    return typed_graphs(read_bundle(shipped_models() / "nano"), precision)


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return read_bundle(shipped_models() / "nano")


@pytest.fixture(scope="module")
def graphs() -> dict[str, bytes]:
    return {stage: graph.SerializeToString() for stage, graph in typed_nano("fp16").items()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def exported(shipped: Bundle, graphs: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact that a pretended TensorRT built for sm_86."""
    folder = tmp_path_factory.mktemp("engines")
    library, plan = fake_library(FakeGpu()), Plan("fp16", ranges(shipped.config, shipped.sampling), ("sm_86",))
    build_into(folder, library, graphs, plan, lambda _: None)
    write_artefact(folder, origin_of(library, plan, graph_hashes(shipped), tuple(graphs)))
    return folder


def opened(bundle: Bundle, folder: Path, gpu: FakeGpu, **how: object) -> TensorrtBackend:
    return open_with(bundle, read_artefact(folder), fake_library(gpu, **how), gpu)  # type: ignore[arg-type]


# --- graphs


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_is_heavy_is_computed_in_16_bits_and_callers_see_float32(precision: str) -> None:
    for stage, model in typed_nano(precision).items():
        weights = {weight.name: weight.data_type for weight in model.graph.initializer}
        heavy = [node for node in model.graph.node if node.op_type in HEAVY]
        kernels = [weights[name] for node in heavy for name in node.input[1:] if name in weights]
        assert kernels and set(kernels) == {PRECISIONS[precision]}, stage
        ends = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]
        assert not {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16} & set(ends), stage


def test_what_was_quantised_for_gpus_is_what_is_built(shipped: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(shipped.root, tmp_path / "eight")
    sample = {"windows": np.random.default_rng(0).normal(-5, 3, (4, 32, 80)).astype(np.float32)}
    eight = calibrated(read_stage(shipped, "audio"), [sample], Scheme("int8", "gpu"))
    onnx.save(eight.model, folder / "audio.int8.gpu.onnx")
    write_manifest(folder, {**shipped.manifest, GPU_KEY: {"audio": "audio.int8.gpu.onnx"}})
    made = typed_graphs(read_bundle(folder), "fp16")
    rounding = {stage: sum(node.op_type == "QuantizeLinear" for node in made[stage].graph.node) for stage in made}
    assert rounding.pop("audio") > 3 and not any(rounding.values())


def test_fp32_graphs_hold_no_16_bit_number() -> None:
    for model in typed_nano("fp32").values():
        assert onnx.TensorProto.FLOAT16 not in {weight.data_type for weight in model.graph.initializer}


def test_positions_are_never_rounded_after_the_last_product() -> None:
    graph = typed_nano("fp16")["decode"].graph
    made_by = {name: node for node in graph.node for name in node.output}
    waiting = [node.input[1] for node in graph.node if node.op_type == "GridSample"]
    assert len(waiting) == 3  # Two of the network's, and the portrait's own.
    kinds = set()
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None or node.op_type in HEAVY:
            continue
        kinds.add(node.op_type)
        assert onnx.TensorProto.FLOAT16 not in [a.i for a in node.attribute if node.op_type == "Cast"], node.name
        waiting += node.input
    assert "Tanh" in kinds


# --- engines, really built


needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


@needs_rtx
def test_engines_of_every_stage_build_without_a_gpu(shipped: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "engines"
    assert main(["export", "tensorrt", str(shipped.root), "-o", str(out), "--library", "tensorrt_rtx", "--json"]) == 0
    artefact = read_artefact(out)
    artefact.verify()
    assert artefact.origin.library == "tensorrt_rtx" and artefact.origin.sources == graph_hashes(shipped)
    assert {"sm_86", "sm_89", "sm_120"} <= set(artefact.origin.device.split())
    for stage in ("reference", "audio", "denoise", "decode"):
        assert (out / f"{stage}{ENGINE}").stat().st_size > (out / f"{stage}.onnx").stat().st_size // 2


@needs_rtx
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_other_precisions_build_too(shipped: Bundle, precision: str) -> None:
    plan = Plan(precision, ranges(shipped.config, shipped.sampling), ("sm_86",))
    audio = typed_nano(precision)["audio"].SerializeToString()
    assert build_engine(open_library(("tensorrt_rtx",)), "audio", audio, plan)


@needs_rtx
def test_a_target_that_the_library_lacks_is_named(shipped: Bundle, graphs: dict[str, bytes]) -> None:
    plan = Plan("fp16", ranges(shipped.config, shipped.sampling), ("sm_90",))
    with pytest.raises(BackendUnavailableError, match=r"no target sm_90; it has .*SM86"):
        build_engine(open_library(("tensorrt_rtx",)), "audio", graphs["audio"], plan)


@needs_rtx
def test_a_graph_that_cannot_be_read_is_an_error_that_says_so(shipped: Bundle) -> None:
    with pytest.raises(EngineBuildError, match="cannot read the audio graph"):
        build_engine(open_library(("tensorrt_rtx",)), "audio", b"no graph", Plan("fp16", {}, ("sm_86",)))


def test_the_largest_batch_fits() -> None:
    assert SESSIONS == MAX_BATCH


# --- what is refused


def test_without_engines_the_message_says_how_to_make_them(shipped: Bundle) -> None:
    with pytest.raises(BackendUnavailableError, match="run: visavis export tensorrt"):
        find_artefact(shipped)


def test_a_folder_without_engines_is_named(shipped: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(BackendUnavailableError, match=FOLDER_VARIABLE):
        find_artefact(shipped)


def test_engines_of_other_weights_are_stale(shipped: Bundle, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(exported))
    other = replace(shipped, files={**shipped.files, "weights.bin": "0" * 64})
    assert find_artefact(shipped).origin.library == "tensorrt_rtx"
    with pytest.raises(ArtefactStaleError, match="other weights"):
        find_artefact(other)


def test_a_tampered_engine_is_refused_before_it_is_loaded(shipped: Bundle, exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "engines"))
    content = bytearray((folder / "denoise.engine").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "denoise.engine").write_bytes(content)
    gpu = FakeGpu()
    with pytest.raises(ArtefactCorruptError, match=r"denoise\.engine"):
        opened(shipped, folder, gpu)
    assert not gpu.streams


def test_an_engine_that_the_library_does_not_load_is_stale(shipped: Bundle, exported: Path) -> None:
    with pytest.raises(ArtefactStaleError, match="the fake says no"):
        opened(shipped, exported, FakeGpu(), loads=False)


def test_without_a_gpu_the_backend_says_what_is_missing(
    shipped: Bundle, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("cuda") and _has_gpu():
        pytest.skip("there is a GPU")
    monkeypatch.setenv(FOLDER_VARIABLE, str(exported))
    with pytest.raises(BackendUnavailableError, match=r"GPU|tensorrt"):
        open_backend("tensorrt", shipped)


def _has_gpu() -> bool:
    from cuda.bindings import runtime

    return not int(runtime.cudaGetDeviceCount()[0])


# --- engines for another GPU


@pytest.mark.parametrize(
    ("gpu", "library"),
    [
        (FakeGpu("sm_89"), {"name": "tensorrt_rtx", "version": "1.0"}),
        (FakeGpu("sm_86"), {"name": "tensorrt_rtx", "version": "2.0"}),
        (FakeGpu("sm_90"), {"name": "tensorrt", "version": "10.0"}),
    ],
    ids=["architecture", "version", "library"],
)
def test_engines_are_built_again_once_for_another(
    shipped: Bundle, exported: Path, gpu: FakeGpu, library: dict[str, str], own_cache: Path
) -> None:
    lines: list[str] = []
    with notices_to(lambda notice: lines.append(notice.text)):
        opened(shipped, exported, gpu, **library).close()
        told = len(lines)
        opened(shipped, exported, gpu, **library).close()
    assert told >= 5 and len(lines) == told  # One for the whole, one for each stage, and none the second time.
    kept = [read_artefact(path.parent) for path in (own_cache / "engines").glob(f"*/{MANIFEST}")]
    assert [k.origin.device for k in kept] == [gpu.architecture]


def test_engines_that_cannot_be_built_again_are_an_error(shipped: Bundle, exported: Path) -> None:
    with pytest.raises(EngineBuildError, match="built no engine"):
        opened(shipped, exported, FakeGpu("sm_89"), builds=False)


def test_the_doctor_says_what_to_export(shipped: Bundle, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.doctor.examine.installed", lambda _: True)
    monkeypatch.setattr("engine.backends.tensorrt.check_device", lambda: None)
    assert why_not(kind_of("tensorrt"), shipped).endswith(f"visavis export tensorrt {shipped.root}")
    monkeypatch.setenv(FOLDER_VARIABLE, str(exported))
    assert why_not(kind_of("tensorrt"), shipped) == ""


def test_engines_of_the_bundles_own_folder_are_found(shipped: Bundle, exported: Path, tmp_path: Path) -> None:
    root = tmp_path / "nano"
    root.mkdir()
    shutil.copytree(exported, root / OWN_FOLDER)
    assert find_artefact(replace(shipped, root=root)).root == root / OWN_FOLDER


def test_auto_thinks_of_tensorrt_once_engines_were_exported(
    shipped: Bundle, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.backends.registry.installed", lambda _: True)
    assert "tensorrt" not in candidates(shipped)
    monkeypatch.setenv(FOLDER_VARIABLE, str(exported))
    assert candidates(shipped)[0] == "tensorrt"


# --- running


def test_fp16_graphs_agree_with_float32_over_a_roll_out(shipped: Bundle, exported: Path) -> None:
    """Whole: typing, composition in the graph, buffers, captured graphs and the block loop."""
    scene = make_scenes([stand_in_portrait(3)], None, BLOCKS, SIDE)[0]
    gpu = FakeGpu()
    backend = opened(shipped, exported, gpu)
    result = compare(open_backend("onnxruntime", replace(shipped, manifest={}), 1), backend, scene)
    backend.close()
    assert result.worst_db >= FLOAT_DB
    assert gpu.launches > 0 and not gpu.memory
    assert kind_of(backend.name).gpu


def test_each_set_of_shapes_is_captured_once_and_then_launched(graphs: dict[str, bytes]) -> None:
    gpu = FakeGpu()
    stage = EngineStage("audio", fake_library(gpu, "tensorrt"), gpu, graphs["audio"], None)
    random = np.random.default_rng(0)
    for frames in (2, 5, 2, 2, 5):
        windows = random.standard_normal((frames, 32, 80), np.float32)
        (embeddings,) = stage({"windows": windows})
        (expected,) = _by_hand(graphs["audio"], {"windows": windows})
        assert np.array_equal(embeddings, expected)
    # Two shapes, each queued once to run and once to be noted; the three other calls are launches.
    assert (stage.captured, gpu.queued, gpu.launches, gpu.contexts) == (2, 4, 3, 2)
    stage.close()
    assert not gpu.memory


@pytest.mark.parametrize(("library", "contexts"), [("tensorrt", 1), ("tensorrt_rtx", 2)])
def test_what_cannot_be_captured_still_runs(graphs: dict[str, bytes], library: str, contexts: int) -> None:
    """TensorRT-RTX is then told to capture by itself, which takes another context."""
    gpu = FakeGpu(captures=False)
    stage = EngineStage("audio", fake_library(gpu, library), gpu, graphs["audio"], None)
    windows = np.ones((3, 32, 80), np.float32)
    for scale in (1, 2):
        (expected,) = _by_hand(graphs["audio"], {"windows": scale * windows})
        assert np.array_equal(stage({"windows": scale * windows})[0], expected)
    assert (stage.captured, gpu.launches, gpu.contexts) == (0, 0, contexts)


def test_results_belong_to_the_caller(graphs: dict[str, bytes]) -> None:
    gpu = FakeGpu()
    stage = EngineStage("audio", fake_library(gpu), gpu, graphs["audio"], None)
    first = stage({"windows": np.zeros((1, 32, 80), np.float32)})[0]
    before = first.copy()
    stage({"windows": np.ones((1, 32, 80), np.float32)})
    assert np.array_equal(first, before)


def test_what_lasts_is_uploaded_only_when_it_is_another(graphs: dict[str, bytes]) -> None:
    """Two sessions take turns with one decoder."""
    gpu, random = FakeGpu(), np.random.default_rng(0)
    lasting = ("latent", "fine", "coarse", "portrait")
    stage = EngineStage("decode", fake_library(gpu), gpu, graphs["decode"], None, lasting)
    shapes = ((1, 32, 4, 4), (1, 24, 64, 64), (1, 48, 32, 32), (1, 3, SIDE, SIDE))
    sessions = [
        {name: random.uniform(-1, 1, shape).astype(np.float32) for name, shape in zip(lasting, shapes, strict=True)}
        for _ in range(2)
    ]
    uploads = []
    for session in (0, 0, 1, 0):
        inputs = {"latents": random.standard_normal((2, 32, 4, 4), np.float32), **sessions[session]}
        before = gpu.uploads
        (pictures,) = stage(inputs)
        uploads.append(gpu.uploads - before)
        assert np.array_equal(pictures, _by_hand(graphs["decode"], inputs)[0])
    # The first call runs, and is noted; the latents travel every time, the four others when they change.
    assert uploads == [5, 1, 5, 5]


def test_shapes_beyond_the_engine_are_refused_and_leave_nothing(graphs: dict[str, bytes]) -> None:
    gpu = FakeGpu()
    stage = EngineStage("audio", fake_library(gpu), gpu, graphs["audio"], None)
    with pytest.raises(BackendFailedError, match=r"not built for windows of shape \(1, 32, 81\)"):
        stage({"windows": np.zeros((1, 32, 81), np.float32)})
    assert not gpu.memory


def test_a_failing_gpu_is_a_backend_failure(shipped: Bundle, exported: Path) -> None:
    gpu = FakeGpu()
    backend = opened(shipped, exported, gpu)
    gpu.broken = True
    with pytest.raises(BackendFailedError, match="illegal memory access"):
        backend.encode_audio(np.zeros((1, 32, 80), np.float32))
    backend.close()
    with pytest.raises(BackendFailedError, match="closed"):
        backend.encode_audio(np.zeros((1, 32, 80), np.float32))


def test_compiled_kernels_are_kept_for_the_next_run(shipped: Bundle, exported: Path, own_cache: Path) -> None:
    backend = opened(shipped, exported, FakeGpu())
    backend.encode_audio(np.zeros((1, 32, 80), np.float32))
    backend.close()
    assert [path.read_bytes() for path in (own_cache / "tensorrt").glob("*.kernels")] == [b"kernels"]


def _by_hand(graph: bytes, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]).run(None, inputs)


def test_the_manifest_of_an_artefact_is_plain_json(exported: Path) -> None:
    origin = json.loads((exported / MANIFEST).read_text())["origin"]
    assert origin["settings"]["side"] == "128 512 1024"
    assert isinstance(read_artefact(exported), Artefact)
