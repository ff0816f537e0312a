"""The desktop app without its window: stage, ears, portraits and settings, and what a user may ask of them.

Every method returns at once. What takes a while is done in threads, whose results the listener is told: it is called
from any of them, and must not block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from apps.desktop.audio.devices import DeviceWatch, list_inputs, list_outputs
from apps.desktop.ears import FILE, Ears, Hearing, Opener, OpenSource, sentence
from apps.desktop.errands import Errands
from apps.desktop.examination import Examination
from apps.desktop.firstrun import Asked, MachineCheck, Progress, Verdict
from apps.desktop.hotkey import Hotkey
from apps.desktop.keeper import SettingsKeeper
from apps.desktop.library import Card, PortraitLibrary
from apps.desktop.logs import export
from apps.desktop.notice import Notice
from apps.desktop.settings import Settings
from apps.desktop.stage.contract import Listener, StageConfig
from apps.desktop.stage.stage import Stage
from engine.errors import AvatarError, OutputNotWritableError, PortraitError
from engine.pipeline.opening import MOCK

_CLOSE_S = 0.3
"""Kept of the time for closing, for what is done after the stage has closed."""


@dataclass(frozen=True, slots=True)
class Devices:
    """Names, the system's own choice not among them."""

    microphones: tuple[str, ...] = ()
    loopbacks: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Examined:
    """A picture somebody offers. seen: None when it cannot be used, for the reason in `refusal`."""

    path: Path
    seen: Examination | None
    refusal: str = ""


class DeskListener(Listener, Protocol):
    """Called from any thread; must return at once."""

    def on_devices(self, devices: Devices) -> None: ...

    def on_cards(self, cards: tuple[Card, ...]) -> None: ...

    def on_examined(self, examined: Examined) -> None: ...

    def on_progress(self, progress: Progress) -> None: ...

    def on_verdict(self, verdict: Verdict) -> None: ...

    def on_talk(self, pressed: bool) -> None:
        """The key that talks from anywhere."""
        ...

    def on_caption(self, text: str) -> None:
        """What a chatbot's text says at this moment; empty when it was cut off."""
        ...


@dataclass(frozen=True, slots=True)
class Means:
    """What the desk works with; tests have their own. devices: looks what there is, and may take a while."""

    stage: Callable[[StageConfig, Listener], Stage] = Stage
    open_source: OpenSource | None = None
    devices: Callable[[], Devices] = Devices
    watch_devices: bool = True
    check: bool = True


def plugged_in() -> Devices:
    """Raises SoundLibraryMissingError."""
    inputs = list_inputs()
    return Devices(
        tuple(device.name for device in inputs if not device.is_loopback),
        tuple(device.name for device in inputs if device.is_loopback),
        tuple(device.name for device in list_outputs()),
    )


USUAL = Means(devices=plugged_in)


class Desk:
    """`start` once, `close` once. The settings are both what is wished and what is remembered."""

    def __init__(
        self,
        keeper: SettingsKeeper,
        library: PortraitLibrary,
        listener: DeskListener,
        means: Means = USUAL,
        computing: Mapping[str, Any] | None = None,
        token: str | None = None,
    ) -> None:
        """computing: model, backend, threads, size_px or server until others are chosen; not remembered. token: what a
        server asks for, see Settings.server. Raises FileMissingError when there is no portrait.
        """
        self.library, self._keeper, self._listener, self._means, self._token = library, keeper, listener, means, token
        self._computing = dict(computing or {})
        self.stage = means.stage(self._stage_config(), listener)
        open_source = means.open_source or Opener(self.stage, listener.on_caption).open
        self.ears = Ears(self.stage.hear, self.stage.end_of_speech, listener.on_notice, self.stage, open_source)
        self._sound, self._pictures = Errands("visavis-sound"), Errands("visavis-portraits")
        self._watch = DeviceWatch(lambda _came, _went: self.look_for_devices()) if means.watch_devices else None
        self._check: MachineCheck | None = None
        self._hotkey: Hotkey | None = None
        self._keys = Errands("visavis-keys")
        self._lock, self._begun = Lock(), False
        self.camera_on = False
        self.transparent_on = False

    @property
    def computing(self) -> Settings:
        """The settings with what holds for this run only."""
        return replace(self.settings, **self._computing)

    @property
    def settings(self) -> Settings:
        return self._keeper.settings

    def remember(self, **values: Any) -> Settings:
        """Settings by name, which need nothing else done. Raises ArgumentError."""
        return self._keeper.change(**values)

    def start(self) -> None:
        """Everything but the model; that is opened as soon as the machine check says by which backend."""
        if self.settings.hear_aloud:
            self.hear_aloud(True)
        self.stage.set_mode(self.settings.mode)
        if self.settings.source != FILE:
            self.listen()
        self.look_for_devices()
        self.look_for_people()
        if self._watch is not None:
            self._watch.start()
        if self.settings.hotkey:
            self._hold_key(self.settings.hotkey)
        self._compute()

    def on_stage(self) -> None:
        """Somebody is there for the first time. A file waits for that, so that its first words are not lost."""
        if self.settings.source == FILE:
            self.listen()

    def _compute(self) -> None:
        """Here, as the machine check says; there is nothing to check of a server, or of no model at all."""
        computing = self.computing
        if self._means.check and not computing.server and MOCK not in (computing.model, computing.backend):
            self.check()
        else:
            self.on_backend(computing.backend)

    def check(self, again: bool = False) -> None:
        """Look what this machine can do. again: whatever is remembered."""
        if self._check is not None:
            self._check.cancel()
        computing = self.computing
        asked = Asked(computing.model, computing.backend, computing.threads)
        self._check = MachineCheck(asked, self, again=again)
        self._check.start()

    def skip_check(self) -> None:
        if self._check is not None:
            self._check.cancel()

    # What the machine check tells, in its thread.

    def on_backend(self, backend: str) -> None:
        config = replace(self._stage_config(), backend=backend)
        with self._lock:
            begun, self._begun = self._begun, True
        if begun:
            self.stage.use(config)
        else:
            self.stage.config = config
            self.stage.start()

    def on_progress(self, progress: Progress) -> None:
        self._listener.on_progress(progress)

    def on_verdict(self, verdict: Verdict) -> None:
        self._listener.on_verdict(verdict)

    def on_notice(self, notice: Notice) -> None:
        self._listener.on_notice(notice)

    def close(self, timeout_s: float = 1.5) -> bool:
        """End everything; idempotent. False when something still runs, which the program's end then ends."""
        end_s = time.monotonic() + timeout_s
        if self._watch is not None:
            self._watch.stop()
        self.skip_check()
        self._pictures.close()
        self._keys.close()
        if self._hotkey is not None:
            self._hotkey.close(0.0)
        self._sound.close(last=self.ears.close)
        in_time = self.stage.close(max(0.0, timeout_s - _CLOSE_S))
        # A thread that is inside OpenCV or a driver when the interpreter ends takes the process down with it.
        for errands in (self._sound, self._pictures, self._keys):
            in_time &= errands.join(max(0.0, end_s - time.monotonic()))
        return self._keeper.close(max(0.1, end_s - time.monotonic())) and in_time

    # What is heard.

    def listen(self, **values: Any) -> None:
        """Open the source of the settings, changed by those that are given: source, microphone, loopback, file."""
        settings = self._keeper.change(**values)
        name = {"microphone": settings.microphone, "loopback": settings.loopback, "file": settings.file}
        hearing = Hearing(settings.source, name.get(settings.source, ""), settings.mic_mode, settings.headphones)
        self.stage.live(settings.source != "socket")
        self._sound.do("listen", lambda: self.ears.listen(hearing))

    def set_mode(self, mode: str) -> None:
        """speak: the voice is the avatar's own. listen: the avatar listens to it."""
        self.stage.set_mode(self._keeper.change(mode=mode).mode)

    def set_mic_mode(self, mode: str) -> None:
        """open, push or muted."""
        self.ears.set_mic_mode(self._keeper.change(mic_mode=mode).mic_mode)

    def set_hotkey(self, text: str) -> None:
        """What talks from anywhere, as "Ctrl+Alt+Space"; empty for nothing. Raises ArgumentError."""
        made = Hotkey(text, self._listener.on_talk, self._listener.on_notice) if text else None
        self._keeper.change(hotkey=text)
        before, self._hotkey = self._hotkey, made
        # The same key cannot be held twice, and giving it back may take a moment.
        self._keys.do("hotkey", lambda: _exchange(before, made))

    def set_headphones(self, worn: bool) -> None:
        self.ears.set_headphones(self._keeper.change(headphones=worn).headphones)

    def hear_aloud(self, on: bool, speaker: str | None = None) -> None:
        """Play the avatar's sound. speaker: another device from now on, empty for the system's own choice."""
        settings = self._keeper.change(hear_aloud=on, speaker=self.settings.speaker if speaker is None else speaker)
        self.stage.hear_aloud(on, settings.speaker or None)

    def _hold_key(self, text: str) -> None:
        try:
            self.set_hotkey(text)
        except AvatarError as error:
            self._tell(error)

    def look_for_devices(self) -> None:
        self._sound.do("devices", self._look_for_devices)

    # Who is seen.

    def show(self, card: Card) -> None:
        self._keeper.change(portrait=card.name)
        self.stage.show(card.path)

    def examine(self, path: Path) -> None:
        """What a picture would look like; the listener is told."""
        self._pictures.do("examine", lambda: self._examine(path))

    def add(self, path: Path) -> None:
        """Take a picture in and show that person."""
        self._pictures.do("add", lambda: self._add(path))

    def remove(self, name: str) -> None:
        self._pictures.do(f"remove {name}", lambda: self._remove(name))

    def look_for_people(self) -> None:
        self._pictures.do("cards", self._look_for_people)

    def transparent(self, on: bool) -> None:
        """Cut the person out of the background."""
        if on != self.transparent_on:
            self.transparent_on = on
            self.stage.transparent(on)

    def use(self, **values: Any) -> None:
        """Another model, backend, size_px, threads or server. Raises ArgumentError."""
        self._keeper.change(**values)
        self._computing = {}
        self._compute()

    # What goes out.

    def camera(self, on: bool) -> None:
        self.camera_on = on
        self.stage.camera(on)

    def toggle_recording(self) -> None:
        if self.stage.recording:
            self.stage.stop_recording()
        else:
            self._write(self.stage.record, ".mp4")

    def screenshot(self) -> None:
        self._write(self.stage.screenshot, ".png")

    def export_log(self) -> None:
        """A zip for a bug report, among the recordings."""
        self._write(lambda path: self._pictures.do("log", lambda: self._export_log(path)), ".zip")

    # Errands.

    def _stage_config(self) -> StageConfig:
        settings = self.computing
        try:
            portrait = self.library.path(settings.portrait)
        except AvatarError:
            # Somebody has removed that picture; anybody is better than nobody.
            portrait = self.library.path("")
        return StageConfig(
            portrait, settings.model, settings.backend, settings.size_px, settings.threads,
            server=settings.server or None, token=self._token,
        )  # fmt: skip

    def _write(self, write: Callable[[Path], None], ending: str) -> None:
        """To a new file of the recordings folder, which is made when it is first needed."""
        folder = self.settings.recordings_path
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"The folder {folder} cannot be made ({error.strerror}). Choose another one in the settings."
            self._listener.on_notice(Notice(OutputNotWritableError.code, text, "error"))
            return
        write(_free_path(folder, ending))

    def _look_for_devices(self) -> None:
        try:
            self._listener.on_devices(self._means.devices())
        except AvatarError as error:
            self._tell(error)

    def _look_for_people(self) -> None:
        cards: list[Card] = []
        for card in self.library.cards():
            cards.append(card)
            self._listener.on_cards(tuple(cards))

    def _examine(self, path: Path) -> None:
        try:
            self._listener.on_examined(Examined(path, self.library.examine(path)))
        except AvatarError as error:
            self._listener.on_examined(Examined(path, None, sentence(error)))

    def _add(self, path: Path) -> None:
        try:
            card = self.library.add(path)
        except AvatarError as error:
            self._tell(error)
            return
        self.show(card)
        self.look_for_people()

    def _remove(self, name: str) -> None:
        try:
            self.library.remove(name)
        except AvatarError as error:
            self._tell(error)
        self.look_for_people()

    def _export_log(self, path: Path) -> None:
        try:
            export(path, self.settings)
        except AvatarError as error:
            self._tell(error)
        else:
            self._listener.on_notice(Notice("log_saved", f"The log for a bug report is {path}", "info"))

    def _tell(self, error: AvatarError) -> None:
        grave = not isinstance(error, PortraitError)
        self._listener.on_notice(Notice(error.code, sentence(error), "error" if grave else "warning"))


def _exchange(before: Hotkey | None, after: Hotkey | None) -> None:
    if before is not None:
        before.close()
    if after is not None:
        after.start()


def _free_path(folder: Path, ending: str) -> Path:
    name = datetime.now().strftime("visavis %Y-%m-%d %H.%M.%S")
    path, number = folder / f"{name}{ending}", 2
    while path.exists():
        path, number = folder / f"{name} {number}{ending}", number + 1
    return path
