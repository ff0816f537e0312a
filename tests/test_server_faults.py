"""A server when something goes wrong: a crash of the model, texts that cannot be spoken, readers that stop, signals."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("websockets", reason="the server extra is not installed")

from serving import AUDIO, PATIENCE_S, VIDEO, Peer, Running, mock_config, peer, running, tone

from apps.server.app import AvatarServer
from apps.server.limits import Limits
from apps.server.outbox import Outbox
from engine.errors import MediaError
from engine.session import AvatarSession
from engine.worker.process import child_environment


class Parrot:
    """Speaks in tones, 10 ms a letter; waits for leave, fails when asked to."""

    voices: Sequence[str] = ("deep", "high")

    def __init__(self) -> None:
        self.leave = threading.Event()
        self.leave.set()

    def say(self, text: str, voice: str) -> tuple[NDArray[np.int16], int]:
        assert self.leave.wait(10)
        if text == "fail":
            raise MediaError("no words")
        if text == "break":
            raise RuntimeError("a bug of the speaker")
        return tone(0.01 * len(text), 22_050), 22_050


@pytest.fixture(scope="module")
def parrot() -> Parrot:
    return Parrot()


@pytest.fixture(scope="module")
def server(parrot: Parrot) -> Iterator[Running]:
    with running(mock_config(limits=Limits(sessions=12), grace_s=1.0), parrot) as one:
        yield one


def finished(one: Peer) -> list[tuple[int, str]]:
    return [(m["utterance"], m["reason"]) for m in one.of_type("playback.finished")]


def test_texts_are_spoken_in_order_with_voices_between(server: Running, parrot: Parrot) -> None:
    async def talk() -> Peer:
        async with peer(server.url) as one:
            await one.until_type("welcome")
            parrot.leave.clear()
            await one.tell("speak", text="a text of twenty chs", voice="high", id=1)
            await one.until_type("utterance.opened", id=1)
            await one.sound(tone(0.1), utterance=5)
            await one.sound(b"", utterance=5, last=True)
            await one.tell("speak", text="fail", id=2)
            await one.tell("speak", text="break", utterance=9)
            await one.tell("speak", text="x", voice="nobody", id=3)
            await one.sound(tone(0.1), utterance=10, last=True)
            await one.until_type("error", id=3)
            parrot.leave.set()
            await one.until_type("playback.finished", utterance=10)
            return one

    one = asyncio.run(talk())
    assert one.of_type("welcome")[0]["speech"] == {"voices": ["deep", "high"]}
    assert [u for u, why in finished(one) if why == "complete"] == [1, 5, 10]
    assert sorted(u for u, why in finished(one) if why == "speech_failed") == [6, 9]
    assert len(finished(one)) == 5
    assert [m["code"] for m in one.of_type("error")] == ["bad_argument", "speech_failed", "speech_failed"]
    assert [s.utterance for s in one.media(AUDIO) if s.utterance] == [1] * 5 + [5] * 3 + [10] * 3


def test_an_interrupt_stops_a_text_that_is_not_made_yet(server: Running, parrot: Parrot) -> None:
    async def talk() -> Peer:
        async with peer(server.url) as one:
            await one.until_type("welcome")
            parrot.leave.clear()
            for number in range(5):
                await one.tell("speak", text="long" * 9, id=number)
            await one.until_type("error", id=4)
            await one.tell("interrupt")
            await one.until_type("playback.finished", utterance=4)
            parrot.leave.set()
            await one.sound(tone(0.1), utterance=8, last=True)
            await one.until_type("playback.finished", utterance=8)
            return one

    one = asyncio.run(talk())
    assert finished(one) == [*((n, "interrupted") for n in (1, 2, 3, 4)), (8, "complete")]
    assert [m["code"] for m in one.of_type("error")] == ["speech_busy"]
    assert {s.utterance for s in one.media(AUDIO)} == {8}


def test_a_crash_of_the_model_costs_the_utterance(server: Running) -> None:
    async def talk() -> Peer:
        async with peer(server.url) as one:
            await one.sound(tone(5), utterance=1)
            await one.sound(tone(1), utterance=2)
            await one.until_type("playback.started")
            server.ask(lambda s: os.kill(s.worker.pid, signal.SIGKILL))
            await one.until_type("notice", kind="worker_back")
            await one.sound(tone(0.1), utterance=2)
            await one.sound(tone(0.2), utterance=3, last=True)
            await one.until_type("playback.finished", utterance=3)
            return one

    one = asyncio.run(talk())
    assert finished(one) == [(1, "worker_lost"), (2, "worker_lost"), (3, "complete")]
    assert [m["kind"] for m in one.of_type("notice")][:2] == ["worker_lost", "worker_back"]


def test_a_reader_that_stops_costs_little_and_disturbs_nobody(server: Running) -> None:
    """Pictures without compression, so that what the system hides is full at once."""

    def most_dropped(s: AvatarServer) -> int:
        return max(seat.session.stats.dropped for seat in s.house.seats.all)

    async def watch() -> tuple[Peer, Peer]:
        video = {"codec": "rgb24", "size": 512}
        async with peer(server.url, video=video) as stuck, peer(server.url) as other:
            await stuck.until_media(VIDEO)
            await stuck.stop_reading()
            start = len(other.media(VIDEO))
            # Until what the system holds is full, and some more.
            async with asyncio.timeout(PATIENCE_S):
                while server.ask(most_dropped) < 10:
                    await other.until_type("metrics", len(other.heard))
            outboxes = server.ask(lambda s: [seat.session.outbox for seat in s.house.seats.all])
            waiting = max(len([one for one in box._waiting if one.image is not None]) for box in outboxes)
            assert waiting <= 2
            undisturbed = other.media(VIDEO)[start:]
            due = (undisturbed[-1].pts_us - undisturbed[0].pts_us) // 40_000 + 1
            assert len(undisturbed) > 5 and due - len(undisturbed) <= due // 10
            newest = undisturbed[-1].pts_us
            stuck.go_on_reading()
            await stuck.until_media(VIDEO, lambda m: m.pts_us > newest)
            return stuck, other

    stuck, other = asyncio.run(watch())
    assert [v.sequence for v in stuck.media(VIDEO)] == list(range(len(stuck.media(VIDEO))))
    assert np.diff([v.pts_us for v in stuck.media(VIDEO)]).max() > 200_000


def test_many_clients_that_leave_in_every_way_leave_nothing(server: Running) -> None:
    async def come_and_go(number: int) -> None:
        async with peer(server.url) as one:
            if number % 4 == 0:
                return
            await one.until_type("welcome")
            await one.sound(tone(1), utterance=1)
            if number % 4 == 1:
                await one.until_media(AUDIO)
                await one.socket.close(1000)
            elif number % 4 == 2:
                await one.tell("interrupt")
                await one.tell("bye")
                await one.closed()
            else:
                await one.socket.close(1001)

    async def all_of_them() -> None:
        for start in range(0, 12, 3):
            await asyncio.gather(*(come_and_go(number) for number in range(start, start + 3)))
            await asyncio.sleep(0.1)

    def left(s: AvatarServer) -> tuple[int, int, bool]:
        names = [task.get_name() for task in asyncio.all_tasks()]
        return s.gate.taken, len(s.house.seats), any(name.startswith("avatar-") for name in names)

    asyncio.run(all_of_them())
    deadline = time.monotonic() + 20
    while server.ask(left) != (0, 0, False) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.ask(left) == (0, 0, False)


def test_a_session_that_has_ended_is_freed_at_once(server: Running) -> None:
    """Reference cycles once kept every session of the last minutes, 5 MB each."""

    async def visit() -> None:
        async with peer(server.url) as one:
            await one.until_media(VIDEO)

    def kept(s: AvatarServer) -> int:
        # `isinstance` would look through weak proxies, and some are of the dead.
        return sum(type(one) in (AvatarSession, Outbox) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        asyncio.run(visit())
        deadline = time.monotonic() + 20
        while server.ask(kept) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert server.ask(kept) == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("signals", [1, 2])
def test_the_command_says_when_it_is_ready_and_stops_as_asked(signals: int) -> None:
    command = [sys.executable, "-m", "apps.cli", "serve", "--model", "mock", "--port", "0", "--json", "--size", "128"]
    command += ["--sessions", "1", "--drain", "1" if signals == 1 else "30", "--speech", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=child_environment()) as process:
        assert process.stdout is not None and process.stderr is not None
        ready = json.loads(process.stdout.readline())

        async def talk() -> tuple[Peer, int | None]:
            async with peer(ready["websocket"]) as one:
                await one.until_media(VIDEO)
                for _ in range(signals):
                    process.send_signal(signal.SIGTERM)
                    await one.until_type("draining")
                return one, (await one.closed())[0]

        one, close = asyncio.run(talk())
        assert close == 1001
        assert process.wait(20) == 0
        assert process.stderr.read() == b""
    assert ready["sessions"] == 1 and ready["model"] == "mock"
