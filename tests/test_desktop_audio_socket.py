"""Chatbots that speak through the window, by the client of `visavis serve`."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_sound import soon

pytest.importorskip("websockets", reason="the extra `server` is not installed")

from websockets.asyncio.client import connect as dial  # noqa: E402
from websockets.exceptions import InvalidStatus  # noqa: E402

from apps.client.avatar import connect  # noqa: E402
from apps.desktop.audio.captions import MOST_CHARS, captions
from apps.desktop.audio.socket_source import SocketSource  # noqa: E402
from apps.desktop.audio.source import Packet  # noqa: E402
from apps.desktop.notice import Notice  # noqa: E402
from engine.errors import ArgumentError, AvatarError, EngineFullError  # noqa: E402
from engine.events import EventKind, SessionEvent  # noqa: E402

TOKEN = "a-token-of-the-test"


class Window:
    """A stage that writes down what is asked of it, and a source that speaks for it."""

    def __init__(self, **settings: Any) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.packets: list[Packet] = []
        self.notices: list[Notice] = []
        self.captions: list[tuple[str, float]] = []
        self.source = SocketSource(
            self,
            lambda text: self.captions.append((text, self.seconds)),
            0,
            **({"open_speaker": lambda: None} | settings),
        )
        self.source.start(self.packets.append, self.notices.append)
        soon(lambda: self.notices)
        assert self.notices[0].code == "socket_ready", self.notices

    @property
    def seconds(self) -> float:
        return sum(len(packet.samples) for packet in self.packets) / 16_000

    def end_of_speech(self) -> None:
        self.asked.append(("end",))

    def interrupt(self) -> None:
        self.asked.append(("interrupt",))

    def set_state(self, state: str | None) -> None:
        self.asked.append(("state", state))

    def set_expression(self, name: str | None, strength: float = 1.0) -> None:
        self.asked.append(("expression", name, strength, round(self.seconds, 2)))

    def set_pose(self, angles: Any) -> None:
        self.asked.append(("pose", angles))


@pytest.fixture
def window() -> Iterator[Window]:
    window = Window()
    yield window
    window.source.stop()


def voice(seconds: float, rate_hz: int = 24_000) -> np.ndarray[Any, np.dtype[np.int16]]:
    return (8_000 * np.sin(np.arange(round(seconds * rate_hz)) * 0.05)).astype(np.int16)


def test_client_speaks_at_the_pace_of_life_and_learns_when_it_was_heard(window: Window) -> None:
    events: list[SessionEvent] = []

    async def talk() -> float:
        async with connect(window.source.url, on_event=events.append) as avatar:
            assert avatar.welcome["video"] is None and avatar.welcome["ai_generated"]
            began_s = time.monotonic()
            turn_id = avatar.push_audio(voice(0.8), 24_000)
            avatar.set_expression("happy", 0.5, at_ms=400)
            avatar.set_state("listening")
            avatar.flush()
            assert (await avatar.finished(turn_id)).complete
            return time.monotonic() - began_s

    took_s = asyncio.run(talk())
    assert took_s > 0.7
    assert window.seconds == pytest.approx(0.8, abs=0.005)
    assert ("state", "listening") in window.asked and ("end",) in window.asked
    (expression,) = [asked for asked in window.asked if asked[0] == "expression"]
    assert expression[:3] == ("expression", "happy", 0.5) and expression[3] == pytest.approx(0.4, abs=0.05)
    assert [event.kind for event in events] == [EventKind.TURN_STARTED, EventKind.TURN_FINISHED]


class Reader:
    """Says every text with the same voice, 15 characters a second."""

    voices = ("reader",)

    def say(self, text: str, voice: str) -> tuple[np.ndarray[Any, np.dtype[np.int16]], int]:
        return globals()["voice"](len(text) / 15), 24_000


def test_texts_are_spoken_and_their_captions_come_with_the_sound() -> None:
    window = Window(open_speaker=Reader)

    async def talk() -> None:
        async with connect(window.source.url) as avatar:
            assert avatar.welcome["speech"] == {"voices": ["reader"]}
            turn = await avatar.speak("Good morning. How are you?")
            assert (await avatar.finished(turn)).complete
            assert [text for text, _ in window.captions] == ["Good morning.", "How are you?"]
            # 14 of 26 characters, with a frame and what is on its way.
            assert window.captions[1][1] == pytest.approx(14 / 15, abs=0.2)
            cut = await avatar.speak("This sentence is long enough to be interrupted in the middle of itself. Never.")
            await asyncio.sleep(0.6)
            await avatar.interrupt()
            assert not (await avatar.finished(cut)).complete
            await asyncio.sleep(0.1)

    try:
        asyncio.run(talk())
    finally:
        window.source.stop()
    assert [text for text, _ in window.captions][2:] == [
        "This sentence is long enough to be interrupted in the middle of itself.",
        "",
    ]


@pytest.mark.parametrize("text", ["", "One.", "a" * 300, "word " * 60 + "end. Next!", "東京は夜。 そうですね。"])
def test_captions_keep_every_word_and_their_length(text: str) -> None:
    pieces = captions(text)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece) <= MOST_CHARS for piece in pieces)


def test_interrupt_cuts_what_waits_and_tells_what_was_heard(window: Window) -> None:
    async def talk() -> tuple[float, int]:
        async with connect(window.source.url) as avatar:
            turn_id = avatar.push_audio(voice(20), 24_000)
            await asyncio.sleep(0.4)
            cut = await avatar.interrupt()
            heard_s = window.seconds
            assert not (await avatar.finished(turn_id)).complete
            await asyncio.sleep(0.15)
            assert window.seconds == heard_s, "sound that was cut is still spoken"
            return heard_s, cut.turn_samples

    heard_s, samples = asyncio.run(talk())
    assert samples / 16_000 == pytest.approx(heard_s, abs=0.05) and 0.1 < heard_s < 2
    assert ("interrupt",) in window.asked


def test_one_caller_at_a_time_and_the_next_when_it_has_left(window: Window) -> None:
    async def talk() -> None:
        async with connect(window.source.url):
            with pytest.raises(EngineFullError):
                async with connect(window.source.url):
                    pass
        async with connect(window.source.url) as avatar:
            avatar.push_audio(voice(0.1), 24_000)
            avatar.flush()
            await asyncio.sleep(0.2)

    asyncio.run(talk())
    assert window.packets


def test_pages_of_other_origins_and_other_names_stay_out(window: Window) -> None:
    async def knock(**headers: str) -> int:
        try:
            async with dial(f"{window.source.url}/v1/avatar", additional_headers=headers, proxy=None):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    assert asyncio.run(knock(Origin="https://evil.example")) == 403
    assert asyncio.run(knock(Host="evil.example")) in (400, 403)


def test_token_is_needed_where_one_is_set() -> None:
    window = Window(token=TOKEN)

    async def talk(token: str | None) -> None:
        async with connect(window.source.url, token=token):
            pass

    asyncio.run(talk(TOKEN))
    with pytest.raises(AvatarError, match="token"):
        asyncio.run(talk("another-token-altogether"))
    window.source.stop()
    with pytest.raises(ArgumentError, match="token"):
        SocketSource(window, print, 0, host="0.0.0.0")


def test_stopping_ends_the_call_in_time(window: Window) -> None:
    async def talk() -> float:
        async with connect(window.source.url, resume=False) as avatar:
            avatar.push_audio(voice(20), 24_000)
            await asyncio.sleep(0.1)
            began_s = time.monotonic()
            await asyncio.to_thread(window.source.stop)
            return time.monotonic() - began_s

    assert asyncio.run(talk()) < 2.5
    count = len(window.packets)
    time.sleep(0.1)
    assert len(window.packets) == count


def test_port_in_use_is_a_notice_with_a_way_on(window: Window) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        notices: list[Notice] = []
        source = SocketSource(window, print, taken.getsockname()[1])
        source.start(window.packets.append, notices.append)
        soon(lambda: notices)
        source.stop()
    assert notices[0].code == "port_in_use" and "another port" in notices[0].text
