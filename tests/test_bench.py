"""`visavis bench`: its arithmetic on known numbers, its measures in virtual time, and the command with the mock."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import apps.bench.capacity
import apps.bench.setup
from apps.bench.capacity import Trial, largest, measure_capacity, try_sessions
from apps.bench.compare import changes, differences, print_comparison, read_report
from apps.bench.drift import Recorder, face_change
from apps.bench.floor import call_flop, denoise_flop, measure_floor
from apps.bench.latency import Latency, measure_latency
from apps.bench.machine import machine_facts, resident_mb
from apps.bench.report import FIGURES, PARTS, at, document, print_tables
from apps.bench.script import FAST_PHASES, converse_fast, fast_phase, part
from apps.bench.setup import Settings, read_voice, shipped
from apps.bench.stages import SpeechClock, measure_unpaced, rows
from apps.bench.stats import (
    AvDrift,
    Seam,
    Taken,
    av_drift,
    block_of,
    frames_per_second,
    lateness_us,
    pooled,
    seam,
    slope,
    spread,
)
from apps.bench.sustain import Sustained, measure_sustained
from apps.bench.tidy import tidy
from apps.bench.viewer import Viewer, on_screen, within
from apps.cli import main
from engine.errors import ArgumentError, FileMissingError
from engine.model.config import TINY
from engine.session import SessionConfig
from engine.types import FRAME_US, AvatarState, VideoFrame
from tests.fake_worker import Costs, FakeWorker, face
from tests.virtual_time import run_virtual

STATES = ("speaking", "listening", "idle")


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """A shipped recording, since Silero must take it for speech."""
    return read_voice(Settings())


def taken(moments_ms: list[float], index: list[int] | None = None, slipped_ms: list[float] | None = None) -> Taken:
    count = len(moments_ms)
    return Taken(
        np.array([round(1e3 * ms) for ms in moments_ms], np.int64),
        np.array(index or range(count), np.int64),
        np.array([round(1e3 * ms) for ms in slipped_ms or [0] * count], np.int64),
    )


# Arithmetic.


def test_spread_of_known_values() -> None:
    values = [float(v) for v in range(1, 102)]
    found = spread([*values, None])
    assert (found.n, found.missed, found.p50, found.p95, found.p99, found.max) == (101, 1, 51, 96, 100, 101)
    assert spread([None, None]).p50 is None
    assert spread([]).n == 0


def test_slope_of_a_line_and_of_nothing() -> None:
    assert slope([0, 1, 2, 3], [5, 3, 1, -1]) == pytest.approx(-2)
    assert slope([1], [2]) is None
    assert slope([3, 3], [1, 2]) is None


def test_a_frame_that_is_late_without_a_slip_is_late_once() -> None:
    found = lateness_us(taken([100, 140, 195, 220, 260]))
    assert list(found) == [0, 0, 15_000, 0, 0]


def test_a_slip_is_late_once_and_moves_the_grid() -> None:
    found = lateness_us(taken([100, 140, 210, 250, 290], slipped_ms=[0, 0, 30, 30, 30]))
    assert list(found) == [0, 0, 30_000, 0, 0]


def test_a_first_frame_that_was_taken_late_hides_no_later_ones() -> None:
    """The grid was laid through the first frame, whose watchdog takes long; a second of slips looked early."""
    found = lateness_us(taken([300, 240, 280, 340, 380], slipped_ms=[0, 0, 0, 20, 20]))
    assert list(found) == [100_000, 0, 0, 20_000, 0]


def test_frames_that_were_dropped_are_not_late() -> None:
    assert list(lateness_us(taken([0, 40, 200], index=[0, 1, 5]))) == [0, 0, 0]
    assert not len(lateness_us(taken([])))


def test_drift_of_a_clock_that_runs_a_thousandth_slow() -> None:
    found = av_drift(taken([40.04 * i for i in range(26)]))
    assert found.slope_ms_per_hour == pytest.approx(3600 * 0.04 / 0.04004, rel=1e-3)
    assert found.skew_ms.max == pytest.approx(1.0, abs=0.01)
    assert av_drift(taken([])) == AvDrift(None, spread([]))


def test_frames_per_second() -> None:
    assert frames_per_second(taken([0, 50, 100, 150, 200])) == pytest.approx(20)
    assert frames_per_second(taken([7])) is None


def test_seams_are_found_and_blocks_cut_short_are_left_out() -> None:
    """Frames 0-3 and 4-7 are blocks, 8 and 9 what is left of one that was cut, 10 and 11 a block."""
    blocks = block_of(12, [(3, 4), (7, 4), (11, 2)])
    assert list(blocks) == [0, 0, 0, 0, 1, 1, 1, 1, -1, -1, 2, 2]
    change = np.array([1, 1, 1, 5, 1, 1, 1, 7, 99, 9, 1], np.float32)
    assert seam(change, blocks, np.ones(11, bool)) == Seam(3, 7.0, 1.0, 7.0)
    change[3] = np.nan
    assert seam(change, blocks, np.ones(11, bool)) == Seam(2, 8.0, 1.0, 8.0)
    assert seam(change, blocks, np.zeros(11, bool)) == Seam(0, None, None, None)


def test_seams_of_all_states_do_not_depend_on_how_often_each_was_there() -> None:
    """Listening has short blocks and little change: its many edges pulled the total below that of any state."""
    restless, calm = Seam(10, 6.0, 2.0, 3.0), Seam(90, 0.1, 0.1, 1.0)
    found = pooled([restless, calm, Seam(0, None, 3.0, None)])
    assert found.edges == 100
    assert found.ratio == pytest.approx((10 * 6 + 90 * 0.1) / (10 * 2 + 90 * 0.1))
    assert pooled([]).ratio is None


def test_the_face_is_the_middle_half() -> None:
    before = np.zeros((64, 64, 3), np.uint8)
    after = before.copy()
    after[:16] = 255
    assert face_change(before, after) == 0
    after[16:48, 16:48] = 12
    assert face_change(before, after) == 12


# Notes of a long run.


def frame(index: int, grey: int, state: AvatarState, timing: dict[str, float]) -> VideoFrame:
    picture = np.full((16, 16, 3), grey, np.uint8)
    return VideoFrame(picture, np.zeros(640, np.float32), index * FRAME_US, state, timing)


def record(frames: list[VideoFrame], likeness: float = 0.9) -> Recorder:
    drift = SimpleNamespace(colour=1.0, sharpness=1.1, likeness=likeness)
    viewer: Any = SimpleNamespace(session=SimpleNamespace(watchdog=SimpleNamespace(history=[drift])))
    recorder = Recorder(lambda: 100.0)
    for each in frames:
        recorder.look(viewer, each)
    return recorder


def test_recorder_knows_edges_from_timing_however_many_frames_share_it() -> None:
    """The picture changes by 2 inside blocks and by 10 across edges; the last two frames of a block have its timing."""
    frames, grey = [], 0
    for block in range(6):
        for place in range(4):
            grey += 10 if place == 0 and block else 2
            timing = {"frames": 4.0, "pictures": 4.0, "denoise_ms": float(block)} if place >= 2 else {}
            state = AvatarState.SPEAKING if block < 3 else AvatarState.IDLE
            frames.append(frame(4 * block + place, grey, state, timing))
    notes = record(frames).notes()
    seams = notes.seams()
    assert seams["total"] == Seam(5, 10.0, 2.0, 5.0)
    assert seams["speaking"].edges == 2
    assert seams["idle"].edges == 3
    assert seams["listening"].ratio is None
    assert notes.looks().checks == 1
    assert list(notes.memory_frame) == [0]


def test_recorder_leaves_out_gaps_and_pictures_shown_twice() -> None:
    timing = {"frames": 2.0, "pictures": 1.0}
    frames = [
        frame(0, 0, AvatarState.IDLE, {}),
        frame(1, 0, AvatarState.IDLE, timing),
        frame(9, 90, AvatarState.IDLE, {}),
    ]
    notes = record(frames).notes()
    assert notes.change[0] == 0 and np.isnan(notes.change[1])
    assert set(notes.blocks) == {-1}
    assert notes.seams()["total"].edges == 0


def test_slopes_are_per_ten_minutes_of_video() -> None:
    notes = record([frame(0, 0, AvatarState.IDLE, {})]).notes()
    minute = np.arange(1, 5) * 1500
    falling = replace(
        notes,
        check_frame=minute,
        likeness=np.array([0.99, 0.98, 0.97, 0.96]),
        colour=np.ones(4),
        sharpness=np.ones(4),
        memory_frame=minute,
        memory_mb=np.array([100.0, 150.0, 160.0, 161.0]),
    )
    assert falling.looks().likeness.slope_per_10min == pytest.approx(-0.1)
    assert falling.looks().colour.slope_per_10min == pytest.approx(0)
    assert falling.memory().slope_per_10min == pytest.approx(10), "of the second half only"
    assert falling.memory().first == 100


# Measures in virtual time.


def latency(costs: Costs, voice: np.ndarray, repeats: int = 12) -> Latency:
    return run_virtual(measure_latency(FakeWorker(costs), face(), voice, repeats))


def test_latency_of_a_quick_worker_is_the_wait_for_sound_and_little_more(voice: np.ndarray) -> None:
    found = latency(Costs(), voice)
    assert found.latency_realtime_ms.n == 12 and found.latency_realtime_ms.missed == 0
    assert found.latency_realtime_ms.p50 is not None and 122.5 < found.latency_realtime_ms.p50 < 200
    assert found.latency_burst_ms.max is not None and found.latency_burst_ms.max < 100
    assert found.interrupt_to_state_ms.n == 12
    assert found.interrupt_to_state_ms.max is not None and found.interrupt_to_state_ms.max <= 100
    assert found.interrupt_to_silence_ms.max is not None and found.interrupt_to_silence_ms.max <= 41
    assert found.state_switch_frames.max is not None and 1 <= found.state_switch_frames.max <= 4


def test_latency_sees_a_worker_that_takes_longer(voice: np.ndarray) -> None:
    quick, slow = latency(Costs(), voice, 4), latency(Costs(fixed=120), voice, 4)
    for name in ("latency_realtime_ms", "latency_burst_ms", "state_switch_ms"):
        before, after = getattr(quick, name).p50, getattr(slow, name).p50
        assert after - before >= 60, name


def test_what_never_comes_is_missed_and_not_waited_for_forever(voice: np.ndarray) -> None:
    async def watch() -> None:
        async with on_screen(FakeWorker(), face()) as viewer:
            await viewer.reach(1)
            assert await within(viewer.expect(lambda _: False), 0.3) is None
            assert viewer.frames > 5
        assert viewer.ended and await viewer.expect(lambda _: True) is None

    run_virtual(watch())


def sustained(costs: Costs, voice: np.ndarray, seconds: float = 24) -> tuple[Sustained, AvDrift]:
    found, drift, _ = run_virtual(measure_sustained(FakeWorker(costs), face(), voice, seconds))
    return found, drift


def test_a_conversation_that_keeps_up(voice: np.ndarray) -> None:
    found, drift = sustained(Costs(), voice)
    assert found.fps == pytest.approx(25, abs=0.05)
    assert found.frames == pytest.approx(600, abs=3)
    assert (found.late_share, found.slips, found.dropped_frames, found.degraded_share) == (0, 0, 0, 0)
    assert found.interval_ms.max == pytest.approx(40, abs=1)
    assert drift.slope_ms_per_hour == pytest.approx(0, abs=1)
    assert drift.skew_ms.max is not None and drift.skew_ms.max < 1


def test_a_conversation_that_does_not_keep_up(voice: np.ndarray) -> None:
    found, drift = sustained(Costs(scale=8), voice)
    assert found.fps is not None and found.fps < 24
    assert found.late_frames > 5 and found.late_share == found.late_frames / found.frames
    assert found.slips > 5 and found.slipped_ms > 100
    assert found.degraded_share > 0
    assert drift.slope_ms_per_hour is not None and drift.slope_ms_per_hour > 1000
    assert drift.skew_ms.max == pytest.approx(found.slipped_ms, rel=0.05)


def test_sessions_in_time_and_not(voice: np.ndarray) -> None:
    fine = run_virtual(try_sessions(FakeWorker(capacity=3), face(), voice, 3, 4))
    assert fine.in_time and fine.sessions == 3 and fine.late_share == 0
    slow = run_virtual(try_sessions(FakeWorker(Costs(scale=8)), face(), voice, 1, 4))
    assert not slow.in_time and slow.late_share > 0.05


def test_one_bad_attempt_decides_nothing(voice: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    late = iter([0.0, 0.02, 0.004, 0.5, 0.3])
    tried: list[int] = []

    async def attempt(_: object, __: object, ___: object, sessions: int, ____: float) -> Trial:
        tried.append(sessions)
        return Trial(sessions, next(late), degraded_share=0.1 * (sessions == 2))

    monkeypatch.setattr(apps.bench.capacity, "try_sessions", attempt)
    found = run_virtual(measure_capacity(FakeWorker(capacity=3), face(), voice, 6, promised=9))
    assert tried == [1, 2, 2, 3, 3]
    assert (found.sessions_at_25fps, found.sessions_at_full_quality, found.promised_sessions) == (2, 1, 9)
    assert [trial.late_share for trial in found.trials] == [0.0, 0.004, 0.3]


@pytest.mark.parametrize("limit", [1, 2, 7, 64])
@pytest.mark.parametrize("most", [0, 1, 2, 3, 5, 31, 33, 63, 64, 100])
def test_search_finds_the_largest(most: int, limit: int) -> None:
    tried: list[int] = []

    async def bears(sessions: int) -> bool:
        assert 1 <= sessions <= limit and sessions not in tried
        tried.append(sessions)
        return sessions <= most

    assert run_virtual(largest(bears, limit)) == min(most, limit)
    assert len(tried) <= 13


def test_an_unpaced_run_has_costs_of_ours(voice: np.ndarray) -> None:
    speech = SpeechClock(lambda window: 1.0)
    found = run_virtual(measure_unpaced(FakeWorker(), face(), voice[:48_000], speech))
    assert found.blocks * found.block_frames == pytest.approx(75, abs=1)
    assert 4 <= found.block_frames <= 8
    assert found.engine_ms > found.speech_ms > 0
    assert 0 < found.overhead_share < 1
    # The worker's calls take 2 ms and 0.6 ms a frame; there are 3 a block, and 5 for the first.
    assert found.denoise_ms == pytest.approx((3 + 2 / found.blocks) * (2 + 0.6 * found.block_frames), rel=0.05)
    assert found.encode_jpeg_ms > 0


def test_rows_are_medians_by_length() -> None:
    blocks = [{"frames": 8.0, "denoise_ms": ms, "decode_ms": 1.0} for ms in (1.0, 2.0, 90.0)]
    found = rows([*blocks, {"frames": 2.0, "denoise_ms": 7.0, "wait_ms": 3.0}])
    assert [(r.block_frames, r.blocks, r.denoise_ms) for r in found] == [(2, 1, 7.0), (8, 3, 2.0)]
    assert (found[0].wait_ms, found[1].decode_ms) == (3.0, 1.0)


def test_a_fast_run_meets_every_state(voice: np.ndarray) -> None:
    seen: list[AvatarState] = []

    def look(_: Viewer, shown: VideoFrame) -> None:
        seen.append(shown.state)

    async def run() -> None:
        async with on_screen(FakeWorker(), face(), SessionConfig(paced=False), look=look) as viewer:
            await converse_fast(viewer, voice, 300)

    run_virtual(run())
    assert len(seen) >= 300
    for name in STATES:
        wanted = [state for at_frame, state in enumerate(seen[:300]) if fast_phase(at_frame) == name]
        assert np.mean([state.name.lower() == name for state in wanted]) > 0.6, name


def test_phases_and_parts_begin_again() -> None:
    length = sum(frames for _, frames in FAST_PHASES)
    assert [fast_phase(0), fast_phase(length - 1), fast_phase(length)] == ["speaking", "idle", "speaking"]
    assert list(part(np.arange(16_000, dtype=np.float32), 0.9999, 3 / 16_000)) == [15_998, 15_999, 0]


# Floors, machine.


@pytest.mark.parametrize("frames", [1, 8])
def test_arithmetic_of_the_denoiser_is_counted_right(frames: int) -> None:
    """Against the counter of torch, which sees each product that is run."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from engine.model.denoiser import Conditions, Denoiser

    n, slots = TINY.frame_tokens, TINY.frame_tokens * (1 + TINY.context_frames)
    audio, cache = (
        torch.zeros(1, frames, TINY.audio_width),
        torch.zeros(TINY.depth, 1, TINY.heads, slots, TINY.head_width),
    )
    conditions = Conditions(
        audio, audio, torch.zeros(1, frames, dtype=torch.int64), torch.zeros(1, frames, TINY.expressions),
        torch.zeros(1, frames), torch.zeros(1, frames, TINY.pose_axes), torch.zeros(1, frames),
    )  # fmt: skip
    latents = torch.zeros(1, frames, TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        Denoiser(TINY).stream(latents, torch.ones(1, frames), conditions, cache, cache, torch.ones(1, slots))
    attention = 4 * TINY.depth * frames * n * (slots + frames * n) * TINY.width
    # Some versions of torch do not know the CPU's fused attention.
    assert call_flop(TINY, frames) - counter.get_total_flops() in (0, attention)


def test_floor_is_in_units_that_fit_together() -> None:
    info = FakeWorker().info
    found = measure_floor(TINY, info, denoise_ms=10.0, decode_ms=None)
    assert found.denoise_gflop == denoise_flop(TINY, 8, 2) / 1e9 == 3 * call_flop(TINY, 8) / 1e9
    assert denoise_flop(TINY, 8, 2, stressed=True) == 4 * call_flop(TINY, 8)
    assert found.denoise_to_floor == pytest.approx(10e-3 * found.matmul_gflop_per_s / found.denoise_gflop)
    assert found.decode_ms == info.decode_ms
    assert found.decode_to_floor == pytest.approx(8e-3 * found.copy_gb_per_s * 1e9 / (3 * 32 * 32))
    assert found.matmul_gflop_per_s > 0.1 and found.copy_gb_per_s > 0.1


def test_machine_facts_name_nobody() -> None:
    facts = machine_facts()
    assert facts.cores >= 1 and facts.versions["visavis"]
    node = platform.node()
    assert not node or node not in json.dumps([facts.cpu, facts.system, facts.versions, facts.gpus])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_memory_is_that_of_all_processes() -> None:
    import os

    one = resident_mb([os.getpid()])
    both = resident_mb([os.getpid(), os.getpid()])
    assert one is not None and both == pytest.approx(2 * one, rel=0.02)
    assert resident_mb([os.getpid(), 2**22 + 1]) is None


# The document.


def report(**changed: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        **dict.fromkeys(PARTS),
        "latency": {
            "latency_realtime_ms": {"n": 3, "missed": 1, "p50": 200.0, "p95": 240.0, "p99": 250.0, "max": 251.0}
        },
        "sustained": {"fps": 25.0, "late_share": 0.0},
        "memory_per_session_mb": 12.3456789,
    }
    return json.loads(json.dumps(tidy(document("bench", Settings(), FakeWorker().info, **parts | changed))))


def test_reports_survive_the_file_and_the_terminal(tmp_path: Path) -> None:
    first = report()
    assert first["memory_per_session_mb"] == 12.346
    (tmp_path / "report.json").write_text(json.dumps(first, indent=2))
    (tmp_path / "output.txt").write_text(f"a table\n| 1 |\n{json.dumps(first)}\n")
    assert read_report(tmp_path / "report.json") == read_report(tmp_path / "output.txt") == first


def test_numbers_that_are_none_are_null() -> None:
    assert tidy({"a": float("nan"), "b": [float("inf"), 1.23456789], "c": (1, True)}) == {
        "a": None, "b": [None, 1.2346], "c": [1, True],
    }  # fmt: skip


def test_files_that_are_no_reports(tmp_path: Path) -> None:
    with pytest.raises(FileMissingError):
        read_report(tmp_path / "none.json")
    for text in ("", "{}", "[1]", "no JSON", '{"format": 2, "settings": {}}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ArgumentError):
            read_report(tmp_path / "bad.json")


def test_changes_for_the_worse_are_marked_in_their_direction() -> None:
    slower = {"latency_realtime_ms": {"n": 3, "missed": 0, "p50": 216.0, "p95": 300.0, "p99": 250.0, "max": 900.0}}
    later = report(latency=slower, sustained={"fps": 22.0, "late_share": 0.01}, memory_per_session_mb=6.0)
    found = {change.title: change for change in changes(report(), later)}
    assert [t for t, change in found.items() if change.worse] == [
        "voice in real time to frame, ms p95", "frames a second", "late frames, share",
    ]  # fmt: skip
    assert found["voice in real time to frame, ms p95"].ratio == pytest.approx(1.25)
    assert found["late frames, share"].ratio is None
    assert found["memory a session, MB"].ratio == pytest.approx(0.486, abs=0.001)
    assert not any(change.worse for change in changes(report(), report()))


def test_reports_of_different_models_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    other = report()
    other["settings"]["model"] = "base"
    assert differences(report(), report()) == []
    print_comparison(other, report(), Console(width=100))
    printed = capsys.readouterr().out
    assert "not the same: model was base, now fake" in printed
    assert "voice in real time to frame" in printed


def test_every_figure_is_named_once() -> None:
    assert len({figure.path for figure in FIGURES}) == len(FIGURES)


# The command.

QUICK = ["--backend", "mock", "--seconds", "2", "--repeats", "2", "--sessions", "1"]


def test_the_whole_benchmark_with_the_mock_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *QUICK, "-o", str(tmp_path / "report.json")]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    assert found == json.loads((tmp_path / "report.json").read_text())
    assert found["format"] == 1 and found["kind"] == "bench"
    assert all(found[name] is not None for name in PARTS if name != "memory_per_session_mb" or Path("/proc").exists())
    # Every figure that is no soak's has its place in the document, and in the tables.
    for figure in FIGURES:
        if not figure.path.startswith("soak"):
            assert at(found, figure.path) is not None, figure.path
            assert figure.title in printed
    assert found["settings"] == {
        "model": "mock", "backend": "mock", "steps": 1, "size_px": 256, "seconds": 2.0, "repeats": 2, "process": False,
    }  # fmt: skip
    assert at(found, "latency.latency_realtime_ms.n") == 2
    cold = found["cold"]
    summed = sum(cold[f"{name}_ms"] for name in ("import", "load", "portrait", "warm_up", "first_frame"))
    assert cold["total_ms"] == pytest.approx(summed, rel=1e-3)
    assert found["capacity"]["limit_sessions"] == 1
    assert [trial["sessions"] for trial in found["capacity"]["trials"]] == [1]
    assert found["floor"]["block_frames"] == 8


def test_one_part_leaves_the_others_null_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.json").write_text(json.dumps(report(sustained={"fps": 1000.0, "late_share": 0.0})))
    assert main(["bench", "sustain", *QUICK, "--compare", str(tmp_path / "old.json")]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    assert found["latency"] is None and found["capacity"] is None and found["stages"] is None
    assert found["sustained"]["frames"] > 10
    row = next(line for line in printed.splitlines() if "frames a second" in line and "1000" in line)
    assert "worse" in row
    assert main(["bench", "sustain", *QUICK, "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_soak_draws_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    words = ["bench", "soak", "--backend", "mock", "--minutes", "0.2", "--fast", "--size", "128", "--out"]
    assert main([*words, str(tmp_path / "soak")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == json.loads((tmp_path / "soak" / "soak.json").read_text())
    assert (tmp_path / "soak" / "drift.png").read_bytes().startswith(b"\x89PNG")
    soak = found["soak"]
    assert soak["frames"] >= 300 and soak["fast"] and soak["sustained"] is None
    assert soak["looks"]["checks"] == pytest.approx(soak["frames"] / 25, abs=1)
    assert soak["seam"]["total"]["edges"] > 20
    assert set(soak["seam"]) == {"total", *STATES}


def test_without_matplotlib_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert main(["bench", "soak", "--backend", "mock", "--json"]) == 5
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "extra_missing" and "visavis[eval]" in error["message"]


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (["--portrait", "nobody.jpg"], "file_missing", 3),
        (["--voice", "nothing.wav"], "file_missing", 3),
        (["--compare", "none.json"], "file_missing", 3),
        (["--size", "100"], "bad_argument", 2),
        (["--repeats", "0"], "bad_argument", 2),
        (["--seconds", "nan"], "bad_argument", 2),
        (["--minutes", "3"], "bad_argument", 2),
        (["soak", "--minutes", "0"], "bad_argument", 2),
        (["everything"], "bad_argument", 2),
        (["-o", "nowhere/report.json"], "output_folder_missing", 4),
        (["--backend", "abacus"], "backend_unavailable", 5),
    ],
)
def test_wrong_use_has_a_code(
    words: list[str], code: str, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    backend = [] if "--backend" in words else ["--backend", "mock"]
    assert main(["bench", *words, *backend, "--json"]) == exit_code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_an_installation_without_demo_files_says_which_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(apps.bench.setup, "shipped_models", lambda: tmp_path / "models")
    with pytest.raises(FileMissingError, match="--portrait"):
        shipped(None, "portraits", (".jpg",))
    with pytest.raises(FileMissingError, match="--voice"):
        read_voice(Settings())


def test_tables_have_a_dash_for_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = {"n": 0, "missed": 3, "p50": None, "p95": None, "p99": None, "max": None}
    print_tables(report(latency={"latency_realtime_ms": nothing}), Console(width=120))
    row = next(line for line in capsys.readouterr().out.splitlines() if "voice in real time" in line)
    assert "0 (-3)" in row and row.count(" - ") == 4


def test_a_child_process_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sustain", *QUICK, "--process", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["process"] and found["settings"]["backend"] == "mock"
    assert found["sustained"]["frames"] > 10 and found["cold"]["warm_up_ms"] > 100
