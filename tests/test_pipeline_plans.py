"""Plans as text and files, and simulations against schedules that were worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import FileMissingError, OutputNotWritableError, PipelinePlanError
from engine.pipeline.plan import WORKS, Place, Plan, Stage, read_plan, save_plan
from export.pipeline.costs import BlockCosts, Costs
from export.pipeline.layouts import candidates, of_plan, one_device, session_bound, shared_decoder, spread_steps
from export.pipeline.outlook import look_ahead
from export.pipeline.simulate import Feedback, Layout, Schedule, StageCost, simulate

BLOCK = BlockCosts(frames=8, calls=3, audio_ms=1, denoise_ms=18, decode_ms=50, compose_ms=14, encode_ms=9)
COSTS = Costs(BLOCK, replace(BLOCK, frames=4, calls=5))


# Plans.


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("denoise@cpu:0/decode@cpu:1", "denoise@cpu:0/decode+compose+encode@cpu:1"),
        ("denoise@cpu:4,0-1:process/decode@cpu:2", "denoise@cpu:0-1,4:process/decode+compose+encode@cpu:2"),
        ("denoise@cpu:0/decode@cpu:2/compose@cpu:4", "denoise@cpu:0/decode@cpu:2/compose+encode@cpu:4"),
        ("denoise@cuda:1:process/decode@cuda", "denoise@cuda:1:process/decode+compose+encode@cuda:0"),
        ("denoise@cpu", "denoise+decode+compose+encode@cpu"),
    ],
)  # fmt: skip
def test_a_plan_is_its_text(text: str, whole: str, tmp_path: Path) -> None:
    plan = Plan.parse(text, depth=2)
    assert str(plan) == whole and Plan.parse(whole, depth=2) == plan
    save_plan(plan, tmp_path / "plan.json", {"predicted_fps": 1.0})
    assert read_plan(tmp_path / "plan.json") == plan
    assert read_plan(text) == replace(plan, depth=1)


def test_cores_are_threads() -> None:
    place = Place.parse("cpu:3,0-1,1")
    assert place == Place("cpu", (0, 1, 3)) and place.threads == 3 and str(place) == "cpu:0-1,3"
    assert Place.parse("cpu").threads is None


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "denoise", "denoise@", "decode@cpu/denoise@cpu", "decode@cpu", "denoise+compose@cpu", "paint@cpu",
        "denoise@cpu:", "denoise@cpu:a", "denoise@cpu:2-1", "denoise@cpu:99999", "denoise@tpu", "denoise@cuda:x",
        "denoise@cpu/denoise@cpu", "denoise@cpu:0:1", "denoise@cpu/", "denoise@process",
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PipelinePlanError):
        Plan.parse(text)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"kind": "pipeline", "format": 2, "plan": "denoise@cpu", "depth": 1}', "\xff",
     '{"kind": "pipeline", "format": 1, "plan": "denoise@cpu", "depth": 99}',
     '{"kind": "pipeline", "format": 1, "plan": "denoise@cpu"}',
     '{"kind": "pipeline", "format": 1, "plan": 3, "depth": 1}'],
)  # fmt: skip
def test_a_file_that_is_no_plan_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(content, encoding="latin-1")
    with pytest.raises(PipelinePlanError):
        read_plan(tmp_path / "plan.json")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileMissingError):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(OutputNotWritableError):
        save_plan(Plan.parse("denoise@cpu"), tmp_path / "none" / "plan.json", {})


# Simulation.


def chain(*costs: float, places: str = "abcdef", depth: int = 1) -> Layout:
    names = [f"s{i}" for i in range(len(costs))]
    stages = tuple(
        StageCost(name, ms, ms, (place,), (names[i - 1],) if i else ())
        for i, (name, ms, place) in enumerate(zip(names, costs, places, strict=False))
    )
    return Layout("chain", stages, depth=depth)


def begins(schedule: Schedule, stage: int) -> list[float]:
    return [ran.begin_ms for ran in sorted(schedule.ran, key=lambda ran: ran.job) if ran.stage == stage]


def test_two_stages_by_hand() -> None:
    """A of 2 ms, B of 3: B never rests after 2 ms. Block 2 can be put down when B takes block 1, at 5; so block 3 of A
    ends at 8, and block 4 begins when B takes block 2, at 8.
    """
    schedule = simulate(chain(2, 3), 5)
    assert begins(schedule, 0) == [0, 2, 4, 6, 8]
    assert begins(schedule, 1) == [2, 5, 8, 11, 14]
    assert schedule.makespan_ms == 17 and schedule.first_ms == 5 and schedule.block_ms == 3
    assert chain(2, 3).passage_ms == 5 and with_feedback(1).passage_ms == 7
    assert schedule.busy_share() == {"a": pytest.approx(10 / 17), "b": pytest.approx(15 / 17)}


@pytest.mark.parametrize(("depth", "wanted"), [(1, [0, 1, 2, 4, 7, 10]), (2, [0, 1, 2, 3, 4, 7])])
def test_a_stage_that_cannot_put_its_block_down_waits(depth: int, wanted: list[float]) -> None:
    """B takes its blocks at 1, 4, 7, 10, 13; with one place between, A's block 2 lies there from 4 on."""
    schedule = simulate(chain(1, 3, depth=depth), 6)
    assert begins(schedule, 0) == wanted
    assert begins(schedule, 1) == [1, 4, 7, 10, 13, 16]


def test_stages_that_share_a_place_take_turns() -> None:
    """A and C on x, 2 and 1 ms; B on y, 2 ms. Whatever has the oldest block goes first, so x does 3 ms a block."""
    schedule = simulate(chain(2, 2, 1, places="xyx"), 8)
    assert begins(schedule, 0)[:4] == [0, 2, 5, 8]
    assert begins(schedule, 2)[:3] == [4, 7, 10]
    assert schedule.block_ms == pytest.approx(3)


def test_hand_over_counts_between_places_only() -> None:
    def delayed(places: str) -> float:
        layout = chain(2, 3, places=places)
        stages = tuple(replace(stage, handed_ms=0.5) for stage in layout.stages)
        return simulate(replace(layout, stages=stages), 4).first_ms

    assert delayed("ab") == 5.5 and delayed("aa") == 5


def test_a_stage_of_several_places_takes_blocks_in_turn() -> None:
    layout = Layout("", (StageCost("a", 1, 1, ("x",)), StageCost("b", 4, 4, ("y", "z"), ("a",))))
    schedule = simulate(layout, 8)
    assert begins(schedule, 1)[:4] == [1, 2, 5, 6]
    assert schedule.block_ms == pytest.approx(2)


def with_feedback(blocks: int) -> Layout:
    """Two steps of 2 ms on one device, the context's 2 ms on the next; decoding beside it."""
    stages = (
        StageCost("steps", 4, 4, ("x",)),
        StageCost("context", 2, 2, ("y",), ("steps",)),
        StageCost("decode", 3, 3, ("z",), ("steps",)),
    )
    return Layout("", stages, Feedback("steps", "context", blocks))


def test_a_session_waits_for_its_own_context() -> None:
    assert begins(simulate(with_feedback(1), 4), 0) == [0, 6, 12, 18]
    # Two sessions fill the pause, and so does a context that may be one block old.
    assert begins(simulate(with_feedback(1), 3, sessions=2), 0) == [0, 4, 8, 12, 16, 20]
    assert begins(simulate(with_feedback(2), 4), 0) == [0, 4, 8, 12]


# Layouts.


def test_the_plans_of_two_core_sets() -> None:
    plans = candidates(Place("cpu", (0,)), Place("cpu", (1,)))
    assert len({str(plan) for plan in plans}) == 7
    assert str(plans[0]) == "denoise+decode+compose+encode@cpu:0"
    rates = {str(plan): 8e3 / simulate(of_plan(plan, COSTS), 40).block_ms for plan in plans}
    # 92 ms on one; 50 on the second of two while the first has 42.
    assert rates[str(plans[0])] == pytest.approx(8e3 / 92)
    best = max(rates, key=lambda name: rates[name])
    assert best == "denoise@cpu:0/decode@cpu:1/compose+encode@cpu:0"
    assert rates[best] == pytest.approx(8e3 / 50, rel=0.02)
    # Denoiser and all the rest, which is what one thinks of first: 73 ms.
    assert rates["denoise@cpu:0/decode+compose+encode@cpu:1"] == pytest.approx(8e3 / 73)


def test_a_plan_is_simulated_as_it_runs() -> None:
    layout = of_plan(Plan.parse("denoise@cpu:0:process/decode@cpu:1", depth=3), COSTS)
    assert [(stage.name, stage.places, stage.ms) for stage in layout.stages] == [
        ("denoise", ("cpu:0",), 19), ("decode+compose", ("cpu:1",), 64), ("encode", ("cpu:1",), 9),
    ]  # fmt: skip
    assert layout.depth == 3
    assert len(of_plan(Plan((Stage(WORKS, Place()),)), COSTS).stages) == 1


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_more_devices_for_the_steps_do_not_help_one_session(devices: int) -> None:
    slow = replace(COSTS, block=replace(BLOCK, decode_ms=3, compose_ms=0, encode_ms=0))
    fresh = simulate(spread_steps(devices, slow), 20)
    assert fresh.block_ms == pytest.approx(session_bound(slow).denoise_ms)
    if devices > 2:
        stale = simulate(spread_steps(devices, slow, stale_blocks=devices - 2), 20)
        many = simulate(spread_steps(devices, slow), 20, sessions=devices)
        assert stale.block_ms < 0.7 * fresh.block_ms and many.block_ms < 0.7 * fresh.block_ms


def test_decoders_side_by_side_reach_the_bound() -> None:
    assert simulate(one_device(COSTS), 20).block_ms == 92
    for devices in (2, 3, 4, 6):
        bound = session_bound(COSTS).block_ms(devices)
        assert simulate(shared_decoder(devices, COSTS), 40).block_ms == pytest.approx(bound, rel=0.03)


def test_outlook_says_what_whole_workers_do() -> None:
    rows = {(row.devices, row.sessions, row.layout): row for row in look_ahead(COSTS, [1, 4], [1, 8])}
    apart = rows[4, 8, "all on one, 4 side by side"]
    assert apart.fps == pytest.approx(4 * 8e3 / 92) and apart.bubble_share == pytest.approx(0)
    assert apart.live_sessions == 13
    assert rows[4, 1, "all on one"].bubble_share == pytest.approx(0.75)
    assert not any(row.trained for name, row in rows.items() if "stale" in name[2])
    assert max(row.fps for row in rows.values() if row.sessions == 8 and row.devices == 4 and row.trained) == apart.fps
    json.dumps([row.fps for row in rows.values()], allow_nan=False)
