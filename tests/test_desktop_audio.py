"""The desktop's microphones and speakers, on devices that come, go and misbehave."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_sound import QUICK, FakeHost, microphone, packets, soon, tone

from apps.desktop.audio import keeper as keepers
from apps.desktop.audio.devices import DeviceWatch, choose
from apps.desktop.audio.errors import DeviceBusyError, LoopbackError, NoSuchDeviceError
from apps.desktop.audio.file_source import FileSource
from apps.desktop.audio.host import Device
from apps.desktop.audio.loopback import Loopback, loopbacks
from apps.desktop.audio.microphone import RING_PACKETS, Microphone
from apps.desktop.audio.plain import PlainHost
from apps.desktop.audio.portaudio import Entry, PyAudioLibrary, SoundDeviceLibrary
from apps.desktop.audio.rate import QuickRateChange
from apps.desktop.audio.source import QUIET_DB, Packet, clock_us
from apps.desktop.audio.speaker import LONGEST_US, PREBUFFER_US, Speaker
from apps.desktop.notice import Notice
from apps.media import read_sound

SPEECH = Path(__file__).resolve().parent.parent / "assets" / "speech" / "maps.flac"
SPEAKER = Device("Boxes", 48_000, 2, "fake", True, id="boxes")


class Heard:
    """What a source delivered and said."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.notices: list[Notice] = []

    @property
    def codes(self) -> list[str]:
        return [notice.code for notice in self.notices]


# Choosing.


def test_devices_are_chosen_by_name_part_and_default() -> None:
    yeti, webcam = microphone("Blue Yeti", default=False), microphone("Webcam")
    monitor = microphone("Monitor of Blue Yeti", loopback=True)
    there = [monitor, yeti, webcam]
    assert choose(there, None) is webcam
    assert choose(there, "Blue Yeti") is yeti
    assert choose(there, "yeti") is yeti
    assert choose(there, "monitor of blue yeti") is monitor
    assert choose([monitor, yeti], None) is yeti
    with pytest.raises(NoSuchDeviceError, match="“Webcam”"):
        choose(there, "Rode")
    with pytest.raises(NoSuchDeviceError, match="no microphone; plug"):
        choose([monitor], None)


def test_watch_tells_what_came_and_what_went() -> None:
    host = FakeHost([microphone("A")])
    changes: list[tuple[list[str], list[str]]] = []
    watch = DeviceWatch(lambda came, went: changes.append((came, went)), host, every_s=0.01)
    watch.start()
    time.sleep(0.05)
    host.microphones[:] = [microphone("B")]
    soon(lambda: changes)
    watch.stop()
    assert changes == [(["B"], ["A"])]


# Microphones.


def test_microphone_delivers_what_it_hears_with_its_time() -> None:
    host, heard = FakeHost([microphone(rate_hz=16_000)]), Heard()
    mic = Microphone(None, host, QUICK)
    mic.start(heard.packets.append, heard.notices.append)
    soon(lambda: host.open)
    assert mic.level_db == QUIET_DB
    before_us = clock_us()
    host.hear(tone(0.02, 16_000))
    soon(lambda: heard.packets)
    packet = heard.packets[0]
    assert len(packet.samples) == 320 and packet.rate_hz == 16_000
    assert before_us - 25_000 <= packet.captured_us <= before_us
    assert mic.level_db == pytest.approx(-9, abs=0.5)
    assert mic.device == host.microphones[0]
    mic.stop()
    assert not host.open and not heard.notices and mic.level_db == QUIET_DB


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_rates_are_converted_at_once_and_in_time(rate_hz: int) -> None:
    change = QuickRateChange(rate_hz, 16_000)
    pcm = tone(1.0, rate_hz, hz=1_000)
    pcm[: rate_hz // 2] = 0
    found = [change.push(p.samples, p.captured_us) for p in packets(pcm, rate_hz)]
    assert all(len(samples) >= 300 for samples, _ in found), "sound is held back"
    begins_us = next(at_us + 62.5 * np.argmax(np.abs(s) > 0.1) for s, at_us in found if (np.abs(s) > 0.1).any())
    assert begins_us == pytest.approx(500_000, abs=400)
    joined = np.concatenate([samples for samples, _ in found])[9_000:15_000]
    spectrum = np.abs(np.fft.rfft(joined * np.hanning(len(joined))))
    assert np.argmax(spectrum) * 16_000 / len(joined) == pytest.approx(1_000, abs=3)
    assert np.abs(joined).max() == pytest.approx(0.5, abs=0.02)


def test_what_16_khz_cannot_hold_does_not_fold_back() -> None:
    change = QuickRateChange(48_000, 16_000)
    found = np.concatenate([change.push(p.samples, 0)[0] for p in packets(tone(0.5, 48_000, hz=10_000), 48_000)])
    assert np.abs(found[2_000:]).max() < 0.001


def test_unplugged_microphone_is_told_once_and_comes_back() -> None:
    host, heard = FakeHost([microphone("Yeti")]), Heard()
    mic = Microphone("yeti", host, QUICK)
    mic.start(heard.packets.append, heard.notices.append)
    soon(lambda: host.open)
    host.hear(tone(0.02, 48_000))
    host.unplug("Yeti")
    soon(lambda: heard.notices)
    time.sleep(0.1)
    assert heard.codes == ["microphone_lost"] and mic.device is None
    assert "yeti" in heard.notices[0].text and "Plug it in again" in heard.notices[0].text
    host.microphones.append(microphone("Yeti"))
    soon(lambda: host.open)
    host.hear(tone(0.02, 48_000))
    soon(lambda: len(heard.packets) == 2)
    soon(lambda: heard.codes == ["microphone_lost", "microphone_back"])
    mic.stop()


def test_stream_that_was_moved_to_another_device_is_not_kept() -> None:
    host, heard = FakeHost([microphone("Yeti"), microphone("Webcam", default=False)], moved=True), Heard()
    mic = Microphone("Yeti", host, QUICK)
    mic.start(heard.packets.append, heard.notices.append)
    soon(lambda: host.open)
    host.hear(tone(0.02, 48_000))
    host.unplug("Yeti")
    soon(lambda: heard.codes == ["microphone_lost"])
    assert not host.open, "the webcam is heard, which nobody chose"
    mic.stop()


def test_default_microphone_follows_the_system() -> None:
    host, heard = FakeHost([microphone("A")]), Heard()
    mic = Microphone(None, host, QUICK)
    mic.start(heard.packets.append, heard.notices.append)
    soon(lambda: host.open)
    host.hear(tone(0.02, 48_000))
    host.microphones[:] = [microphone("A", default=False), microphone("B")]
    soon(lambda: [stream.device.name for stream in host.open] == ["B"])
    mic.stop()
    assert not heard.notices


def test_microphone_that_falls_silent_is_opened_again() -> None:
    host, heard = FakeHost([microphone()]), Heard()
    mic = Microphone(None, host, QUICK)
    mic.start(heard.packets.append, heard.notices.append)
    soon(lambda: host.open)
    first = host.open[0]
    host.hear(tone(0.02, 48_000))
    soon(lambda: not first.alive and host.open)
    mic.stop()
    assert not heard.notices


def test_no_microphone_and_busy_microphone_are_told_and_tried_again() -> None:
    host, heard = FakeHost(), Heard()
    mic = Microphone(None, host, QUICK)
    mic.start(heard.packets.append, heard.notices.append)
    soon(lambda: heard.codes == ["no_microphone"])
    host.busy.add("Yeti")
    host.microphones.append(microphone())
    soon(lambda: heard.codes == ["no_microphone", "microphone_busy"])
    assert "another program" in heard.notices[1].text
    host.busy.clear()
    soon(lambda: host.open)
    host.hear(np.zeros(960, np.float32))
    soon(lambda: heard.codes[2:] == ["microphone_back"])
    mic.stop()


def test_microphone_that_opens_and_gives_nothing_is_told_until_it_does() -> None:
    """So a sound server treats hardware that a program beside it has taken."""
    host, heard = FakeHost([microphone()]), Heard()
    mic = Microphone(None, host, QUICK)
    mic.start(heard.packets.append, heard.notices.append)
    soon(lambda: len(host.streams) >= 3)
    assert heard.codes == ["microphone_busy"]
    host.hear(np.zeros(960, np.float32))
    soon(lambda: heard.codes == ["microphone_busy", "microphone_back"])
    mic.stop()


def test_slow_taker_costs_the_oldest_sound_and_no_memory() -> None:
    host, heard, let_go = FakeHost([microphone()]), Heard(), threading.Event()

    def slow(packet: Packet) -> None:
        let_go.wait(10)
        heard.packets.append(packet)

    mic = Microphone(None, host, QUICK)
    mic.start(slow, heard.notices.append)
    soon(lambda: host.open)
    for number in range(RING_PACKETS + 21):
        host.hear(np.full(960, number, np.float32))
    assert mic.dropped in (20, 21)
    let_go.set()
    soon(lambda: len(heard.packets) >= RING_PACKETS)
    assert heard.packets[-1].samples[0] == RING_PACKETS + 20
    mic.stop()


def test_taker_that_fails_does_not_end_the_microphone() -> None:
    host, heard = FakeHost([microphone()]), Heard()

    def fail(packet: Packet) -> None:
        heard.packets.append(packet)
        raise RuntimeError("on purpose")

    mic = Microphone(None, host, QUICK)
    mic.start(fail, heard.notices.append)
    soon(lambda: host.open)
    host.hear(tone(0.02, 48_000))
    host.hear(tone(0.02, 48_000))
    soon(lambda: len(heard.packets) == 2)
    mic.stop()


def test_driver_that_hangs_does_not_hang_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "_STOP_S", 0.1)
    let_go = threading.Event()

    class Hanging(FakeHost):
        def record(self, device: Device, take: Any) -> Any:
            let_go.wait(10)
            return super().record(device, take)

    host, heard = Hanging([microphone()]), Heard()
    mic = Microphone(None, host, QUICK)
    began_s = time.monotonic()
    mic.start(heard.packets.append, heard.notices.append)
    mic.stop()
    assert time.monotonic() - began_s < 2
    let_go.set()
    soon(lambda: host.streams and not host.open)


def test_loopback_is_the_default_speakers_or_a_typed_error() -> None:
    other, mine = (
        microphone("Monitor of TV", loopback=True),
        Device("M", 48_000, 2, "fake", False, True, "boxes.monitor"),
    )
    host = FakeHost([other, mine, microphone()], [SPEAKER])
    assert loopbacks(host) == [other, mine]
    assert Loopback(host=host).name == "M"
    with pytest.raises(LoopbackError, match="cannot be heard"):
        Loopback(host=FakeHost([microphone()]))


# Speakers.


def playing(host: FakeHost) -> tuple[Speaker, list[Notice]]:
    notices: list[Notice] = []
    speaker = Speaker(None, host, QUICK)
    speaker.start(notices.append)
    soon(lambda: host.open)
    return speaker, notices


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_speaker_plays_in_order_and_knows_what_sounds(rate_hz: int) -> None:
    host = FakeHost(speakers=[Device("Boxes", rate_hz, 2, "fake", True, id="boxes")])
    speaker, _ = playing(host)
    host.pull(rate_hz // 50, clock_us())
    marked = np.zeros(640, np.float32)
    marked[320] = 1
    assert speaker.playing_pts_us() is None
    for index in range(6):
        speaker.play(marked if index == 3 else np.zeros(640, np.float32), 1_000_000 + index * 40_000)
    found = None
    for _ in range(8):
        out = host.pull(rate_hz // 50, clock_us())
        if out.max() > 0.2 and found is None:
            pts_us = speaker.playing_pts_us()
            assert pts_us is not None
            found = pts_us + int(out.argmax()) * 1e6 / rate_hz
    assert found == pytest.approx(1_140_000, abs=3_000)
    speaker.stop()


def test_speaker_gathers_sound_and_falls_silent_when_it_runs_out() -> None:
    host = FakeHost(speakers=[Device("Boxes", 16_000, 1, "fake", True, id="boxes")])
    speaker, _ = playing(host)
    frames = -(-PREBUFFER_US // 40_000)
    for index in range(frames):
        assert not host.pull(320, clock_us()).any(), f"{PREBUFFER_US} us must be there first"
        speaker.play(np.ones(640, np.float32), 40_000 * index)
    assert sum(host.pull(320, clock_us()).sum() for _ in range(2 * frames)) == 640 * frames
    assert not host.pull(320, clock_us()).any() and speaker.starved == 1
    assert speaker.playing_pts_us() is None
    speaker.stop()


def test_speaker_is_bounded_and_flushed() -> None:
    host = FakeHost(speakers=[Device("Boxes", 16_000, 1, "fake", True, id="boxes")])
    speaker, _ = playing(host)
    for index in range(50):
        speaker.play(np.ones(640, np.float32), index * 40_000)
    assert speaker.dropped_us > 1_000_000 and speaker.latency_us <= LONGEST_US
    assert host.pull(320, clock_us()).all()
    assert speaker.heard_until_us > clock_us()
    speaker.flush()
    assert not host.pull(320, clock_us()).any() and speaker.playing_pts_us() is None
    speaker.stop()


def test_lost_speaker_leaves_the_stream_at_its_pace() -> None:
    host = FakeHost(speakers=[SPEAKER])
    speaker, notices = playing(host)
    host.unplug("Boxes")
    soon(lambda: [notice.code for notice in notices] == ["speaker_lost"])
    began_us = clock_us()
    for index in range(8):
        speaker.play(tone(0.04, 16_000), index * 40_000)
        time.sleep(max(0, (began_us + (index + 1) * 40_000 - clock_us()) / 1e6))
    pts_us = speaker.playing_pts_us()
    assert pts_us is not None and 100_000 < pts_us < 400_000
    assert speaker.heard_until_us == 0, "nothing is heard, so there is no echo"
    host.speakers.append(SPEAKER)
    soon(lambda: host.open)
    host.pull(160, clock_us())
    soon(lambda: notices[-1].code == "speaker_back")
    speaker.stop()


# Files.


def test_file_is_delivered_at_the_pace_of_life() -> None:
    heard, ends = Heard(), []
    source = FileSource(SPEECH, finished=lambda: ends.append(True))
    whole = read_sound(SPEECH).pcm
    source.start(heard.packets.append, heard.notices.append)
    soon(lambda: len(heard.packets) > 20)
    source.stop()
    gone_us = heard.packets[-1].captured_us - heard.packets[0].captured_us
    assert gone_us == (len(heard.packets) - 1) * 20_000
    assert clock_us() - heard.packets[-1].captured_us >= 20_000, "no packet comes before it has sounded"
    joined = np.concatenate([packet.samples for packet in heard.packets])
    assert np.array_equal(joined, whole[: len(joined)]) and not ends and not heard.notices


def test_missing_file_is_a_notice() -> None:
    heard = Heard()
    source = FileSource(Path("nowhere.wav"))
    source.start(heard.packets.append, heard.notices.append)
    soon(lambda: heard.notices)
    assert heard.codes == ["file_missing"] and "Choose another file" in heard.notices[0].text
    source.stop()


# PortAudio's two packages.


class FakePyAudio:
    paFloat32, paContinue = 1, 0
    __name__ = "pyaudio"
    code = -9985

    class PyAudio:
        def open(self, **settings: Any) -> None:
            raise OSError(FakePyAudio.code, "Device unavailable")


class FakeSoundDevice:
    class PortAudioError(Exception): ...

    class RawInputStream:
        def __init__(self, **settings: Any) -> None:
            raise FakeSoundDevice.PortAudioError("Error opening", -9985)


def test_busy_devices_are_told_by_both_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in (PyAudioLibrary(FakePyAudio()), SoundDeviceLibrary(FakeSoundDevice)):
        with pytest.raises(DeviceBusyError):
            library.record(0, 48_000, 1, lambda data, age_s: None)
    monkeypatch.setattr(FakePyAudio, "code", -9996)
    with pytest.raises(NoSuchDeviceError):
        PyAudioLibrary(FakePyAudio()).record(0, 48_000, 1, lambda data, age_s: None)


def test_callback_times_become_capture_times() -> None:
    """PyAudio's clock is the driver's own; only the difference counts, and never less than the block itself."""
    opened: dict[str, Any] = {}

    class Module(FakePyAudio):
        class PyAudio:
            def open(self, **settings: Any) -> Any:
                opened.update(settings)
                return SimpleNamespace(get_input_latency=lambda: 0.04, close=lambda: None, is_active=lambda: True)

    ages: list[float] = []
    stream = PyAudioLibrary(Module()).record(3, 48_000, 1, lambda data, age_s: ages.append(age_s))
    assert opened["input_device_index"] == 3 and opened["frames_per_buffer"] == 960 and stream.latency_us == 40_000
    for adc_s in (99.95, 99.999, 0.0):
        opened["stream_callback"](b"", 0, {"current_time": 100.0, "input_buffer_adc_time": adc_s}, 0)
    assert ages == pytest.approx([0.05, 0.02, 0.02])


class FakeLibrary:
    """PortAudio's table as it was at the start; `restart` reads it anew."""

    name = "fake"

    def __init__(self, real: list[Entry]) -> None:
        self.real, self.restarts = real, 0
        self._table = list(real)

    def entries(self) -> list[Entry]:
        return self._table

    def record(self, index: int, rate_hz: int, channels: int, take: Any) -> Any:
        return SimpleNamespace(latency_us=0, active=True, close=lambda: None)

    play = record

    def restart(self) -> None:
        self.restarts += 1
        self._table = list(self.real)


def test_new_device_restarts_portaudio_and_only_then() -> None:
    old = Entry(0, "Webcam", "Windows WASAPI", 1, 0, 48_000, True, False)
    new = Entry(1, "Yeti", "Windows WASAPI", 2, 0, 44_100, False, False)
    twice = Entry(2, "Webcam", "MME", 1, 0, 44_100, False, False)
    library = FakeLibrary([old, twice])
    host = PlainHost(library)
    assert [device.name for device in host.inputs()] == ["Webcam"], "one interface's devices, each once"
    webcam = host.record(host.inputs()[0], lambda *_: None)
    library.real.append(new)
    assert webcam.alive and not library.restarts
    yeti = host.record(Device("Yeti", 44_100, 2, "Windows WASAPI", id="Yeti"), lambda *_: None)
    assert yeti.alive and library.restarts == 1
    assert not webcam.alive, "whoever holds it opens it again"
    with pytest.raises(NoSuchDeviceError, match="Rode"):
        host.record(Device("Rode", 48_000, 1, "Windows WASAPI", id="Rode"), lambda *_: None)
