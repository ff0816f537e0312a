"""Export to a bundle, and the backends that run it, against the torch model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exporting needs torch")
onnx = pytest.importorskip("onnx", reason="exporting needs onnx")
pytest.importorskip("onnxscript", reason="exporting needs onnxscript")

from apps.cli import main  # noqa: E402
from engine.backends.artefacts import ORIGIN_KEY, Origin, read_artefact, write_artefact  # noqa: E402
from engine.backends.cache import FOLDER_VARIABLE  # noqa: E402
from engine.backends.compose import compose  # noqa: E402
from engine.backends.notices import Notice, notices_to  # noqa: E402
from engine.backends.registry import open_backend  # noqa: E402
from engine.backends.torch import TorchBackend, open_checkpoint  # noqa: E402
from engine.bundle import Bundle, read_bundle, sha256_of  # noqa: E402
from engine.errors import BackendUnavailableError, BundleCorruptError, FileMissingError  # noqa: E402
from engine.model.avatar import AvatarModel, save_model  # noqa: E402
from engine.model.config import TINY  # noqa: E402
from engine.model.face_reader import FaceReader, ReaderConfig, load_reader, save_reader  # noqa: E402
from engine.model.layers import base_grid, resize, warp  # noqa: E402
from export.bundle import Choices, Exported, export_bundle  # noqa: E402
from export.operators import check_standard, drop_unused_domains  # noqa: E402
from export.parity import (  # noqa: E402
    FLOAT_DB,
    INT8_DB,
    Parity,
    Streamed,
    compare,
    compare_streams,
    psnr_db,
    roll_out,
)
from export.sampling import STUDENT, sampling_of  # noqa: E402
from export.scenes import Scene, make_scenes, stand_in_portrait  # noqa: E402
from export.tune import INT8_STAGES, Trial, int8_file, settle, variant  # noqa: E402

RUNTIMES = ("onnxruntime", "openvino")
BLOCKS = (4, 8, 1, 12, 2, 8, 8, 4, 8, 8)
SIDE = 128
READER = ReaderConfig(px=32, widths=(8, 8, 8), squeezed=4, hidden=8)


@dataclass(frozen=True)
class Case:
    checkpoint: Path
    reader: Path
    truth: TorchBackend
    exported: Exported
    scene: Scene
    streamed: list[Streamed]
    """The scene by torch."""

    @property
    def bundle(self) -> Bundle:
        return self.exported.bundle

    @property
    def plain(self) -> Bundle:
        return variant(self.bundle, ())

    def parity(self, runtime: str, bundle: Bundle) -> Parity:
        return compare_streams(self.streamed, list(roll_out(open_backend(runtime, bundle, 1), self.scene)))


@pytest.fixture(scope="module", autouse=True)
def no_cache() -> Iterator[None]:
    """For what is made once for all tests: before any of them has a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, "")
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of these tests is kept in the user's folders, and nothing there speeds them up."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A small model with random weights, exported with everything an export can do."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    model = AvatarModel(TINY, 10)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any():  # What starts at zero would hide whole branches.
                parameter.normal_(0, 0.02 if name.startswith("codec") else 0.2)
        model.codec.latent_scale.fill_(0.3)
    checkpoint, reader = folder / "model.safetensors", folder / "reader.safetensors"
    save_model(model, checkpoint, {"stage": "consistency", "step": 7, "test": {"psnr": 21.5}})
    save_reader(FaceReader(READER), reader, {})
    blocks = (4, 8, 8)
    choices = Choices(
        "small",
        STUDENT,
        aligner=reader,
        int8=True,
        keep_checkpoint=True,
        scenes=make_scenes([], None, blocks, SIDE)[:2],
    )
    with pytest.MonkeyPatch.context() as patch:
        # What is quickest differs by machine; these tests want the quantised graphs in any case.
        patch.setattr("export.tune.settle", lambda trials: ((), tuple(INT8_STAGES)))
        exported = export_bundle(checkpoint, folder / "models" / "small", choices)
    scene = make_scenes([], None, BLOCKS, SIDE)[0]
    truth = open_checkpoint(checkpoint, STUDENT)
    return Case(checkpoint, reader, truth, exported, scene, list(roll_out(truth, scene)))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_streamed_roll_out_is_that_of_torch(case: Case, runtime: str) -> None:
    result = case.parity(runtime, case.plain)
    assert len(result.psnr_db) == 10
    assert result.worst_db >= FLOAT_DB
    assert max(result.latent_error) < 0.05 * result.latent_spread


def test_roll_out_follows_voice_and_portrait(case: Case) -> None:
    """Else parity would compare constants."""
    first = case.streamed
    other = list(roll_out(case.truth, make_scenes([stand_in_portrait(9)], None, BLOCKS, SIDE)[0]))
    silent = Scene(case.scene.small, case.scene.large, np.full_like(case.scene.windows, -10), BLOCKS, case.scene.seed)
    assert psnr_db(first[1].frames, other[1].frames) < 30
    assert np.abs(first[1].latents - list(roll_out(case.truth, silent))[1].latents).max() > 0.02
    assert first[1].frames.std(axis=0).max() > 1, "frames of a block differ"


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("frames", [1, 2, 4, 8, 12])
def test_every_block_length(case: Case, runtime: str, frames: int) -> None:
    scene = make_scenes([], None, (frames,), SIDE)[1]
    assert compare(case.truth, open_backend(runtime, case.plain, 1), scene).worst_db >= FLOAT_DB


def test_eight_bits_are_near_enough_and_not_the_same(case: Case) -> None:
    trials = {trial.name: trial for trial in case.exported.trials}
    assert trials["float32"].worst_db >= FLOAT_DB
    for name in ("int8 decode", "int8 denoise", "int8"):
        assert INT8_DB <= trials[name].worst_db < trials["float32"].worst_db, name


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_eight_bit_graph_runs_on_both(case: Case, runtime: str) -> None:
    for stage in INT8_STAGES:
        graph = onnx.load(case.bundle.file(int8_file(stage)))
        assert sum(node.op_type == "DequantizeLinear" for node in graph.graph.node) > 5, stage
    assert INT8_DB <= case.parity(runtime, case.bundle).worst_db < case.parity(runtime, case.plain).worst_db


def _trial(name: str, ms: float, db: float = 60.0, denoise_ms: float = 1.0) -> Trial:
    bf16, int8 = (tuple(s for s in ("denoise", "decode") if f"{kind} {s}" in name) for kind in ("bf16", "int8"))
    return Trial(name, bf16, int8, db, denoise_ms, ms)


def test_precision_is_the_quickest_that_is_near_enough() -> None:
    plain, coarse = _trial("float32", 10), _trial("bf16 decode", 6)
    assert settle([plain, coarse]) == (("decode",), ())
    assert settle([plain, _trial("bf16 decode", 6, db=FLOAT_DB - 1)]) == ((), ())
    assert settle([plain, coarse, _trial("int8 decode", 3, db=INT8_DB)]) == ((), ("decode",))
    kept = settle([plain, coarse, _trial("int8 decode", 5.9)])
    assert kept == (("decode",), ("decode",)), "kept for others, not used here"
    assert settle([plain, coarse, _trial("int8 decode", 3, db=INT8_DB - 1)]) == (("decode",), ())
    assert settle([plain, _trial("int8 decode", 11)]) == ((), ())


def test_stages_are_quantised_one_by_one() -> None:
    plain, coarse = _trial("float32", 10), _trial("bf16 decode", 6)
    denoise = _trial("int8 denoise", 10, denoise_ms=0.6), _trial("int8 denoise, bf16 decode", 6, denoise_ms=0.6)
    decode = _trial("int8 decode", 9)
    both = _trial("int8 denoise, int8 decode", 9, denoise_ms=0.6)
    assert settle([plain, coarse, *denoise]) == (("decode",), ("denoise",))
    assert settle([plain, coarse, *denoise, decode, both]) == (("decode",), ("denoise", "decode"))
    slower = _trial("int8 denoise", 10, denoise_ms=1.1), _trial("int8 denoise, int8 decode", 9, denoise_ms=1.1)
    assert settle([plain, coarse, *slower, decode]) == (("decode",), ("decode",))


def test_manifest_tells_the_truth(case: Case) -> None:
    root, manifest = case.bundle.root, case.bundle.manifest
    on_disk = {path.name for path in root.iterdir()} - {"manifest.json"}
    assert on_disk == set(manifest["files"]) >= {"MODEL_CARD.md", "weights.bin", "aligner.onnx", "model.safetensors"}
    assert all((root / name).stat().st_size == entry["bytes"] for name, entry in manifest["files"].items())
    assert manifest["training"]["step"] == 7 and "Synthetic" in manifest["trained_on"]
    card = (root / "MODEL_CARD.md").read_text()
    assert "| psnr | 21.5 |" in card and "2 steps a block of 8 frames" in card


def test_graphs_hold_standard_operators_and_share_weights(case: Case) -> None:
    sizes = []
    for stage in ("reference", "audio", "denoise", "decode"):
        graph = onnx.load(case.bundle.root / f"{stage}.onnx", load_external_data=False)
        assert {opset.domain for opset in graph.opset_import} == {""}
        stored = [w for w in graph.graph.initializer if w.external_data]
        assert stored and all(w.data_type == onnx.TensorProto.FLOAT16 for w in stored)
        places = [{entry.key: entry.value for entry in weight.external_data} for weight in stored]
        sizes.append({place["offset"]: int(place["length"]) for place in places})
    shared = set(sizes[0]) & set(sizes[2])
    assert sum(sizes[0][offset] for offset in shared) > 0.4 * sum(sizes[2].values())


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["weights.bin", "audio.onnx"])
def test_altered_file_is_refused(case: Case, runtime: str, name: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(case.plain.root, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleCorruptError, match="manifest describes"):
        open_backend(runtime, read_bundle(copy), 1)


@pytest.mark.parametrize("name", ["../decode.onnx", "/etc/passwd", "C:\\x.onnx", "a/../../b.onnx"])
def test_path_out_of_the_folder_is_refused(case: Case, name: str, tmp_path: Path) -> None:
    manifest = json.loads((case.bundle.root / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleCorruptError, match="outside"):
        read_bundle(tmp_path)


def test_failed_export_leaves_the_old_bundle(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "models" / "small"
    shutil.copytree(case.bundle.root, out)
    before = (out / "manifest.json").read_text()

    def fail(*_: object) -> None:
        raise BundleCorruptError("no")

    monkeypatch.setattr("export.bundle._write_graphs", fail)
    with pytest.raises(BundleCorruptError):
        export_bundle(case.checkpoint, out, Choices("small"))
    assert (out / "manifest.json").read_text() == before
    assert [path.name for path in out.parent.iterdir()] == ["small"], "nothing half-made is left"


def test_missing_files_are_named(case: Case, tmp_path: Path) -> None:
    with pytest.raises(FileMissingError, match="nowhere"):
        export_bundle(tmp_path / "nowhere", tmp_path / "out", Choices("x"))
    with pytest.raises(FileMissingError, match="no-aligner"):
        export_bundle(case.checkpoint, tmp_path / "out", Choices("x", aligner=tmp_path / "no-aligner"))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_aligner_is_that_of_torch(case: Case, runtime: str) -> None:
    aligner = open_backend(runtime, case.plain, 1).aligner
    assert aligner is not None
    crop = stand_in_portrait(3, READER.px)
    reader, _ = load_reader(case.reader)
    expected = reader.landmarks(torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1)[0].detach().numpy()
    np.testing.assert_allclose(aligner(crop), expected, atol=1e-4)
    assert aligner(stand_in_portrait(3, 4 * READER.px)).shape == (28, 2)


def test_torch_backend_needs_a_checkpoint(case: Case) -> None:
    assert open_backend("torch", case.bundle).config == TINY
    bare = {name: digest for name, digest in case.bundle.files.items() if name != "model.safetensors"}
    with pytest.raises(BackendUnavailableError, match="keep-checkpoint"):
        open_backend("torch", Bundle(case.bundle.root, "x", TINY, STUDENT, bare, {}))


def test_composition_is_that_of_torch() -> None:
    random = np.random.default_rng(0)
    displacement = 0.05 * torch.nn.functional.interpolate(torch.randn(3, 2, 5, 5), size=(64, 64), mode="bicubic")
    paint = torch.rand(3, 4, 128, 128) * torch.tensor([2.0, 2, 2, 1])[:, None, None] - torch.tensor(
        [1.0, 1, 1, 0]
    ).view(4, 1, 1)
    picture = stand_in_portrait(int(random.integers(9)), 192)
    portrait = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    grid = base_grid(192, torch.device("cpu")) + resize(displacement, 192)
    blend = resize(paint[:, 3:], 192)
    image = blend * warp(portrait.expand(3, -1, -1, -1), grid, "bicubic") + (1 - blend) * resize(paint[:, :3], 192)
    expected = ((image + 1) * 127.5 + 0.5).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    assert psnr_db(compose(displacement.numpy(), paint.numpy(), portrait.numpy()), expected) > 50


def test_manifest_says_where_the_graphs_come_from(case: Case) -> None:
    origin = Origin.from_dict(case.bundle.manifest[ORIGIN_KEY])
    assert (origin.library, origin.library_version, origin.device) == ("onnx", onnx.__version__, "any")
    assert origin.sources == {"model.safetensors": sha256_of(case.checkpoint)}
    assert origin.settings == {"opset": 18, "traced by": f"torch {torch.__version__}"}
    assert origin.precisions["weights"] == "float16" and case.bundle.manifest["made_by"].startswith("visavis ")


def test_every_graph_declares_standard_operators_only(case: Case) -> None:
    names = [name for name in case.bundle.files if name.endswith(".onnx")]
    assert {"decode.int8.onnx", "aligner.onnx"} <= set(names)
    for name in names:
        graph = onnx.load(case.bundle.root / name, load_external_data=False)
        check_standard(graph, name)
        assert {opset.domain for opset in graph.opset_import} == {""}, name


def test_state_is_explicit_and_one_graph_takes_every_length(case: Case) -> None:
    graph = onnx.load(case.bundle.root / "denoise.onnx", load_external_data=False).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes["latents"][:2] == shapes["velocity"][:2] == ["sessions", "frames"]
    assert shapes["cache_keys"][1] == "sessions" and {"cache_values", "cache_valid", "keys", "values"} <= set(shapes)


def _graph(domain: str = "", opset: int = 18, inside: bool = False) -> onnx.ModelProto:
    node = onnx.helper.make_node("Relu", ["x"], ["y"], domain=domain)
    if inside:
        branch = onnx.helper.make_graph([node], "branch", [], [])
        node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    declared = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.example", 1)]
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []), opset_imports=declared)


def test_other_operators_are_refused() -> None:
    check_standard(_graph(), "fine.onnx")
    for inside in (False, True):
        with pytest.raises(BundleCorruptError, match=r"odd\.onnx uses com\.example\.Relu"):
            check_standard(_graph("com.example", inside=inside), "odd.onnx")
    for opset in (15, 22):
        with pytest.raises(BundleCorruptError, match=f"opset {opset}"):
            check_standard(_graph(opset=opset), "odd.onnx")


def test_declared_and_unused_domains_are_dropped() -> None:
    plain, used = _graph(), _graph("com.example", inside=True)
    for graph in (plain, used):
        drop_unused_domains(graph)
    assert [entry.domain for entry in plain.opset_import] == [""]
    assert [entry.domain for entry in used.opset_import] == ["", "com.example"]


def test_kept_graphs_compute_the_same(case: Case, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(roll_out(open_backend("openvino", case.plain, 1), case.scene))

    def compile_nothing(*_: object) -> None:
        raise AssertionError("it is kept, so nothing is to be compiled")

    monkeypatch.setattr("engine.backends.openvino._Compiler._compile", compile_nothing)
    again = list(roll_out(open_backend("openvino", case.plain, 1), case.scene))
    assert min(compare_streams(first, again).psnr_db) > 80, "in the same precision"
    with pytest.raises(AssertionError, match="it is kept"):
        open_backend("openvino", case.plain, 2)


def test_kept_graphs_that_openvino_refuses_are_built_again(case: Case, own_cache: Path) -> None:
    """As after an update that the version does not tell of."""
    open_backend("openvino", case.plain, 1)
    entry = next((own_cache / "engines").glob("[!.]*"))
    (entry / "decode.blob").write_bytes(b"of another build")
    write_artefact(entry, read_artefact(entry).origin)
    notices: list[Notice] = []
    with notices_to(notices.append):
        assert case.parity("openvino", case.plain).worst_db >= FLOAT_DB
        open_backend("openvino", case.plain, 1)
    assert len(notices) == 1 and "what was kept is refused" in notices[0].text


@pytest.fixture(scope="module")
def in_own_format(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle in OpenVINO's own format, by the command."""
    out = tmp_path_factory.mktemp("own") / "small"
    assert main(["export", "openvino", str(case.bundle.root), "-o", str(out), "--threads", "1", "--json"]) == 0
    return out


def test_openvinos_own_format_computes_the_same(case: Case, in_own_format: Path) -> None:
    made = read_bundle(in_own_format)
    assert not any(name.endswith((".onnx", ".safetensors")) for name in made.files)
    origin = Origin.from_dict(made.manifest[ORIGIN_KEY])
    assert origin.library == "openvino" and origin.sources["denoise.onnx"] == case.bundle.files["denoise.onnx"]
    backend = open_backend("auto", made, 1)
    assert backend.name == "openvino" and backend.aligner is not None
    before = list(roll_out(open_backend("openvino", case.bundle, 1), case.scene))
    assert compare_streams(before, list(roll_out(backend, case.scene))).worst_db > 80


@pytest.mark.parametrize("name", ["audio.bin", "decode.int8.bin", "audio.xml"])
def test_altered_openvino_file_is_refused(in_own_format: Path, name: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(in_own_format, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleCorruptError, match="manifest describes"):
        open_backend("openvino", read_bundle(copy), 1)


def test_openvinos_own_format_is_not_exported_twice(in_own_format: Path, tmp_path: Path) -> None:
    assert main(["export", "openvino", str(in_own_format), "-o", str(tmp_path / "again")]) == 2
    assert not (tmp_path / "again").exists()


def test_auto_takes_a_real_backend(case: Case) -> None:
    assert open_backend("auto", case.bundle, 1).name in RUNTIMES


def test_sampling_comes_from_the_checkpoint(case: Case, tmp_path: Path) -> None:
    assert sampling_of(case.checkpoint) == STUDENT
    path = tmp_path / "own.safetensors"
    save_model(AvatarModel(TINY), path, {"sampling": {"steps": 3}})
    assert sampling_of(path).steps == 3


def test_command_reports_parity(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "export",
        "parity",
        str(case.checkpoint),
        str(case.bundle.root),
        "--blocks",
        "3",
        "--size",
        "128",
        "--json",
    ]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["backends"]) == set(RUNTIMES)
    assert all(result["passes"] and len(result["psnr_db"]) == 3 for result in report["backends"].values())


def test_command_reports_a_miss(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    save_model(AvatarModel(TINY), other, {})
    assert (
        main(
            [
                "export",
                "parity",
                str(other),
                str(case.bundle.root),
                "--blocks",
                "2",
                "--size",
                "128",
                "--threads",
                "1",
                "--json",
            ]
        )
        == 1
    )
    assert not json.loads(capsys.readouterr().out)["backends"]["openvino"]["passes"]


def test_command_refuses_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "onnx", str(tmp_path / "none.safetensors"), "-o", str(tmp_path / "out")]) == 3
    assert "there is no checkpoint" in capsys.readouterr().err
    (tmp_path / "text.safetensors").write_text("not weights")
    assert main(["export", "onnx", str(tmp_path / "text.safetensors"), "-o", str(tmp_path / "out")]) == 3
    assert "unreadable_file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
