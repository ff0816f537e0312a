"""Real sound: a PulseAudio server of the test's own, with devices of its own, through PortAudio."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import pytest
from fake_sound import soon, tone

from apps.desktop.audio.devices import choose
from apps.desktop.audio.errors import NoSuchDeviceError, SoundLibraryMissingError
from apps.desktop.audio.gate import Gate, GateConfig
from apps.desktop.audio.microphone import Microphone
from apps.desktop.audio.portaudio import open_library
from apps.desktop.audio.pulse import PulseHost, is_running
from apps.desktop.audio.source import Packet, clock_us
from apps.desktop.audio.speaker import Speaker
from apps.desktop.notice import Notice

pytestmark = pytest.mark.skipif(
    not (shutil.which("pulseaudio") and shutil.which("pactl")), reason="PulseAudio is not installed"
)

RATES_HZ = (8_000, 16_000, 44_100, 48_000)
_START_S = 15.0


class Server:
    """Each device is a null sink; what is played into it is heard by the microphone of the same name."""

    def __init__(self) -> None:
        self._modules: dict[str, list[str]] = {}

    def plug(self, name: str, rate_hz: int) -> None:
        self._modules[name] = [
            _pactl("load-module", "module-null-sink", f"sink_name={name}_room", f"rate={rate_hz}"),
            _pactl("load-module", "module-remap-source", f"source_name={name}", f"master={name}_room.monitor"),
        ]

    def unplug(self, name: str) -> None:
        for module in reversed(self._modules.pop(name)):
            _pactl("unload-module", module)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="vv") as folder, pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_RUNTIME_DIR", "PULSE_RUNTIME_PATH", "PULSE_STATE_PATH", "HOME"):
            patch.setenv(variable, folder)
        patch.delenv("PULSE_SERVER", raising=False)
        process = subprocess.Popen(
            ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--load=module-native-protocol-unix"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            soon(lambda: is_running() or process.poll() is not None, within_s=10)
            if process.poll() is not None:
                pytest.skip("PulseAudio does not start here")
            yield Server()
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def host(server: Server) -> PulseHost:
    server.plug("first", 48_000)
    try:
        return PulseHost(open_library())
    except (SoundLibraryMissingError, NoSuchDeviceError) as error:
        pytest.skip(str(error))


def test_microphones_and_monitors_are_told_apart(host: PulseHost, server: Server) -> None:
    inputs, outputs = host.inputs(), host.outputs()
    assert [device.id for device in inputs if not device.is_loopback] == ["first"]
    assert [device.id for device in inputs if device.is_loopback] == ["first_room.monitor"]
    assert [(device.id, device.rate_hz) for device in outputs] == [("first_room", 48_000)]
    assert choose(inputs, None).id == "first"


def test_every_rate_is_heard_as_it_was_played(host: PulseHost, server: Server) -> None:
    """A tone on four devices at once, from a Speaker through the server into a Microphone."""
    heard: dict[int, list[Packet]] = {}
    notices: list[Notice] = []
    microphones, speakers = [], []
    for rate_hz in RATES_HZ:
        server.plug(f"at{rate_hz}", rate_hz)
        heard[rate_hz] = []
        gate = Gate(heard[rate_hz].append, lambda: None, GateConfig(detect=False))
        microphones.append(Microphone(f"at{rate_hz}", host))
        microphones[-1].start(gate.take, notices.append)
        speakers.append(Speaker(f"at{rate_hz}_room", host))
        speakers[-1].start(notices.append)
    try:
        soon(lambda: all(len(packets) > 20 for packets in heard.values()), within_s=_START_S)
        played_us = _play(speakers, seconds=2.0)
    finally:
        for running in [*microphones, *speakers]:
            running.stop()
        for rate_hz in RATES_HZ:
            server.unplug(f"at{rate_hz}")
    assert not notices
    for rate_hz, packets in heard.items():
        pcm = np.concatenate([packet.samples for packet in packets if packet.captured_us > played_us + 1_000_000])
        part = pcm[:8_000]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        assert np.argmax(spectrum) * 16_000 / len(part) == pytest.approx(440, abs=4), rate_hz
        assert np.abs(part).max() == pytest.approx(0.5, abs=0.1), rate_hz


def test_unplugged_and_plugged_in_again(host: PulseHost, server: Server) -> None:
    server.plug("yeti", 44_100)
    packets: list[Packet] = []
    codes: list[str] = []
    microphone, speaker = Microphone("yeti", host), Speaker("yeti_room", host)
    microphone.start(packets.append, lambda notice: codes.append(notice.code))
    speaker.start(lambda notice: codes.append(notice.code))
    try:
        soon(lambda: packets, within_s=_START_S)
        server.unplug("yeti")
        soon(lambda: {"microphone_lost", "speaker_lost"} <= set(codes), within_s=_START_S)
        time.sleep(0.2)
        count = len(packets)
        server.plug("yeti", 44_100)
        soon(lambda: {"microphone_back", "speaker_back"} <= set(codes), within_s=_START_S)
        soon(lambda: len(packets) > count, within_s=_START_S)
    finally:
        began_s = time.monotonic()
        microphone.stop()
        speaker.stop()
    assert time.monotonic() - began_s < 5
    assert sorted(codes) == ["microphone_back", "microphone_lost", "speaker_back", "speaker_lost"]


def test_device_that_is_not_there_is_an_error_and_leaves_no_trace(host: PulseHost, server: Server) -> None:
    with pytest.raises(NoSuchDeviceError, match="first"):
        choose(host.inputs(), "Rode")
    assert "PULSE_SOURCE" not in os.environ and "PULSE_SINK" not in os.environ


def _play(speakers: list[Speaker], seconds: float) -> int:
    """A tone on all of them; returns when it began."""
    pcm, begun_us = tone(seconds, 16_000), clock_us()
    for at in range(0, len(pcm), 640):
        for speaker in speakers:
            speaker.play(pcm[at : at + 640], at * 1_000_000 // 16_000)
        time.sleep(max(0, (begun_us + (at + 640) * 1_000_000 // 16_000 - clock_us()) / 1e6))
    return begun_us


def _pactl(*words: str) -> str:
    return subprocess.run(["pactl", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
