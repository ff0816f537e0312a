"""A server that is told to stop (reliability test 24 of the list 4.3), as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
from time import monotonic

import pytest

pytest.importorskip("websockets", reason="the server extra is not installed")

from served import Served, serving
from serving import VIDEO, peer, tone

from apps.conformance.line import Line, RefusedError

SLACK_S = 6.0
"""Times of the list are 2 s and 35 s; a busy machine needs a while to end two processes."""


async def _talk_while_draining(server: Served) -> tuple[list[str], str, tuple[int | None, str | None]]:
    async with peer(server.url) as one:
        await one.until_media(VIDEO)
        await one.sound(tone(1.5), utterance=1, last=True)
        await one.until_type("playback.started")
        server.process.send_signal(signal.SIGTERM)
        notice = await one.until_type("draining")
        assert notice["seconds"] > 0
        refusal = "none"
        try:
            await Line.open(server.url)
        except RefusedError as error:
            refusal = f"{error.status} {error.code}"
        except OSError:
            refusal = "closed port"
        finished = await one.until_type("playback.finished")
        await one.tell("bye")
        closed = await one.closed()
        return [finished["reason"]], refusal, closed


def test_24_utterances_end_and_nobody_comes_in() -> None:
    with serving("--drain", "20") as server:
        status, body = server.get("readyz")
        assert status == 200 and json.loads(body)["ready"]
        reasons, refusal, closed = asyncio.run(_talk_while_draining(server))
        assert reasons == ["complete"] and closed[0] == 1000
        assert refusal == "503 draining"
        assert server.process.wait(35) == 0
        assert "Traceback" not in server.log()


def test_24_whoever_stays_is_closed_in_time() -> None:
    async def stay(server: Served) -> tuple[float, tuple[int | None, str | None], list[dict[str, object]]]:
        async with peer(server.url) as one:
            await one.until_media(VIDEO)
            for _ in range(10):
                await one.sound(tone(2), utterance=1)
            await one.until_type("playback.started")
            began = monotonic()
            server.process.send_signal(signal.SIGTERM)
            closed = await one.closed()
            return monotonic() - began, closed, one.of_type("playback.finished")

    with serving("--drain", "1") as server:
        took, closed, finished = asyncio.run(stay(server))
        assert closed[0] == 1001 and 0.5 < took < 1 + SLACK_S
        assert [(one["utterance"], one["reason"]) for one in finished] == [(1, "closed")]
        assert server.process.wait(20) == 0


def test_24_the_second_signal_stops_at_once() -> None:
    async def stay(server: Served) -> float:
        async with peer(server.url) as one:
            await one.until_media(VIDEO)
            server.process.send_signal(signal.SIGTERM)
            await one.until_type("draining")
            began = monotonic()
            server.process.send_signal(signal.SIGTERM)
            await one.closed()
            await asyncio.to_thread(server.process.wait, 20)
            return monotonic() - began

    with serving("--drain", "60") as server:
        assert asyncio.run(stay(server)) < 2 + SLACK_S
        assert server.process.returncode == 0
