"""What of a microphone passes the gate, and how much of the avatar's own voice is left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fake_sound import packets, tone

from apps.desktop.audio.gate import Gate, GateConfig, Mode
from apps.desktop.audio.source import Packet, Samples
from apps.media import read_sound

SPEECH = Path(__file__).resolve().parent.parent / "assets" / "speech"
RATE = 16_000


@dataclass
class Player:
    heard_until_us: int = 0


class Passed:
    """A gate with all that came through it."""

    def __init__(self, config: GateConfig, player: Player | None = None, voice: float = 0.1) -> None:
        """voice: the level from which on the test's detector hears one."""
        self.packets: list[Packet] = []
        self.ends: list[int] = []
        self.gate = Gate(
            self.packets.append,
            lambda: self.ends.append(len(self.packets)),
            config,
            player=player,
            probability=lambda window: float(np.abs(window).max() > voice),
        )

    def hear(self, pcm: Samples, begins_us: int = 0) -> None:
        for packet in packets(pcm, RATE, begins_us):
            self.gate.take(packet)

    @property
    def spans_ms(self) -> tuple[int, int]:
        first, last = self.packets[0], self.packets[-1]
        return first.captured_us // 1000, (last.captured_us + last.duration_us) // 1000


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


def test_open_microphone_lets_voices_through_with_their_beginning() -> None:
    passed = Passed(GateConfig(before_ms=120, pause_ms=400))
    passed.hear(np.concatenate((silence(1), tone(0.5, RATE), silence(1))))
    begins_ms, ends_ms = passed.spans_ms
    assert 880 <= begins_ms <= 1000, "the beginning of the voice is missing, or sound from long before came along"
    assert 1_500 + 360 <= ends_ms <= 1_500 + 480
    assert passed.ends == [len(passed.packets)] and passed.gate.state == "waiting"
    moments = [packet.captured_us for packet in passed.packets]
    assert np.diff(moments).tolist() == [20_000] * (len(moments) - 1), "order, and nothing twice"


def test_short_pauses_do_not_end_an_utterance() -> None:
    passed = Passed(GateConfig(pause_ms=400))
    passed.hear(np.concatenate([part for _ in range(3) for part in (tone(0.3, RATE), silence(0.3))]))
    assert not passed.ends and passed.gate.state == "open"
    passed.gate.close()
    assert len(passed.ends) == 1


def test_real_voices_open_the_gate_and_noise_does_not() -> None:
    found: list[Packet] = []
    gate = Gate(found.append, lambda: None)
    noise = np.random.default_rng(1).normal(0, 0.01, 2 * RATE).astype(np.float32)
    for packet in packets(noise, RATE):
        gate.take(packet)
    assert not found
    voice = read_sound(SPEECH / "maps.flac").pcm[: 2 * RATE]
    for packet in packets(voice, RATE, 2_000_000):
        gate.take(packet)
    begins_us = 2_000_000 + int(np.argmax(np.abs(voice) > 0.05)) * 1_000_000 // RATE
    assert found and found[0].captured_us <= begins_us + 20_000, "the first sound is cut off"


@pytest.mark.parametrize("mode", ["open", "push"])
def test_everything_passes_while_it_may(mode: Mode) -> None:
    passed = Passed(GateConfig(mode=mode, detect=False))
    passed.gate.hold(True)
    passed.hear(silence(0.2))
    assert len(passed.packets) == 10


def test_push_to_talk_has_a_tail_and_an_end() -> None:
    passed = Passed(GateConfig(mode="push", tail_ms=200))
    passed.hear(tone(0.4, RATE))
    assert not passed.packets
    passed.gate.hold(True)
    passed.hear(tone(0.4, RATE), 400_000)
    passed.gate.hold(False)
    passed.hear(tone(0.4, RATE), 800_000)
    assert passed.spans_ms[0] >= 280 and passed.spans_ms[1] == pytest.approx(1_000, abs=40)
    assert len(passed.ends) == 1


def test_mute_is_silence_at_once_and_keeps_nothing_back() -> None:
    passed = Passed(GateConfig())
    passed.hear(tone(0.2, RATE))
    passed.gate.set_mode("muted")
    count = len(passed.packets)
    passed.hear(tone(0.5, RATE), 200_000)
    assert len(passed.packets) == count and passed.ends == [count] and passed.gate.state == "muted"
    passed.gate.set_mode("open")
    passed.hear(tone(0.2, RATE), 700_000)
    assert passed.packets[count].captured_us >= 700_000, "what was said while muted must never be heard"


def test_gate_shuts_while_the_avatar_is_heard_but_not_with_headphones() -> None:
    player = Player(heard_until_us=300_000)
    passed = Passed(GateConfig(echo_ms=200), player)
    passed.hear(tone(1.0, RATE))
    assert passed.packets[0].captured_us >= 500_000
    passed = Passed(GateConfig(echo_ms=200, headphones=True), player)
    passed.hear(tone(1.0, RATE))
    assert passed.packets[0].captured_us == 0


def test_canceller_takes_the_avatars_voice_away_and_leaves_the_users() -> None:
    """A voice through a simulated room: delay, reflections, and what the user says over it."""
    pytest.importorskip("livekit.rtc.apm", reason="the extra `echo` is not installed")
    from apps.desktop.audio.echo import EchoCanceller

    seconds = 10
    far = read_sound(SPEECH / "welcome.flac").pcm[: seconds * RATE]
    user = np.zeros_like(far)
    user[6 * RATE : 8 * RATE] = read_sound(SPEECH / "maps.flac").pcm[: 2 * RATE]
    echo = _room(far)
    left = _cleaned(EchoCanceller(), far, echo)
    assert _db(left[3 * RATE :]) < _db(echo[3 * RATE : len(left)]) - 25
    both = _cleaned(EchoCanceller(), far, echo + user)
    spoken = slice(6 * RATE, 8 * RATE)
    assert _db(both[spoken]) > _db(user[spoken]) - 6, "the user is taken away, too"


def _room(far: Samples) -> Samples:
    delay, tail = round(0.11 * RATE), 1_600
    noise = np.random.default_rng(0).normal(0, 0.05, tail)
    answer = np.zeros(delay + tail)
    answer[delay:] = noise * np.exp(-np.arange(tail) / 300)
    answer[delay] = 0.5
    return np.convolve(far, answer)[: len(far)].astype(np.float32)


def _cleaned(canceller: object, far: Samples, near: Samples) -> Samples:
    found = []
    for played, recorded in zip(packets(far, RATE), packets(near, RATE), strict=True):
        canceller.played(played)  # type: ignore[attr-defined]
        found.append(canceller.clean(recorded.samples, recorded.captured_us)[0])  # type: ignore[attr-defined]
    return np.concatenate(found)


def _db(pcm: Samples) -> float:
    return float(10 * np.log10(np.mean(np.square(pcm)) + 1e-12))
