"""Strangers at the door of a real server: reliability tests 4, 9, 13, 17, 18, 19 of models-of-style.md, and paths.

Thresholds are those of the list, times what a busy machine needs where a comment says so.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import statistics
from collections.abc import Iterator
from time import monotonic, sleep

import pytest

pytest.importorskip("websockets", reason="the server extra is not installed")

from serving import VIDEO, Running, mock_config, peer, running
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from wire import Wire

from apps.server.access import AccessConfig
from apps.server.limits import Limits

TOKEN = "a-token-that-nobody-may-log"
PLACES = 3

REFUSAL_S = 1.5
"""0.2 s on a quiet machine; a hundred clients in one process take most of it."""

HEALTHY_S = 1.0
"""0.1 s on a quiet machine."""


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(mock_config(limits=Limits(sessions=PLACES, handshake_s=1.5), grace_s=0.3)) as one:
        yield one


def taken(server: Running) -> int:
    return int(server.ask(lambda s: s.gate.taken))


def wait_empty(server: Running, seconds: float = 8.0) -> None:
    until = monotonic() + seconds
    while taken(server):
        assert monotonic() < until, f"{taken(server)} places are still taken"
        sleep(0.05)


async def attempt(url: str, enough: asyncio.Event) -> tuple[int, float, str | None]:
    """Status, how long it took, and Retry-After. Whoever comes in stays until `enough`."""
    began = monotonic()
    try:
        async with connect(url, compression=None, proxy=None, open_timeout=20):
            took = monotonic() - began
            await enough.wait()
            return 101, took, None
    except InvalidStatus as refusal:
        return refusal.response.status_code, monotonic() - began, refusal.response.headers.get("Retry-After")


def test_4_a_hundred_at_once(server: Running) -> None:
    """One talks already; exactly the other places are given, the rest are refused at once, and it loses no frame."""

    async def race() -> tuple[list[tuple[int, float, str | None]], list[int]]:
        async with peer(server.url) as one:
            await one.until_media(VIDEO)
            enough = asyncio.Event()
            racing = [asyncio.create_task(attempt(server.url, enough)) for _ in range(100)]
            # Fewer than handshake_s, or those without hello would be sent away.
            refusals = asyncio.as_completed(racing)
            for _ in range(100 - (PLACES - 1)):
                await next(refusals)
            enough.set()
            results = await asyncio.gather(*racing)
            await one.until_media(VIDEO, after=len(one.heard))
            return results, [v.pts_us for v in one.media(VIDEO)]

    results, moments = asyncio.run(race())
    assert sum(status == 101 for status, _, _ in results) == PLACES - 1
    refused = [(took, retry) for status, took, retry in results if status == 503]
    assert len(refused) == 100 - (PLACES - 1) and all(int(retry or 0) > 0 for _, retry in refused)
    assert statistics.median(took for took, _ in refused) < REFUSAL_S
    assert [b - a for a, b in zip(moments, moments[1:], strict=False)] == [40_000] * (len(moments) - 1)
    wait_empty(server)


def test_9_slow_and_silent_handshakes(server: Running) -> None:
    """Sockets that say nothing, or a byte at a time, are dropped in time; nobody else waits for them."""
    began = monotonic()
    silent = [socket.create_connection(("127.0.0.1", server.server.port)) for _ in range(40)]
    slow = [socket.create_connection(("127.0.0.1", server.server.port)) for _ in range(40)]
    healthy, request = [], b"GET /v1/avatar HTTP/1.1\r\nHost: localhost\r\n"
    for number in range(10):
        for one in slow:
            one.sendall(request[number : number + 1])
        asked = monotonic()
        with Wire(server.url) as wire:
            assert wire.request() == 101
        healthy.append(monotonic() - asked)
        wait_empty(server)
    assert statistics.median(healthy) < HEALTHY_S
    for one in silent + slow:
        # 1.5 s is this server's limit; 10 s the usual one.
        one.settimeout(max(0.1, began + 1.5 + 8 - monotonic()))
        try:
            while one.recv(1000):
                pass
        except ConnectionError:
            pass
        one.close()
    assert taken(server) == 0


def test_17_the_token_is_asked_for_before_the_upgrade_and_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    encoded = base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("=")
    caplog.set_level(logging.DEBUG)
    with running(mock_config(access=AccessConfig(token=TOKEN), limits=Limits(sessions=1))) as server:

        def status(*lines: str, query: str = "") -> int:
            with Wire(server.url) as wire:
                return wire.request(*lines, path="/v1/avatar" + query)

        for wrong in ((), ("Authorization: Bearer wrong",), (f"Authorization: Bearer {TOKEN[:-1]}",)):
            assert status(*wrong) == 401
        assert status(query="?token=wrong") == 401
        assert taken(server) == 0
        assert status(f"Authorization: Bearer {TOKEN}") == 101
        wait_empty(server, 15)
        assert status(query=f"?token={TOKEN}") == 101
        wait_empty(server, 15)
        assert status(f"Sec-WebSocket-Protocol: visavis.v1, token.{encoded}") == 101
    assert "Authorization" in caplog.text, "requests were logged, so that this test tests something"
    # The client's own library logs in this process, too.
    ours = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("websockets"))
    assert TOKEN not in ours and encoded not in ours


@pytest.mark.parametrize(
    "lines, host, status",
    [((), "evil.example:8765", 403), ((), "0.0.0.0", 403), (("Origin: http://evil.example",), None, 403),
     (("Origin: null",), None, 403), (("Origin: http://localhost:3000",), None, 403), ((), None, 101)],
)  # fmt: skip
def test_18_other_hosts_and_origins_are_refused(
    server: Running, lines: tuple[str, ...], host: str | None, status: int
) -> None:
    with Wire(server.url) as wire:
        assert wire.request(*lines, host=host) == status
    wait_empty(server)


@pytest.mark.parametrize("path", ["/", "/v1/info", "/metrics", "/healthz"])
def test_18_pages_read_nothing_after_dns_rebinding(server: Running, path: str) -> None:
    with Wire(server.url) as wire:
        assert wire.request(path=path, host="evil.example") == 403


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/v1/portraits/../../../etc/passwd.jpg",
     "/v1/portraits/..%2f..%2fsecret.jpg", "/%00", "//etc/passwd", "/v1/portraits/.jpg"],
)  # fmt: skip
def test_20_no_path_leaves_its_folder(server: Running, path: str) -> None:
    with Wire(server.url) as wire:
        assert wire.request(path=path) == 404


LIMITED = Limits(sessions=4, caller_sessions=2, session_s=3.0, idle_s=1.5)


@pytest.fixture(scope="module")
def limited() -> Iterator[Running]:
    with running(mock_config(limits=LIMITED, grace_s=0.3)) as one:
        yield one


def test_19_one_address_has_so_many(limited: Running) -> None:
    with Wire(limited.url) as first, Wire(limited.url) as second, Wire(limited.url) as third:
        assert [first.request(), second.request(), third.request()] == [101, 101, 503]
    wait_empty(limited, 15)


@pytest.mark.parametrize("limit, code, seconds", [("idle_s", 4003, 1.5), ("session_s", 4004, 3.0)])
def test_19_sessions_end_in_time_and_are_told_why(limited: Running, limit: str, code: int, seconds: float) -> None:
    async def stay() -> tuple[float, tuple[int | None, str | None], list[dict[str, object]]]:
        async with peer(limited.url) as one:
            await one.until_type("welcome")
            began = monotonic()

            async def ask() -> None:
                while limit == "session_s":
                    await one.tell("state.set", state="auto")
                    await asyncio.sleep(0.3)

            asking = asyncio.create_task(ask())
            closed = await one.closed()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            return monotonic() - began, closed, one.of_type("error")

    took, (closed_with, reason), errors = asyncio.run(stay())
    assert closed_with == code and errors[-1]["fatal"] and errors[-1]["code"] == reason
    # Within 1 s on a quiet machine.
    assert seconds - 0.5 < took < seconds + 3
    wait_empty(limited)


def test_19_refusals_are_counted(limited: Running) -> None:
    text = limited.ask(lambda s: s.figures.text())
    assert 'visavis_refusals_total{code="engine_full"}' in text


def test_13_a_bomb_as_a_portrait_costs_nothing(server: Running) -> None:
    from test_picture_bombs import png_header

    from apps.conformance.line import PORTRAIT

    data = png_header(20_000, 20_000)

    async def send() -> tuple[float, dict[str, object], int | None]:
        async with peer(server.url, portrait={"upload_bytes": len(data)}) as one:
            await one.until_type("portrait.wanted")
            began = monotonic()
            await one.sound(data, last=True, kind=PORTRAIT)
            error = await one.until_type("error")
            return monotonic() - began, error, (await one.closed())[0]

    took, error, code = asyncio.run(send())
    assert error["code"] == "image_too_large" and code == 4006 and took < HEALTHY_S
    assert json.dumps(error)
    wait_empty(server)
