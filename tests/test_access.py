"""Who comes in: by host name, by origin, by token; and that a token is never written down."""

from __future__ import annotations

import base64
import json
import logging

import pytest

from apps.server.access import Access, AccessConfig, TokenFilter, is_loopback, new_token
from apps.server.refusals import (
    ForbiddenHostError,
    ForbiddenOriginError,
    UnauthorizedError,
    body_of,
    headers_of,
    status_of,
)
from engine.errors import ArgumentError, EngineFullError

TOKEN = "correct-horse-battery/staple+1"
PATH = "/v1/avatar"


class Headers:
    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = pairs

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.pairs if key.lower() == name.lower()]


def headers(host: str = "localhost:8765", **others: str) -> Headers:
    return Headers(("Host", host), *((name.replace("_", "-"), value) for name, value in others.items()))


LOCAL = Access(AccessConfig())
OPEN = Access(AccessConfig("0.0.0.0", TOKEN))


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8765", "127.0.0.1:8765", "127.8.8.8", "[::1]:1", "a.localhost"]
)
def test_loopback_server_answers_to_names_of_the_loopback(host: str) -> None:
    assert LOCAL.check(headers(host), PATH, "127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(
    "host",
    ["evil.example:8765", "192.168.1.5", "0.0.0.0:8765", "localhost.evil.example", "evil@localhost", "localhost/x", "",
     "[::1", "2130706433", "[::]", "localhost:8765:1"],
)  # fmt: skip
def test_loopback_server_refuses_every_other_name(host: str) -> None:
    """DNS rebinding: the attacker's name means 127.0.0.1, and the page is of the same origin."""
    with pytest.raises(ForbiddenHostError) as refusal:
        LOCAL.check(headers(host, Origin=f"http://{host}"), PATH, "127.0.0.1")
    assert refusal.value.status == 403 and "evil" not in str(refusal.value)


def test_host_must_be_there_once() -> None:
    for pairs in ([], [("Host", "localhost"), ("Host", "localhost")]):
        with pytest.raises(ForbiddenHostError):
            LOCAL.check(Headers(*pairs), PATH, "127.0.0.1")


def test_further_names_are_answered_to_and_need_a_token() -> None:
    with pytest.raises(ArgumentError, match="needs a token"):
        Access(AccessConfig(hosts=("avatar.example",)))
    access = Access(AccessConfig(token=TOKEN, hosts=("Avatar.example",)))
    access.check(headers("avatar.example", Authorization=f"Bearer {TOKEN}"), PATH, "127.0.0.1")
    with pytest.raises(ForbiddenHostError):
        access.check(headers("other.example", Authorization=f"Bearer {TOKEN}"), PATH, "127.0.0.1")


def test_listed_names_are_the_only_ones_beyond_the_loopback() -> None:
    access = Access(AccessConfig("0.0.0.0", TOKEN, hosts=("avatar.example",)))
    for host in ("avatar.example:443", "192.168.1.5:8765"):
        access.check(headers(host), PATH, "10.0.0.9", needs_token=False)
    with pytest.raises(ForbiddenHostError):
        access.check(headers("evil.example"), PATH, "10.0.0.9", needs_token=False)


@pytest.mark.parametrize(
    "origin, host",
    [("http://localhost:8765", "localhost:8765"), ("http://localhost", "localhost:80"),
     ("https://127.0.0.1", "127.0.0.1"), ("http://[::1]:8765", "[::1]:8765"),
     ("HTTP://LOCALHOST:8765", "localhost:8765")],
)  # fmt: skip
def test_pages_of_the_server_itself_may_connect(origin: str, host: str) -> None:
    LOCAL.check(headers(host, Origin=origin), PATH, "127.0.0.1")


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://localhost:3000", "null", "", "http://localhost:8765.evil.example", "file://",
     "localhost:8765", "http://127.0.0.1:8765", "chrome-extension://localhost:8765"],
)  # fmt: skip
def test_pages_of_other_origins_may_not(origin: str) -> None:
    with pytest.raises(ForbiddenOriginError) as refusal:
        LOCAL.check(headers(Origin=origin), PATH, "127.0.0.1")
    assert refusal.value.status == 403


def test_programs_need_no_origin() -> None:
    """Node's WebSocket sends this header and no Origin."""
    LOCAL.check(headers(Sec_Fetch_Mode="websocket"), PATH, "127.0.0.1")


def test_listed_origins_may_connect() -> None:
    access = Access(AccessConfig(origins=("https://shop.example/",)))
    access.check(headers(Origin="https://Shop.example"), PATH, "127.0.0.1")
    with pytest.raises(ForbiddenOriginError):
        access.check(headers(Origin="http://shop.example"), PATH, "127.0.0.1")
    Access(AccessConfig(origins=("*",))).check(headers(Origin="null"), PATH, "127.0.0.1")


def encoded(token: str) -> str:
    return base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "target, others",
    [(PATH, {"Authorization": f"Bearer {TOKEN}"}),
     (PATH, {"Authorization": f"bearer  {TOKEN} "}),
     (PATH + "?token=correct-horse-battery%2Fstaple%2B1", {}),
     (PATH, {"Sec_WebSocket_Protocol": f"visavis.v1, token.{encoded(TOKEN)}"})],
)  # fmt: skip
def test_a_token_may_come_in_three_places(target: str, others: dict[str, str]) -> None:
    OPEN.check(headers("10.0.0.5:8765", **others), target, "10.0.0.9")


@pytest.mark.parametrize(
    "target, others",
    [(PATH, {}),
     (PATH, {"Authorization": f"Basic {TOKEN}"}),
     (PATH, {"Authorization": f"Bearer {TOKEN}x"}),
     (PATH, {"Authorization": "Bearer"}),
     (PATH + "?token=", {}),
     (PATH + f"?Token={TOKEN}", {}),
     (PATH, {"Sec_WebSocket_Protocol": f"visavis.v1, token.{TOKEN}"}),
     (PATH, {"Sec_WebSocket_Protocol": "token.\u00e9"})],
)  # fmt: skip
def test_without_the_token_nobody_comes_in(target: str, others: dict[str, str]) -> None:
    with pytest.raises(UnauthorizedError) as refusal:
        OPEN.check(headers("10.0.0.5", **others), target, "127.0.0.1")
    assert refusal.value.status == 401 and headers_of(refusal.value)["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in str(refusal.value)


def test_what_anyone_may_see_needs_no_token() -> None:
    OPEN.check(headers("10.0.0.5"), "/", "10.0.0.9", needs_token=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "avatar.example", "128.0.0.1"])
def test_no_server_beyond_the_loopback_without_a_token(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ArgumentError, match="--token"):
        Access(AccessConfig(host))


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "p\u00e4ssword-long-enough", "line\nbreak-long-enough"])
def test_weak_tokens_are_not_taken(token: str) -> None:
    with pytest.raises(ArgumentError, match="at least 16"):
        Access(AccessConfig(token=token))


def test_made_tokens_are_taken_and_differ() -> None:
    first, second = new_token(), new_token()
    assert first != second
    assert Access(AccessConfig("0.0.0.0", first)).config.token == first


@pytest.mark.parametrize(
    "peer, forwarded, address",
    [("8.8.8.8", "1.1.1.1", "8.8.8.8"),
     ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
     ("10.0.0.1", "6.6.6.6, 1.1.1.1", "1.1.1.1"),
     ("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
     ("10.0.0.1", "nonsense", "10.0.0.1"),
     ("10.0.0.1", "", "10.0.0.1")],
)  # fmt: skip
def test_forwarded_addresses_are_believed_of_trusted_proxies_only(peer: str, forwarded: str, address: str) -> None:
    access = Access(AccessConfig(trusted_proxies=("10.0.0.0/8",)))
    assert access.check(headers(X_Forwarded_For=forwarded), PATH, peer) == address
    assert LOCAL.check(headers(X_Forwarded_For=forwarded), PATH, peer) == peer


def test_trusted_proxies_must_be_addresses() -> None:
    with pytest.raises(ArgumentError, match="10.0.0.0/8"):
        Access(AccessConfig(trusted_proxies=("proxy.example",)))


def test_tokens_are_blotted_out_of_logs(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test.tokens")
    blot = TokenFilter(TOKEN)
    logger.addFilter(blot)
    with caplog.at_level(logging.DEBUG, "test.tokens"):
        logger.debug("< GET %s HTTP/1.1", PATH + "?token=correct-horse-battery%2Fstaple%2B1")
        logger.debug("< Authorization: Bearer " + TOKEN)
        logger.debug("< Sec-WebSocket-Protocol: token.%s", encoded(TOKEN))
        logger.debug("%d %% of nothing", 50)
    logger.removeFilter(blot)
    assert caplog.text.count("[token]") == 3 and "50 % of nothing" in caplog.text
    assert "staple" not in caplog.text and encoded(TOKEN) not in caplog.text


def test_refusals_tell_when_to_come_back() -> None:
    full = EngineFullError("all 4 places are taken")
    assert status_of(full) == 503 and int(headers_of(full)["Retry-After"]) > 0
    assert json.loads(body_of(full)) == {
        "error": {"code": "engine_full", "message": "all 4 places are taken", "retryable": True}
    }
    assert status_of(ForbiddenOriginError("no")) == 403 and "Retry-After" not in headers_of(ForbiddenOriginError("no"))
