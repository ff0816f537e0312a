"""Who may come in: decided from the headers of a request, before the upgrade and before any work.

Three checks, each against another kind of stranger:

- **Host**: a page on the web can make its own name mean 127.0.0.1 (DNS rebinding) and then reads what a server without
  a token answers; but its name stays in the Host header. A loopback server answers to names of the loopback only.
- **Origin**: WebSockets are exempt from the same-origin rule, so any page may connect to any server, with the user's
  cookies and from inside the user's network (RFC 6455, section 10.2). Only pages of this very server may.
- **Token**: whoever reaches a server that listens beyond the loopback must know its token.

Nothing of what a peer sends is put into an error or a log.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
import secrets
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Protocol
from urllib.parse import parse_qs, quote, quote_plus

from apps.server.refusals import ForbiddenHostError, ForbiddenOriginError, UnauthorizedError
from engine.errors import ArgumentError

TOKEN_SUBPROTOCOL = "token."
"""Browsers cannot set headers on a WebSocket; a second subprotocol, `token.` and base64url without padding, can."""

MIN_TOKEN_CHARS = 16
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_NO_TOKEN = "the server listens beyond this machine, so it needs a token; give --token, or --host 127.0.0.1"


class RequestHeaders(Protocol):
    """What is needed of a request's headers; `websockets.Headers` has it."""

    def get_all(self, name: str, /) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """host: the address that the server binds to. token: needed by whoever connects; None only on the loopback.
    hosts: further names that requests may call the server by; empty on a server with a token that listens beyond the
    loopback means any. origins: pages of other origins that may connect, as `https://example.com`; `*` for any.
    trusted_proxies: addresses or networks whose X-Forwarded-For is believed.
    """

    host: str = "127.0.0.1"
    token: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()


class Access:
    """The rules of one server."""

    def __init__(self, config: AccessConfig) -> None:
        """Raises ArgumentError for a configuration that would let strangers in."""
        self.config = config
        self.on_loopback = is_loopback(config.host)
        _check_token(config.token, needed=not self.on_loopback or bool(config.hosts))
        self._digest = None if config.token is None else _digest(config.token)
        self._hosts = frozenset(name.lower().strip("[]") for name in config.hosts)
        self._origins = frozenset(_plain_origin(origin) for origin in config.origins)
        self._proxies = [_network(proxy) for proxy in config.trusted_proxies]

    def check(self, headers: RequestHeaders, target: str, peer: str, needs_token: bool = True) -> str:
        """The address of whoever asks, by which limits count. target: path and query of the request. peer: the address
        at the other end of the connection. needs_token: False for what anyone may see, as the page's own files.

        Raises ForbiddenHostError, ForbiddenOriginError or UnauthorizedError.
        """
        authority = self._check_host(headers)
        self._check_origin(headers, authority)
        if needs_token:
            self._check_token(headers, target)
        return self.address(headers, peer)

    def address(self, headers: RequestHeaders, peer: str) -> str:
        """Where a request comes from: the peer; behind trusted proxies, the last address that is none of them."""
        hops = [hop.strip() for line in headers.get_all("X-Forwarded-For") for hop in line.split(",")]
        address = peer
        # Each proxy appends whom it heard, so all that stands before a stranger's address was written by strangers.
        while self._is_proxy(address) and hops:
            address = hops.pop()
        return address if _is_address(address) else peer

    def _check_host(self, headers: RequestHeaders) -> str:
        values = headers.get_all("Host")
        if len(values) != 1:
            raise ForbiddenHostError("a request must have one Host header")
        name = _host_name(values[0])
        if not name or not self._knows(name):
            raise ForbiddenHostError(
                "this server is not known by the host name that was asked for; open it as localhost or by its address, "
                "or start it with --allow-host NAME"
            )
        return values[0].strip().lower()

    def _knows(self, name: str) -> bool:
        if name in self._hosts or name == self.config.host.lower().strip("[]"):
            return True
        return is_loopback(name) if self.on_loopback else not self._hosts or _is_address(name)

    def _check_origin(self, headers: RequestHeaders, authority: str) -> None:
        values = headers.get_all("Origin")
        if not values:
            # No browser: those name the origin of every WebSocket.
            return
        if len(values) == 1 and (self._is_own(values[0], authority) or self._is_listed(values[0])):
            return
        raise ForbiddenOriginError(
            "pages of another origin may not connect; open the page from this server, or start it with "
            "--allow-origin ORIGIN"
        )

    def _is_own(self, origin: str, authority: str) -> bool:
        """Whether a page of that origin came from this server, as far as its name and port can tell."""
        scheme, _, rest = origin.lower().partition("://")
        port = {"http": "80", "https": "443"}.get(scheme)
        return port is not None and _with_port(rest, port) == _with_port(authority, port)

    def _is_listed(self, origin: str) -> bool:
        return "*" in self._origins or _plain_origin(origin) in self._origins

    def _check_token(self, headers: RequestHeaders, target: str) -> None:
        if self._digest is None:
            return
        # Every one is compared, whether or not an earlier one fits, so that the time tells nothing.
        fits = [hmac.compare_digest(_digest(token), self._digest) for token in offered_tokens(headers, target)]
        if not any(fits):
            raise UnauthorizedError(
                "the token is absent or wrong; send `Authorization: Bearer TOKEN`, or `?token=TOKEN`, or the "
                f"subprotocol `{TOKEN_SUBPROTOCOL}` and the token in base64url"
            )

    def _is_proxy(self, address: str) -> bool:
        return _is_address(address) and any(ip_address(address) in network for network in self._proxies)


def is_loopback(host: str) -> bool:
    """Whether a bind address or a host name reaches this machine only. An empty one means every interface."""
    name = host.lower().strip("[]").rstrip(".")
    # RFC 6761, section 6.3: names under localhost are the loopback.
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ip_address(name).is_loopback


def new_token() -> str:
    """A token that cannot be guessed: 192 bits."""
    return secrets.token_urlsafe(24)


def offered_tokens(headers: RequestHeaders, target: str) -> list[str]:
    """Every token that a request offers, in any of the three places."""
    found = []
    for value in headers.get_all("Authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            found.append(token.strip())
    found += parse_qs(target.partition("?")[2]).get("token", [])
    decoded = (_token_of(name) for name in offered_subprotocols(headers))
    found += [token for token in decoded if token is not None]
    return found


def offered_subprotocols(headers: RequestHeaders) -> list[str]:
    """The names in Sec-WebSocket-Protocol, in order."""
    return [name.strip() for line in headers.get_all("Sec-WebSocket-Protocol") for name in line.split(",")]


class TokenFilter(logging.Filter):
    """Blots the token out of log records, however it was sent: a WebSocket library that debugs prints whole requests.

    Filters see what is logged to their own logger or handler only, so put it on the logger that the library is given.
    """

    def __init__(self, token: str | None) -> None:
        super().__init__()
        self._forms = [] if token is None else sorted(_written_forms(token), key=len, reverse=True)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if any(form in text for form in self._forms):
            for form in self._forms:
                text = text.replace(form, "[token]")
            record.msg, record.args = text, ()
        return True


def _written_forms(token: str) -> set[str]:
    return {token, quote(token), quote(token, safe=""), quote_plus(token), _base64url(token), repr(token)[1:-1]}


def _base64url(token: str) -> str:
    return base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def _token_of(subprotocol: str) -> str | None:
    encoded = subprotocol.removeprefix(TOKEN_SUBPROTOCOL)
    if encoded == subprotocol:
        return None
    try:
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    except (binascii.Error, ValueError):
        return None


def _check_token(token: str | None, needed: bool) -> None:
    if token is None and needed:
        raise ArgumentError(_NO_TOKEN)
    if token is not None and (len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable()):
        raise ArgumentError(f"a token needs at least {MIN_TOKEN_CHARS} characters, all of them printable ASCII")


def _digest(token: str) -> bytes:
    """Of one length whatever the token's, since comparing strings of different lengths takes different times."""
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _host_name(authority: str) -> str:
    """The name in `name:port`, without brackets; empty when it is malformed."""
    found = _AUTHORITY.fullmatch(authority.strip().lower())
    return found[1].strip("[]") if found else ""


def _with_port(authority: str, usual: str) -> str:
    name, _, port = authority.rpartition(":")
    return authority if name and port.isdigit() else f"{authority}:{usual}"


def _plain_origin(origin: str) -> str:
    return origin.strip().lower().rstrip("/")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise ArgumentError(f"a trusted proxy must be an address or a network, as 10.0.0.0/8: {error}") from error
