"""Voices on frames, speech, cues and states by frame."""

from __future__ import annotations

import numpy as np
import pytest

from engine.audio.buffer import SampleBuffer
from engine.audio.features import log_mel
from engine.audio.silero import WINDOW, silero
from engine.audio.windows import frame_windows
from engine.errors import AudioBufferFullError
from engine.timeline.cues import KEPT_FRAMES, Cue, CueTrack
from engine.timeline.lane import START_SAMPLES, AudioLane
from engine.timeline.speech import SpeechDetector
from engine.timeline.timeline import AFTER_FRAMES, Timeline
from engine.types import SAMPLES_PER_FRAME, AvatarState

FRAME = SAMPLES_PER_FRAME


def loud(window: np.ndarray) -> float:
    return 1.0 if np.abs(window).max() > 0.05 else 0.0


def ramp(frames: float, start: float = 1.0) -> np.ndarray:
    """Samples that say where they are."""
    n = round(frames * FRAME)
    return (start + np.arange(n)).astype(np.float32)


def lane(**options: object) -> AudioLane:
    return AudioLane(120, probability=loud, **options)  # type: ignore[arg-type]


def timeline() -> Timeline:
    return Timeline(lane(), lane(keep_up_frames=1, gate=False))


def test_buffer_reads_what_was_written_and_zero_elsewhere() -> None:
    buffer, written = SampleBuffer(), np.arange(100_000, dtype=np.float32)
    for chunk in np.split(written, [1, 700, 20_000, 20_001, 60_000]):
        buffer.append(chunk)
        buffer.forget(buffer.end - 30_000)
    assert buffer.end == 100_000
    assert buffer.start <= 70_000
    np.testing.assert_array_equal(buffer.read(75_000, 99_000), written[75_000:99_000])
    np.testing.assert_array_equal(buffer.read(99_990, 100_020)[10:], np.zeros(20))
    np.testing.assert_array_equal(buffer.read(-10, 5), np.zeros(15))


def test_buffer_stays_small_over_an_hour() -> None:
    buffer = SampleBuffer()
    for _ in range(3600):
        buffer.append(np.zeros(16_000, np.float32))
        buffer.forget(buffer.end - 50_000)
    assert len(buffer._data) <= 4 * 65_536


def test_an_utterance_waits_for_its_look_ahead_and_then_flows() -> None:
    voice = lane()
    voice.push(np.ones(START_SAMPLES - 1, np.float32), 1)
    voice.place(2)
    assert not voice.startable()
    assert [voice.at(f).length for f in range(2)] == [0, 0]
    voice.push(np.ones(1, np.float32), 1)
    assert voice.startable()
    voice.place(3)
    assert voice.at(2).length == FRAME
    assert voice.at(2).turn_id == 1


def test_a_short_utterance_starts_once_it_is_complete_and_ends_once() -> None:
    voice = lane()
    voice.push(ramp(1.5), 7)
    voice.flush()
    voice.place(4)
    assert [(p.length, p.last) for p in map(voice.at, range(4))] == [(FRAME, False), (FRAME // 2, True), (0, False)] + [
        (0, False)
    ]
    np.testing.assert_array_equal(voice.read(0, 2)[: FRAME * 3 // 2], ramp(1.5))
    np.testing.assert_array_equal(voice.read(0, 2)[FRAME * 3 // 2 :], 0)


def test_utterances_never_share_a_frame() -> None:
    voice = lane()
    voice.push(ramp(1.25), 1)
    voice.flush()
    voice.push(ramp(4), 2)
    voice.flush()
    voice.place(6)
    assert [voice.at(f).turn_id for f in range(6)] == [1, 1, 2, 2, 2, 2]
    assert voice.at(5).last
    assert voice.at(5).turn_samples == 4 * FRAME


def test_what_is_taken_back_is_placed_again_the_same() -> None:
    voice = lane()
    voice.push(ramp(20), 1)
    voice.flush()
    voice.place(12)
    before = [voice.at(f) for f in range(12)]
    for cut in (11, 5, 1, 0):
        voice.rewind(cut)
        voice.place(12)
        assert [voice.at(f) for f in range(12)] == before


def test_a_late_packet_costs_only_the_frames_it_was_missing_from() -> None:
    voice = lane()
    voice.push(ramp(4), 1)
    voice.place(3)
    assert voice.plannable(3) == 0
    voice.place(5)
    assert [voice.at(f).length for f in (3, 4)] == [FRAME, 0]
    voice.push(ramp(4, 1 + 4 * FRAME), 1)
    voice.rewind(5)
    voice.place(6)
    np.testing.assert_array_equal(voice.read(5, 6), ramp(1, 1 + 4 * FRAME))


def test_a_microphone_that_was_late_is_caught_up_with_in_quiet_first() -> None:
    voice = lane(keep_up_frames=2)
    quiet, speech = np.zeros(10 * FRAME, np.float32), np.full(6 * FRAME, 0.5, np.float32)
    voice.push(np.concatenate([quiet, speech]), 1)
    voice.place(1)
    # Quiet frames are gone, all speech is kept, and nothing is left to wait beyond what is allowed.
    assert voice.skipped_samples >= 8 * FRAME
    voice.place(12)
    assert voice.read(0, 12).max() == 0.5
    assert float((voice.read(0, 12) > 0.25).sum()) >= 5.8 * FRAME


def test_a_microphone_far_behind_is_cut_even_in_speech_with_a_blend() -> None:
    voice = lane(keep_up_frames=2)
    voice.push(np.full(40 * FRAME, 0.5, np.float32), 1)
    voice.place(1)
    assert voice.waiting <= START_SAMPLES + 2 * FRAME
    assert np.abs(np.diff(voice.read(0, 1))).max() < 0.1


def test_the_buffer_refuses_what_it_cannot_hold_and_keeps_what_it_has() -> None:
    voice = AudioLane(1.0, probability=loud)
    voice.push(np.ones(12_000, np.float32), 1)
    with pytest.raises(AudioBufferFullError):
        voice.push(np.ones(5_000, np.float32), 1)
    assert voice.waiting == 12_000
    voice.place(10)
    voice.push(np.ones(5_000, np.float32), 1)


def test_discard_fades_out_and_forgets() -> None:
    voice = lane()
    voice.push(np.ones(20 * FRAME, np.float32), 1)
    voice.place(5)
    voice.discard()
    voice.place(8)
    cut = voice.read(5, 8)
    assert cut[0] == 1.0
    assert np.all(np.diff(cut[:80]) < 0)
    assert not cut[80:].any()
    assert voice.waiting == 0
    assert voice.open_turn is None


def test_windows_equal_those_of_the_whole_recording_for_any_blocks_and_pushes() -> None:
    pcm = (np.random.default_rng(0).standard_normal(40 * FRAME + 123) * 0.1).astype(np.float32)
    reference = frame_windows(log_mel(np.pad(pcm, (10 * FRAME, 10 * FRAME))), 10, 41)
    for blocks, chunk in (((1, 4, 8, 12, 8, 8), 160), ((12, 12, 12, 5), 80_000), ((2,) * 20 + (1,), 1000)):
        line, first, got = timeline(), 0, []
        for start in range(0, len(pcm), chunk):
            line.voice.push(pcm[start : start + chunk], 1)
        line.voice.flush()
        for length in blocks:
            # Planned twice, as when a plan is thrown away.
            line.plan(first, length)
            got.append(line.plan(first, length).windows)
            first += length
        np.testing.assert_allclose(np.concatenate(got), reference, rtol=1e-5, atol=1e-5)


def test_detector_judges_lazily_and_the_same_however_sound_came() -> None:
    sound = np.repeat([0.0, 0.5, 0.5, 0.0, 0.0, 0.5], 3 * WINDOW).astype(np.float32)
    answers = []
    for chunk in (100, 4000, len(sound)):
        buffer, asked = SampleBuffer(), [0]

        def probability(window: np.ndarray, asked: list[int] = asked) -> float:
            asked[0] += 1
            return loud(window)

        detector = SpeechDetector(buffer, probability)
        for start in range(0, len(sound), chunk):
            buffer.append(sound[start : start + chunk])
        assert asked == [0]
        places = range(0, len(sound) - FRAME, 500)
        answers.append([detector.between(p, p + FRAME, p + 2 * FRAME) for p in places])
    assert answers[0] == answers[1] == answers[2]
    assert True in answers[0]
    assert False in answers[0]


def test_silero_hears_speech_and_not_noise() -> None:
    from apps.media import read_sound

    speech = read_sound("assets/speech/maps.flac").pcm[:64_000]
    noise = (np.random.default_rng(0).standard_normal(32_000) * 0.03).astype(np.float32)

    def share(pcm: np.ndarray) -> float:
        probability = silero()
        windows = [pcm[i : i + WINDOW] for i in range(0, len(pcm) - WINDOW, WINDOW)]
        return float(np.mean([probability(w.astype(np.float32)) > 0.5 for w in windows]))

    assert share(speech) > 0.5
    assert share(noise) < 0.1


def test_both_libraries_hear_the_same() -> None:
    from engine.audio.silero import _Detector, _on_onnxruntime, _on_openvino

    pytest.importorskip("onnxruntime", reason="the other library is not installed")
    pytest.importorskip("openvino", reason="the other library is not installed")
    from apps.media import read_sound

    speech = read_sound("assets/speech/maps.flac").pcm[:64_000].astype(np.float32)
    detectors = [_Detector(load()()) for load in (_on_onnxruntime, _on_openvino)]
    heard = np.array([[d(speech[i : i + WINDOW]) for d in detectors] for i in range(0, len(speech) - WINDOW, WINDOW)])
    assert np.ptp(heard[:, 0]) > 0.9
    assert np.abs(heard[:, 0] - heard[:, 1]).max() < 0.02


def test_two_detectors_of_one_network_do_not_disturb_each_other() -> None:
    from apps.media import read_sound

    speech = read_sound("assets/speech/maps.flac").pcm[:32_000].astype(np.float32)
    windows = [speech[i : i + WINDOW] for i in range(0, len(speech) - WINDOW, WINDOW)]
    alone, beside, other = silero(), silero(), silero()
    expected = [alone(window) for window in windows]
    got = []
    for window in windows:
        got.append(beside(window))
        other(np.zeros(WINDOW, np.float32))
    assert got == expected


def test_auto_state_follows_both_voices_with_hangover_and_explicit_states_win() -> None:
    line = timeline()
    line.partner.push(np.full(10 * FRAME, 0.5, np.float32), 0)
    line.partner._keep_up_frames = None
    line.voice.push(np.full(5 * FRAME, 0.5, np.float32), 1)
    line.voice.flush()
    states = line.plan(0, 12).state.tolist() + line.plan(12, 12).state.tolist()
    speaking = [f for f, s in enumerate(states) if s == AvatarState.SPEAKING]
    assert speaking == list(range(speaking[-1] + 1))
    assert 4 + AFTER_FRAMES - 1 <= speaking[-1] <= 4 + AFTER_FRAMES
    assert states[speaking[-1] + 1] == AvatarState.LISTENING
    assert states[-1] == AvatarState.IDLE
    line.set_state(6, AvatarState.IDLE)
    assert line.plan(0, 12).state.tolist()[:6] == states[:6]
    assert set(line.plan(6, 12).state.tolist()) == {AvatarState.IDLE}


def test_speech_that_was_cut_does_not_linger() -> None:
    line = timeline()
    line.voice.push(np.full(30 * FRAME, 0.5, np.float32), 1)
    assert set(line.plan(0, 8).state.tolist()) == {AvatarState.SPEAKING}
    line.rewind(8)
    line.voice.discard()
    assert set(line.plan(8, 4).state.tolist()) == {AvatarState.IDLE}


def test_cues_fade_from_where_they_stand_and_later_ones_take_over() -> None:
    track = CueTrack(2)
    track.add(Cue(10, 10, {0: 1.0}))
    values, given = track.values(0, 40)
    assert given.tolist() == [0.0] * 10 + [1.0] * 30
    assert values[10, 0] == 0
    assert values[15, 0] == pytest.approx(0.5)
    np.testing.assert_array_equal(values[20:, 0], 1)
    track.add(Cue(15, 4, {0: 0.0}))
    values, _ = track.values(0, 40)
    assert values[15, 0] == pytest.approx(0.5)
    np.testing.assert_array_equal(values[19:, 0], 0)
    assert np.abs(np.diff(values[:, 0])).max() < 0.3


def test_cues_are_the_same_when_asked_late_and_history_is_folded() -> None:
    early, late = CueTrack(3), CueTrack(3)
    for start in range(0, 400, 7):
        for track in (early, late):
            track.add(Cue(start, 5, {start % 3: float(start % 2)}))
    # Only what was added before a frame is asked for may be folded; here everything is known.
    got = np.concatenate([early.values(f, 10)[0] for f in range(0, 400, 10)])
    np.testing.assert_allclose(got[300:], late.values(300, 100)[0])
    assert len(early._cues) < 400 / 7 and len(early._cues) >= KEPT_FRAMES // 7


def test_letting_go_fades_first() -> None:
    track = CueTrack(1)
    track.add(Cue(0, 0, {0: 1.0}))
    track.add(Cue(10, 5, {0: 0.0}, given=False))
    values, given = track.values(0, 20)
    assert given.tolist() == [1.0] * 15 + [0.0] * 5
    assert values[12, 0] > 0
    assert values[15, 0] == 0


def test_a_flood_of_cues_is_bounded() -> None:
    track = CueTrack(8)
    for i in range(5000):
        track.add(Cue(1000 + i, 1, {i % 8: 0.5}))
    assert len(track._cues) <= 256


def test_a_cue_for_a_moment_of_the_utterance_waits_for_its_frame() -> None:
    line = timeline()
    line.voice.push(np.full(20 * FRAME, 0.5, np.float32), 3)
    line.cue_at_moment(line.expression, 3, 5 * FRAME, Cue(0, 0, {2: 1.0}))
    first = line.plan(0, 4)
    assert not first.expression.any()
    second = line.plan(4, 8)
    assert second.expression[:, 2].tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    np.testing.assert_array_equal(line.plan(4, 8).expression, second.expression)


def test_sound_that_was_thrown_away_is_not_judged() -> None:
    asked = []
    voice = AudioLane(120, probability=lambda window: float(len(asked.append(1) or asked) > 0))  # type: ignore[func-returns-value]
    voice.push(np.full(60 * 16_000, 0.5, np.float32), 1)
    voice.place(3)
    voice.discard()
    voice.push(np.full(16_000, 0.5, np.float32), 2)
    voice.flush()
    voice.place(6)
    assert voice.active(3, 5)
    assert 0 < len(asked) <= 12
