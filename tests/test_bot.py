"""The example bot: it answers what is typed and said, falls silent when spoken to, and works with a language model."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

pytest.importorskip("websockets")
from serving import Running, mock_config, running, tone

from apps.client import connect
from apps.examples.bot import Bot, watch
from apps.examples.brains import BrainError, Echo, Model, sentences
from apps.examples.ears import BEGIN_WINDOWS, END_WINDOWS, WINDOW, Begun, Ear, Said, microphone
from engine.errors import ArgumentError

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(mock_config()) as served:
        yield served


class Tone:
    voices = ("default",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def say(self, text: str, voice: str) -> tuple[np.ndarray, int]:
        return tone(self.seconds), 16_000


def run(work: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await work

    return asyncio.run(bounded())


def loudness(window: np.ndarray) -> float:
    """In place of Silero, which knows a tone from a voice."""
    return float(np.abs(window).max() > 0.1)


def windows(loud: bool, count: int) -> list[np.ndarray]:
    return [np.full(WINDOW, 0.5 * loud, np.float32)] * count


def test_it_answers_what_is_typed_one_after_the_other(server: Running) -> None:
    async def talk() -> list[str]:
        said: list[str] = []
        answered = asyncio.Event()

        def tell(line: str) -> None:
            said.append(line)
            if line.startswith("bot"):
                answered.set()

        async def lines() -> AsyncIterator[str]:
            yield "hello"
            await answered.wait()
            yield "goodbye"

        async with connect(server.url, "anna", codec="none") as avatar:
            taking = asyncio.create_task(watch(avatar.frames(), None))
            await Bot(avatar, Echo(), Tone(2.0), tell).read(lines())
            await avatar.aclose()
            await taking
        return said

    said = run(talk())
    assert [line for line in said if not line.startswith("(")] == [
        "you: hello",
        "bot: You said hello.",
        "you: goodbye",
        "bot: You said goodbye.",
    ]


def test_speaking_interrupts_it(server: Running) -> None:
    async def talk() -> list[str]:
        said: list[str] = []

        async with connect(server.url, "anna", codec="none") as avatar:
            playing, cut = asyncio.Event(), asyncio.Event()

            def tell(line: str) -> None:
                said.append(line)
                if line.startswith("(interrupted"):
                    cut.set()

            async def take() -> None:
                async for frame in avatar.frames():
                    if frame.turn_samples:
                        playing.set()

            async def user() -> AsyncIterator[np.ndarray]:
                for window in windows(True, 8) + windows(False, END_WINDOWS + 1):
                    yield window
                await playing.wait()
                for window in windows(True, 8) + windows(False, END_WINDOWS + 1):
                    yield window

            taking = asyncio.create_task(take())
            bot = Bot(avatar, Echo(), Tone(3.0), tell)
            listening = asyncio.create_task(bot.listen(user(), Ear(loudness)))
            await cut.wait()
            await bot.fall_silent()
            listening.cancel()
            await avatar.aclose()
            await taking
        return said

    said = run(talk())
    cut = next(line for line in said if line.startswith("(interrupted"))
    assert said[:2] == ["you: something for 1 seconds", "bot: You said something for 1 seconds."]
    assert 0 < int(cut.split()[2]) < 3_000, "the first answer was heard in part"


def test_an_ear_needs_more_than_a_cough_and_gives_all_that_was_said() -> None:
    ear, heard = Ear(loudness), []
    sound = windows(False, 30) + windows(True, BEGIN_WINDOWS - 1) + windows(False, 30)
    assert [ear.hear(window) for window in sound] == [None] * len(sound)
    for number, window in enumerate(windows(True, 20) + windows(False, 5) + windows(True, 5) + windows(False, 40)):
        if (event := ear.hear(window)) is not None:
            heard.append((number, event))
    (begun, first), (over, last) = heard
    assert isinstance(first, Begun) and begun == BEGIN_WINDOWS - 1
    assert isinstance(last, Said) and over == 30 + END_WINDOWS - 1
    assert (np.abs(last.pcm) > 0.1).sum() == 25 * WINDOW, "sound of the beginning or the end is missing"
    assert ear.end() is None


def test_a_microphone_is_a_program_that_ends_with_it() -> None:
    async def listen() -> None:
        got = [window async for window in microphone("head -c 4096 /dev/zero")]
        assert len(got) == 4
        async for _ in microphone("cat /dev/zero"):
            break
        with pytest.raises(ArgumentError):
            await anext(microphone("no-such-program --raw"))

    run(listen())


def test_text_becomes_sentences_as_it_comes() -> None:
    async def pieces() -> AsyncIterator[str]:
        for piece in ("Hello", " there! It is 3.5 deg", "rees. Is", ' it? "Yes." 好。再见', "\nend"):
            yield piece

    async def collect() -> list[str]:
        return [sentence async for sentence in sentences(pieces())]

    expected = ["Hello there!", "It is 3.5 degrees.", "Is it?", '"Yes."', "好。", "再见", "end"]
    assert run(collect()) == expected


class Llm(BaseHTTPRequestHandler):
    """A language model that tells what it was told, word by word."""

    asked: list[tuple[str, dict[str, str], bytes]] = []
    hurried = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Llm.asked.append((self.path, dict(self.headers), body))
        if self.path.endswith("/transcriptions"):
            return self._reply(json.dumps({"text": " what I said "}).encode())
        wanted = json.loads(body)["messages"][-1]["content"]
        if wanted == "fail":
            return self.send_error(500)
        self.send_response(200)
        self.end_headers()
        words = [f"{wanted}. ", "And more. "] + (["and on "] * 1_000_000 if wanted == "endless" else [])
        try:
            for word in ["", *words]:
                event = {"choices": [{"delta": {"content": word}}]}
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.write(b": keep-alive\n\ndata: [DONE]\n\n")
        except OSError:
            Llm.hurried.set()

    def _reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def llm() -> Iterator[str]:
    Llm.asked.clear()
    Llm.hurried.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Llm)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def test_a_language_model_is_heard_sentence_by_sentence_and_remembers() -> None:
    async def talk(url: str) -> None:
        brain = Model(url, "small", key="secret")
        assert await brain.understand(np.zeros(1_600, np.float32)) == "what I said"
        assert [sentence async for sentence in brain.answer("one")] == ["one.", "And more."]
        assert [sentence async for sentence in brain.answer("two")] == ["two.", "And more."]
        with pytest.raises(BrainError, match="500"):
            [sentence async for sentence in brain.answer("fail")]

    with llm() as url:
        run(talk(url))
        (_, _, form), *chats = Llm.asked
    assert b"RIFF" in form and b"whisper-1" in form
    path, headers, body = chats[1]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    roles = [message["role"] for message in json.loads(body)["messages"]]
    assert roles == ["system", "user", "assistant", "user"]


def test_an_answer_that_is_cut_stops_the_model() -> None:
    async def talk(url: str) -> None:
        brain = Model(url, "small")
        answer = brain.answer("endless")
        assert await anext(answer) == "endless."
        await answer.aclose()
        assert brain.history[-1] == {"role": "assistant", "content": "endless."}
        assert await asyncio.to_thread(Llm.hurried.wait, PATIENCE_S), "the answer is still being read"

    with llm() as url:
        run(talk(url))


def test_no_language_model_is_an_error_that_says_where() -> None:
    async def talk() -> None:
        with pytest.raises(BrainError, match="127.0.0.1:9"):
            [sentence async for sentence in Model("http://127.0.0.1:9/v1", "small").answer("hello")]

    run(talk())
    with pytest.raises(ArgumentError, match="address"):
        Model("localhost:11434", "small")
