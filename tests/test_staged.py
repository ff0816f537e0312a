"""A published run, rehearsed: three stages on a processor, what they leave, and what they may import."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_people import FakePeople, write_cast

from engine.errors import ArgumentError, FileMissingError, WeightsDamagedError
from engine.model.avatar import load_model
from engine.model.config import SIZES
from training.data.takes import TakeSettings
from training.shards_io import SHARD_BYTES, load_shards
from training.staged.plan import STAGES, RunRecipe, Stage, load_recipe, rehearsal
from training.staged.product import METRICS, SAMPLES, assemble
from training.staged.run import run_stage

ROOT = Path(__file__).resolve().parent.parent


def quick(recipe: RunRecipe) -> RunRecipe:
    """The rehearsal with still fewer steps, and takes as short as the fakes perform."""
    plans: dict[str, Any] = {}
    for stage in STAGES:
        plan = rehearsal(recipe).plan(stage)
        take = TakeSettings(plan.take.kind, 128, 4 if stage == "codec" else 34)
        plans[stage] = replace(plan, steps=3, sample_every=3, take=take, fill=1, batch=4)
    return replace(rehearsal(recipe), audio_steps=2, audio_batch=64, **plans)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Stage, dict[str, Any]]]:
    """All three stages, one after the other, and their figures."""
    folder = tmp_path_factory.mktemp("run")
    cast, recipe = write_cast(folder / "cast"), quick(load_recipe("h200"))
    figures = {
        stage: run_stage(recipe, stage, cast, folder / "out", work=folder / "work", device="cpu", people=FakePeople)
        for stage in STAGES
    }
    return folder, figures


def test_each_stage_leaves_a_few_small_files(finished: tuple[Path, dict[Stage, dict[str, Any]]]) -> None:
    folder, figures = finished
    for stage in STAGES:
        files = sorted((folder / "out" / stage).iterdir())
        assert {METRICS, SAMPLES, "weights.json"} <= {path.name for path in files}
        assert len(files) <= 8 and all(path.stat().st_size <= SHARD_BYTES for path in files)
        metrics = json.loads((folder / "out" / stage / METRICS).read_text(), parse_constant=pytest.fail)
        assert metrics["step"] == figures[stage]["step"] == 3
        assert metrics["takes"] >= 1 and metrics["worker_deaths"] == 0 and metrics["test"]


def test_later_stages_keep_what_earlier_ones_made(finished: tuple[Path, dict[Stage, dict[str, Any]]]) -> None:
    folder, _ = finished
    codec, teacher, student = (load_shards(folder / "out" / stage)[0] for stage in STAGES)
    name = "codec.encoder.layers.0.1.weight"
    torch.testing.assert_close(student[name], codec[name])
    assert float(student["codec.latent_scale"]) == float(teacher["codec.latent_scale"]) != 1.0
    assert float(codec["codec.latent_scale"]) == 1.0
    moved = [k for k in teacher if k.startswith("denoiser.") and not torch.equal(teacher[k], student[k])]
    assert moved


def test_a_run_becomes_one_checkpoint(finished: tuple[Path, dict[Stage, dict[str, Any]]], tmp_path: Path) -> None:
    model, meta = load_model(assemble(finished[0] / "out", tmp_path))
    assert model.config == SIZES["tiny"] and meta["stage"] == "consistency" and meta["guidance"] == 1.5
    with pytest.raises(FileMissingError):
        assemble(tmp_path, tmp_path / "other")


def test_a_finished_stage_is_trained_further(
    finished: tuple[Path, dict[Stage, dict[str, Any]]], tmp_path: Path
) -> None:
    folder, _ = finished
    recipe = quick(load_recipe("h200"))
    figures = run_stage(
        recipe, "student", folder / "cast", tmp_path / "out", before=folder / "out", work=tmp_path / "work",
        device="cpu", people=FakePeople,
    )  # fmt: skip
    assert figures["step"] == 3
    before, after = (load_shards(root / "out" / "student")[0] for root in (folder, tmp_path))
    assert before.keys() == after.keys()
    assert not torch.equal(before["denoiser.final.weight"], after["denoiser.final.weight"])


def test_stages_come_in_order_and_sizes_must_agree(
    finished: tuple[Path, dict[Stage, dict[str, Any]]], tmp_path: Path
) -> None:
    folder, _ = finished
    recipe = quick(load_recipe("h200"))
    with pytest.raises(FileMissingError, match="codec"):
        run_stage(recipe, "teacher", folder / "cast", tmp_path, people=FakePeople)
    with pytest.raises(WeightsDamagedError, match="another model"):
        run_stage(replace(recipe, size="nano"), "teacher", folder / "cast", tmp_path, before=folder / "out")
    with pytest.raises(ArgumentError, match="h200"):
        load_recipe("nothing")


def test_the_published_run_keeps_its_bounds() -> None:
    """What three commands on a rented machine can take: ten minutes each, half an hour in all."""
    recipe = load_recipe("h200")
    minutes = [recipe.plan(stage).minutes for stage in STAGES]
    assert max(minutes) + recipe.audio_minutes <= 8.5 and sum(minutes) <= 24
    assert all(recipe.plan(s).fill <= recipe.plan(s).places for s in STAGES)


_BARE = """
import sys
missing = {{"anny", "mediapipe", "av", "rich", "soxr", "kokoro", "hibari", "hibari_tts", "librosa", "openvino",
           "onnxruntime", "onnx", "moderngl", "matplotlib"}}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.path[:0] = {paths!r}
import training.data.stream, training.staged.codec, training.staged.denoiser, training.staged.product
from apps.cli import build_parser
words = "train recipe h200 --stage codec --cast c --out o".split()
assert build_parser(words).parse_args(words).part == "codec"
from training.progress import progress_bar
with progress_bar("bare") as show:
    show(0.5, "")
"""


def test_a_bare_machine_can_train() -> None:
    """Fitting, voices, media and inference packages stay out; torch, numpy, OpenCV, scipy and safetensors suffice."""
    code = _BARE.format(paths=[str(ROOT), str(ROOT / "apps" / "api")])
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
