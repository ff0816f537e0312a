"""What goes wrong between a server and its clients, with the close code that follows.

    AvatarError
    └── ServerError
        ├── ProtocolError
        │   ├── BadMessageError          bad_message          1007
        │   ├── BadHeaderError           bad_header           1002
        │   ├── BadFieldError            bad_field
        │   ├── HelloExpectedError       hello_expected       1002
        │   ├── HelloTimeoutError        hello_timeout        4001
        │   ├── UnsupportedVersionError  unsupported_version  1002
        │   ├── UtteranceOrderError      utterance_order
        │   └── UploadMismatchError      upload_mismatch      4006
        ├── UnsupportedCodecError        unsupported_codec    1002
        ├── UnknownPortraitError         unknown_portrait     4006
        ├── SpeechUnavailableError       speech_unavailable
        ├── SpeechBusyError              speech_busy          (retryable)
        ├── SpeechFailedError            speech_failed        (retryable)
        └── SessionEndedError
            ├── NotReadyError            not_ready            1013  (retryable)
            ├── DrainingError            draining             1013  (retryable)
            ├── SessionGoneError         session_gone         4005
            ├── ReplacedError            replaced             4000
            ├── SlowReaderError          slow_reader          4002
            ├── IdleTimeoutError         idle_timeout         4003
            ├── SessionTooLongError      session_too_long     4004
            ├── TooFastError             too_fast             1008
            └── InternalError            internal             1011

`close_code` None: the session goes on, and the message that was wrong had no effect.
"""

from __future__ import annotations

from typing import ClassVar

from engine.errors import AvatarError, EngineFullError, PortraitError, WorkerBrokenError, WorkerLostError

CLOSE_NORMAL, CLOSE_GOING_AWAY, CLOSE_PROTOCOL, CLOSE_POLICY, CLOSE_INTERNAL, CLOSE_TRY_LATER = (
    1000,
    1001,
    1002,
    1008,
    1011,
    1013,
)
CLOSE_PORTRAIT = 4006


class ServerError(AvatarError):
    """Root of what a server tells its clients. request_id: of the message that is answered."""

    code = "server_error"
    close_code: ClassVar[int | None] = None

    def __init__(self, message: str, request_id: str | int | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class ProtocolError(ServerError):
    """The client's messages are not as docs/protocol.md has them."""

    code = "protocol_error"


class BadMessageError(ProtocolError):
    """Text that is no JSON object with a type."""

    code = "bad_message"
    close_code = 1007


class BadHeaderError(ProtocolError):
    """A binary message that is shorter than its header."""

    code = "bad_header"
    close_code = CLOSE_PROTOCOL


class BadFieldError(ProtocolError):
    """A field is missing, of the wrong type, out of range, or too long."""

    code = "bad_field"


class HelloExpectedError(ProtocolError):
    """The first message, and only that, must be hello."""

    code = "hello_expected"
    close_code = CLOSE_PROTOCOL


class HelloTimeoutError(ProtocolError):
    """Nothing, or not all of an upload, came in time."""

    code = "hello_timeout"
    close_code = 4001


class UnsupportedVersionError(ProtocolError):
    """The client speaks another version."""

    code = "unsupported_version"
    close_code = CLOSE_PROTOCOL


class UtteranceOrderError(ProtocolError):
    """The number of a new utterance is not higher than all before."""

    code = "utterance_order"


class UploadMismatchError(ProtocolError):
    """The parts of an upload do not make the file that was announced."""

    code = "upload_mismatch"
    close_code = CLOSE_PORTRAIT


class UnsupportedCodecError(ServerError):
    """This server cannot encode it."""

    code = "unsupported_codec"
    close_code = CLOSE_PROTOCOL


class UnknownPortraitError(ServerError):
    """The library has no such picture."""

    code = "unknown_portrait"
    close_code = CLOSE_PORTRAIT


class SpeechUnavailableError(ServerError):
    """This server has no speech command."""

    code = "speech_unavailable"


class SpeechBusyError(ServerError):
    """As many texts wait as may."""

    code = "speech_busy"
    retryable = True


class SpeechFailedError(ServerError):
    """The speech command failed."""

    code = "speech_failed"
    retryable = True


class SessionEndedError(ServerError):
    """The server ends the session, or does not begin it."""

    code = "session_ended"
    close_code = CLOSE_INTERNAL


class NotReadyError(SessionEndedError):
    """The model is not warm, or is being started again."""

    code = "not_ready"
    close_code = CLOSE_TRY_LATER
    retryable = True


class DrainingError(SessionEndedError):
    """The server is about to stop."""

    code = "draining"
    close_code = CLOSE_TRY_LATER
    retryable = True


class SessionGoneError(SessionEndedError):
    """There is nothing to resume."""

    code = "session_gone"
    close_code = 4005


class ReplacedError(SessionEndedError):
    """The session was resumed on another connection."""

    code = "replaced"
    close_code = 4000


class SlowReaderError(SessionEndedError):
    """The client takes nothing."""

    code = "slow_reader"
    close_code = 4002


class IdleTimeoutError(SessionEndedError):
    """The client asked for nothing in a long time."""

    code = "idle_timeout"
    close_code = 4003


class SessionTooLongError(SessionEndedError):
    """The session lasted as long as one may."""

    code = "session_too_long"
    close_code = 4004


class TooFastError(SessionEndedError):
    """More controls or bytes a second than allowed."""

    code = "too_fast"
    close_code = CLOSE_POLICY
    retryable = True


class InternalError(SessionEndedError):
    """A fault of the server."""

    code = "internal"
    retryable = True


def close_code_of(error: AvatarError) -> int | None:
    """The close that follows an error before `welcome`, or one that ends the session; None when the session goes on."""
    if isinstance(error, ServerError):
        return error.close_code
    if isinstance(error, PortraitError):
        return CLOSE_PORTRAIT
    if isinstance(error, EngineFullError | WorkerLostError):
        return CLOSE_TRY_LATER
    return CLOSE_INTERNAL if isinstance(error, WorkerBrokenError) else None
