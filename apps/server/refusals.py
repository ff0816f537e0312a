"""What a request is told before the upgrade, when it does not come in: HTTP status, headers and body.

    ServerError
    └── ForbiddenError
        ├── ForbiddenHostError     forbidden_host     403
        ├── ForbiddenOriginError   forbidden_origin   403
        └── UnauthorizedError      unauthorized       401

The other refusals are those of apps.server.errors and engine.errors, which may come later as well. Texts name limits
and options, never what the peer sent, so they may be logged and shown.
"""

from __future__ import annotations

import json

from apps.server.errors import CLOSE_POLICY, CLOSE_TRY_LATER, ServerError, close_code_of
from engine.errors import AvatarError

RETRY_AFTER_S = 5
"""Sessions end when people leave, which nobody can foretell: soon enough to feel prompt, seldom enough to be cheap."""


class ForbiddenError(ServerError):
    """Whoever asks may not come in."""

    code = "forbidden"
    close_code = CLOSE_POLICY
    status = 403


class ForbiddenHostError(ForbiddenError):
    """The request names a host that this server is not known by, as after DNS rebinding."""

    code = "forbidden_host"


class ForbiddenOriginError(ForbiddenError):
    """A page of another origin asks."""

    code = "forbidden_origin"


class UnauthorizedError(ForbiddenError):
    """The token is absent or wrong."""

    code = "unauthorized"
    status = 401


def status_of(error: AvatarError) -> int:
    """503 for what may succeed later."""
    if isinstance(error, ForbiddenError):
        return error.status
    return 503 if close_code_of(error) == CLOSE_TRY_LATER else 400


def headers_of(error: AvatarError) -> dict[str, str]:
    """Of the answer, beside those of every answer."""
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    status = status_of(error)
    if status == 503:
        # Whole seconds (RFC 9110, section 10.2.3).
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def body_of(error: AvatarError) -> bytes:
    """As docs/protocol.md has it."""
    return json.dumps({"error": {"code": error.code, "message": str(error), "retryable": error.retryable}}).encode()
