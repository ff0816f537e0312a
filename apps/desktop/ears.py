"""What the avatar hears: one source at a time, through the gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from apps.desktop.audio.caller import Puppet
from apps.desktop.audio.echo import usual_canceller
from apps.desktop.audio.gate import Gate, GateConfig, Player
from apps.desktop.audio.source import QUIET_DB, Packet, Source, Tell
from apps.desktop.notice import Notice
from engine.errors import AvatarError, ExtraMissingError, FileMissingError

MICROPHONE, LOOPBACK, FILE, SOCKET = "microphone", "loopback", "file", "socket"
FILE_OVER = "file_over"
"""A file source's last word."""

_TROUBLES = {
    "no_microphone": "none",
    "microphone_busy": "busy",
    "microphone_lost": "lost",
    "microphone_failed": "failed",
    "microphone_back": "",
}


@dataclass(frozen=True, slots=True)
class Hearing:
    """source: kind; name: of its device or file, empty for the usual device. mic_mode: open, push or muted."""

    source: str = MICROPHONE
    name: str = ""
    mic_mode: str = "open"
    headphones: bool = False

    @property
    def is_room(self) -> bool:
        """Whether it is a room that is heard, with its noise and with the avatar's own voice."""
        return self.source == MICROPHONE


OpenSource = Callable[[Hearing], Source]
"""May take a while. Raises AvatarError."""


class Opener:
    """The sources of this machine."""

    def __init__(self, puppet: Puppet, caption: Callable[[str], None]) -> None:
        """puppet, caption: whom chatbots speak through, and what gets their texts, see
        apps.desktop.audio.socket_source.
        """
        self._puppet, self._caption = puppet, caption

    def open(self, hearing: Hearing) -> Source:
        """Raises AvatarError."""
        if hearing.source == MICROPHONE:
            from apps.desktop.audio.microphone import Microphone

            return Microphone(hearing.name or None)
        if hearing.source == LOOPBACK:
            from apps.desktop.audio.loopback import Loopback

            return Loopback(hearing.name or None)
        if hearing.source == FILE:
            return _open_file(hearing.name)
        return self._open_socket()

    def _open_socket(self) -> Source:
        try:
            from apps.desktop.audio.socket_source import SocketSource
        except ModuleNotFoundError as error:
            raise ExtraMissingError(f"chatbots need {error.name}; pip install 'visavis[server]'") from error
        return SocketSource(self._puppet, self._caption)


def _open_file(name: str) -> Source:
    from apps.desktop.audio.file_source import FileSource

    if not name:
        raise FileMissingError("no sound file is chosen; the button beside the source opens one")
    return FileSource(Path(name))


class Ears:
    """`listen` and `close` take a while and belong to one thread; the rest returns at once, in any thread."""

    def __init__(
        self,
        hear: Callable[[Packet], None],
        finished: Callable[[], None],
        tell: Tell,
        player: Player | None,
        open_source: OpenSource,
    ) -> None:
        """hear, finished: get what passes the gate, and the end of what was being said. player: the avatar's sound."""
        self._hear, self._finished, self._tell = hear, finished, tell
        self._player, self._open_source = player, open_source
        self._lock = Lock()
        self._hearing = Hearing()
        self._gate: Gate | None = None
        self._source: Source | None = None
        self._trouble, self._over = "", False

    @property
    def level_db(self) -> float:
        gate = self._gate
        return QUIET_DB if gate is None else gate.level_db

    @property
    def state(self) -> str:
        """open, waiting, echo or muted (apps.desktop.audio.gate); off while nothing is heard at all."""
        gate = self._gate
        return "off" if gate is None or self._over else gate.state

    @property
    def device_state(self) -> str:
        """live; muted; opening; or why nothing is heard: none, busy, lost, failed."""
        if self._trouble:
            return self._trouble
        if self._hearing.mic_mode == "muted":
            return "muted"
        source = self._source
        return "live" if source is not None and getattr(source, "device", source) is not None else "opening"

    def listen(self, hearing: Hearing) -> None:
        """Another source in place of the one before. What cannot be opened is told."""
        self.close()
        self._trouble, self._over = "", False
        with self._lock:
            self._hearing = hearing
        canceller = usual_canceller() if hearing.is_room else None
        gate = Gate(self._hear, self._finished, _config(hearing), player=self._player, canceller=canceller)
        try:
            source = self._open_source(hearing)
            source.start(gate.take, self._passing(gate))
        except AvatarError as error:
            self._tell(Notice(error.code, sentence(error), "error"))
            return
        self._source, self._gate = source, gate
        self._adjust()

    def close(self) -> None:
        """Hear nothing more. Idempotent, within the 2 s that a source may take."""
        source, gate = self._source, self._gate
        self._source = self._gate = None
        if source is not None:
            source.stop()
        if gate is not None:
            gate.close()

    def set_mic_mode(self, mode: str) -> None:
        with self._lock:
            self._hearing = Hearing(self._hearing.source, self._hearing.name, mode, self._hearing.headphones)
        self._adjust()

    def set_headphones(self, worn: bool) -> None:
        with self._lock:
            self._hearing = Hearing(self._hearing.source, self._hearing.name, self._hearing.mic_mode, worn)
        self._adjust()

    def hold(self, pressed: bool) -> None:
        """The push-to-talk key."""
        gate = self._gate
        if gate is not None:
            gate.hold(pressed)

    def _passing(self, gate: Gate) -> Tell:
        def tell(notice: Notice) -> None:
            if notice.code == FILE_OVER:
                self._over = True
                gate.close()
            self._trouble = _TROUBLES.get(notice.code, self._trouble)
            self._tell(notice)

        return tell

    def _adjust(self) -> None:
        """The gate as it is wished now: a wish may have come while its source was being opened."""
        gate = self._gate
        if gate is not None:
            config = _config(self._hearing)
            gate.set_mode(config.mode)
            gate.set_headphones(config.headphones)


def _config(hearing: Hearing) -> GateConfig:
    """Only a room needs a key, a detector of voices, and a guard against echo."""
    if not hearing.is_room:
        return GateConfig("muted" if hearing.mic_mode == "muted" else "open", headphones=True, detect=False)
    if hearing.mic_mode == "push":
        return GateConfig("push", hearing.headphones)
    return GateConfig("muted" if hearing.mic_mode == "muted" else "open", hearing.headphones)


def sentence(error: AvatarError) -> str:
    """What an error says, as people write it."""
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
