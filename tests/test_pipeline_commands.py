"""Pipelines from the command line, with the mock model: planned, measured, saved and used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faces import draw_face
from test_cli import pictures
from test_media import tone, write_wav

import apps.bench.pipeline
from apps.bench.pipeline import (
    Case,
    Film,
    PlanRow,
    core_sets,
    costs_of,
    encoder,
    measure_case,
    open_studio,
    predict_fps,
)
from apps.bench.setup import Settings
from apps.cli import main
from engine import engine
from engine.backends.mock import MockBackend
from engine.engine import AvatarEngine
from engine.pipeline.placing import usable_cores
from engine.pipeline.plan import Place, Plan, read_plan
from export.pipeline.layouts import candidates

CORE_SETS = pytest.mark.skipif(len(usable_cores()) < 2, reason="two cores are needed for two core sets")


class FakeStudio:
    """Films by a plan take as long as they were told to."""

    def __init__(self, fps: dict[str, float]) -> None:
        self.fps, self.made = fps, []
        self.folder = Path()

    def engine(self, plan: Plan | None) -> AvatarEngine:
        return AvatarEngine(MockBackend(), "mock")

    def film(self, case: Case, plan: Plan | None) -> Film:
        self.made.append(str(plan))
        block = {"audio_ms": 1.0, "denoise_ms": 20.0, "decode_ms": 50.0, "compose_ms": 14.0, "encode_ms": 9.0}
        return Film(self.fps.get(str(plan), 10.0 + len(self.made)), 5.0, 1.0, block, [block])

    def fingerprint(self, case: Case, plan: Plan | None) -> str:
        return "other" if plan is not None and plan.place_of("denoise").apart else "same"


def test_a_case_measures_in_turns_and_compares_with_one_worker() -> None:
    plans = candidates(Place("cpu", (0,)), Place("cpu", (1,)))
    apart = Plan.parse("denoise@cpu:0:process/decode@cpu:1")
    best = "denoise@cpu:0/decode@cpu:1/compose+encode@cpu:0"
    studio: Any = FakeStudio({str(plans[0]): 80.0, best: 150.0})
    report = measure_case(studio, Case(256, "h264"), plans, apart, 3)
    order = [str(plans[0]), "denoise@cpu:0/decode+compose+encode@cpu:1", best, str(apart), "None"]
    other = "denoise+decode+compose+encode@cpu:1"
    # One film for the costs, then every plan in each turn, between looks at how quiet the other core is.
    assert studio.made == [str(plans[0]), other, *order * 3, other]
    rows = {row.plan: row for row in report.plans}
    assert report.best == best and rows[best].fps_to_one == 150 / 80
    assert rows[best].predicted_fps == predict_fps(Plan.parse(best), report.costs)[0]
    assert rows[best].error_share == pytest.approx(rows[best].predicted_fps / 150 - 1)
    assert rows[best].same is True and rows[str(apart)].same is False
    assert rows["no plan, all cores"].same is None and rows["no plan, all cores"].predicted_fps is None
    assert report.costs.block.denoise_ms == 19, "the denoiser's time is without the audio encoder's"


def test_the_prediction_counts_the_bubble_at_the_start() -> None:
    block = {"audio_ms": 0.0, "denoise_ms": 10.0, "decode_ms": 10.0, "compose_ms": 0.0, "encode_ms": 0.0}
    costs = costs_of([Film(1.0, 1.0, 1.0, block, [block])], AvatarEngine(MockBackend(), "mock"))
    plan = Plan.parse("denoise@cpu:0/decode+compose@cpu:1/encode@cpu:1")
    # Fourteen blocks of 10 ms, and 10 ms before the second stage has any.
    assert predict_fps(plan, costs, 108)[0] == pytest.approx(108e3 / 150)


def test_encoders(tmp_path: Path) -> None:
    for name in (*apps.bench.pipeline.ENCODERS, "none"):
        with encoder(Case(128, name), tmp_path, 1) as write:
            write(np.zeros((128, 128, 3), np.uint8))


@CORE_SETS
@CORE_SETS
def test_the_engine_for_all_cores_is_opened_before_those_of_core_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def load(*arguments: Any, pipeline: Plan | None = None) -> AvatarEngine:
        opened.append(pipeline)
        return engine.load(*arguments, pipeline=pipeline)

    monkeypatch.setattr(apps.bench.pipeline, "load", load)
    first, second = core_sets()
    with open_studio(Settings(model="mock", backend="mock"), (first, second, Place())) as studio:
        assert set(studio.engines) == {first, second, Place()}
    assert opened[0] is None and None not in opened[1:]


@CORE_SETS
def test_bench_measures_a_pipeline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(apps.bench.pipeline, "SIZES_PX", (128,))
    monkeypatch.setattr(apps.bench.pipeline, "ENCODERS", ("jpeg",))
    assert main(["bench", "pipeline", "--backend", "mock", "--repeats", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "pipeline" and [case["encoder"] for case in report["pipeline"]] == ["jpeg"]
    for case in report["pipeline"]:
        assert {row["same"] for row in case["plans"]} == {True, None}
        assert case["best"] in {row["plan"] for row in case["plans"]}
        assert all(row["measured_fps"] > 0 for row in case["plans"])
        assert set(PlanRow.__dataclass_fields__) == set(case["plans"][0])


@CORE_SETS
def test_a_saved_plan_is_used_by_talk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = str(tmp_path / "plan.json")
    asked = ["export", "pipeline", "--backend", "mock", "--size", "128", "--devices", "1", "3", "--sessions", "1"]
    assert main([*asked, "--save", plan, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert str(read_plan(plan)) == report["best"] and len(report["core_sets"]) == 7
    assert {row["devices"] for row in report["devices"]} == {1, 3}
    draw_face(300).save(tmp_path / "face.png")
    write_wav(tmp_path / "voice.wav", tone(1, 48_000, 1), 48_000)
    films = []
    for name, more in (("a", []), ("b", ["--pipeline", plan])):
        out = tmp_path / f"{name}.mp4"
        files = [str(tmp_path / "face.png"), str(tmp_path / "voice.wav"), "-o", str(out)]
        assert main(["talk", *files, "--backend", "mock", "--size", "128", "--json", *more]) == 0
        films.append(pictures(out))
    assert films[0].shape == films[1].shape == (25, 128, 128, 3)
    # The encoder has other threads, so its loss differs; the pictures that it gets do not.
    assert np.abs(films[0].astype(np.int16) - films[1]).mean() < 1


@pytest.mark.parametrize(
    "wrong",
    [["--devices", "0"], ["--sessions", "1000"], ["--measure", "0"], ["--cache-ms", "-1"], ["--encoder", "gif"]],
)
def test_wrong_usage_of_export_pipeline(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "pipeline", *wrong]) == 2
    assert "bad_argument" in capsys.readouterr().err


def test_talk_refuses_a_plan_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_face(300).save(tmp_path / "face.png")
    write_wav(tmp_path / "voice.wav", tone(1, 48_000, 1), 48_000)
    files = [str(tmp_path / "face.png"), str(tmp_path / "voice.wav"), "-o", str(tmp_path / "out.mp4")]
    assert main(["talk", *files, "--backend", "mock", "--pipeline", "decode@cpu:0"]) == 2
    assert "bad_pipeline_plan" in capsys.readouterr().err
