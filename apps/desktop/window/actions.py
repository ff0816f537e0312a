"""What keys, buttons and menus do, each by one name: from the window to the desk and back."""

from __future__ import annotations

import math
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, QUrl, Signal
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QFileDialog

from apps.desktop.desk import Desk, Devices, Examined
from apps.desktop.firstrun import Progress, Verdict
from apps.desktop.library import ENDINGS, Card
from apps.desktop.notice import Notice
from apps.desktop.stage.contract import Phase, PhaseKind, StageStats
from apps.desktop.window.bridge import Bridge
from apps.desktop.window.keys import Binding, find
from apps.desktop.window.main import TITLE, MainWindow
from apps.desktop.window.people import Preview
from apps.desktop.window.sheets import FirstRun, Help, SettingsForm
from engine.errors import ArgumentError

_LEVEL_MS, _FIGURES_MS = 50, 500
_CAPTION_MS = 6000
_GAZE_DEGREES = {"gaze_x": 18.0, "gaze_y": 12.0, "yaw": 9.0, "pitch": 6.0}
"""At the pad's edge: the eyes go, and the head follows a little."""
_SOUNDS = "Sound and video (*.wav *.flac *.mp3 *.ogg *.opus *.m4a *.mp4 *.mkv *.webm *.mov);;All files (*)"
_OVER_SHEETS = ("escape", "talk", "mute", "quit")
"""What keys still do while a sheet lies over the window."""
_CAMERA_OFF = ("camera_lost", "camera_driver", "extra_missing")
_FIGURES = (
    ("first frame", "first_frame_ms", "{:.0f} ms"),
    ("pictures", "fps", "{:.1f} fps"),
    ("voice to picture, p95", "microphone_to_shown_p95_ms", "{:.0f} ms"),
    ("sound ahead", "drift_ms", "{:+.0f} ms"),
)


class Actions(QObject):
    """Belongs to the window's thread; nothing here waits for anything."""

    pet_asked = Signal()
    click_through_asked = Signal()
    quit_asked = Signal()
    state_changed = Signal()
    """What the tray shows may have changed."""

    def __init__(self, desk: Desk, bridge: Bridge, window: MainWindow) -> None:
        super().__init__(window)
        self.desk, self.bridge, self.window = desk, bridge, window
        self.phase = "loading"
        self._devices = Devices()
        self._first_run: FirstRun | None = None
        self._settings_form: SettingsForm | None = None
        self._recorded_s: float | None = None
        self._talking = self._been_ready = False
        self._unmuted = "open"
        self._connect_bridge()
        self._connect_window()
        self._levels = self._every(_LEVEL_MS, self._show_level)
        self._figures = self._every(_FIGURES_MS, self._show_figures)
        self._caption_over = QTimer(self, singleShot=True, interval=_CAPTION_MS)
        self._caption_over.timeout.connect(lambda: self._caption(""))
        self.show_settings()

    def act(self, name: str, value: str | float | bool | None = None) -> None:
        """Do what a key, a button or a notice names."""
        method = getattr(self, name)
        if value is None:
            method()
        else:
            method(value)

    def on_key(self, key: int, control: bool, down: bool) -> None:
        binding: Binding | None = find(key, control)
        if binding is None or not (down or binding.held):
            return
        if self.window.sheet is not None and binding.action not in _OVER_SHEETS:
            return
        self.act(binding.action, down if binding.held else binding.value)

    # Talk.

    def talk(self, pressed: bool) -> None:
        self._talking = pressed
        self.desk.ears.hold(pressed)
        self._show_microphone()

    def stop_talking(self) -> None:
        """The key is let go in another window, which nobody would tell."""
        if self._talking:
            self.talk(False)

    def mute(self) -> None:
        mode = self.desk.settings.mic_mode
        if mode != "muted":
            self._unmuted = mode
        self.set_mic_mode("muted" if mode != "muted" else self._unmuted)

    def set_mic_mode(self, mode: str) -> None:
        self.desk.set_mic_mode(mode)
        self.show_settings()

    def interrupt(self) -> None:
        self.desk.stage.interrupt()

    def escape(self) -> None:
        window = self.window
        if window.close_sheet():
            return
        if window.isFullScreen():
            window.showNormal()
        elif not window.face.hasFocus():
            window.face.setFocus()
        self.interrupt()

    def set_mode(self, mode: str) -> None:
        self.desk.set_mode(mode)
        self.show_settings()

    def switch_mode(self) -> None:
        self.set_mode("listen" if self.desk.settings.mode == "speak" else "speak")

    def hear_aloud(self, on: bool | None = None) -> None:
        self.desk.hear_aloud(not self.desk.settings.hear_aloud if on is None else on)
        self.show_settings()

    def choose_source(self, source: str) -> None:
        self.desk.listen(source=source)
        self.show_settings()
        self._show_devices(self._devices)
        if source == "file" and not self.desk.settings.file:
            self.open_sound()

    def choose_device(self, name: str) -> None:
        self.desk.listen(**{self.desk.settings.source: name})

    def listen_again(self) -> None:
        self.desk.listen()

    def open_sound(self) -> None:
        dialog = self._dialog("Choose a sound or video file", _SOUNDS)
        dialog.fileSelected.connect(self._take_sound)
        dialog.open()

    def show_sound(self) -> None:
        """The place in the panel where devices are chosen."""
        self._remember(panel=True)
        self.window.panel.ensureWidgetVisible(self.window.panel.sound)
        self.window.panel.sound.device.setFocus()

    # Face.

    def express(self, name: str) -> None:
        self.window.panel.mood.express(name)

    def stronger(self, step: float) -> None:
        self.window.panel.mood.stronger(step)

    def be(self, state: str) -> None:
        self.window.panel.mood.be(state)

    def look(self, direction: str) -> None:
        self.window.panel.mood.gaze.nudge(direction)

    def next_person(self, step: int) -> None:
        card = self.window.panel.people.neighbour(step)
        if card is not None:
            self.show_person(card)

    def show_person(self, card: Card) -> None:
        self.desk.show(card)
        self.window.panel.people.choose(card.name)

    def open_picture(self) -> None:
        dialog = self._dialog("Open a picture", f"Pictures ({' '.join(f'*{ending}' for ending in ENDINGS)})")
        dialog.fileSelected.connect(self.look_at)
        dialog.open()

    def look_at(self, path: str) -> None:
        """Look at a picture that somebody offers; the preview follows."""
        self.desk.examine(Path(path))

    # Out.

    def record(self) -> None:
        self.desk.toggle_recording()

    def screenshot(self) -> None:
        self.desk.screenshot()

    def camera(self) -> None:
        self.desk.camera(not self.desk.camera_on)
        self.show_settings()

    def show_recordings(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.desk.settings.recordings_path)))

    # Window.

    def pet(self) -> None:
        self.pet_asked.emit()

    def click_through(self) -> None:
        self.click_through_asked.emit()

    def quit(self) -> None:
        self.quit_asked.emit()

    def full_screen(self) -> None:
        if self.window.isFullScreen():
            self.window.showNormal()
        else:
            self.window.showFullScreen()

    def panel(self) -> None:
        self._remember(panel=not self.desk.settings.panel)

    def hud(self) -> None:
        self._remember(hud=not self.desk.settings.hud)

    def captions(self) -> None:
        self._remember(captions=not self.desk.settings.captions)

    def badge(self) -> None:
        self._remember(badge=not self.desk.settings.badge)

    def help(self) -> None:
        self.window.open_sheet("Keys", Help(), 560)

    def settings(self) -> None:
        form = SettingsForm(self.desk.settings)
        form.changed.connect(lambda name, value: self._remember(**{name: value}))
        form.computing_changed.connect(self._use)
        form.folder_asked.connect(self._ask_folder)
        form.log_asked.connect(self.desk.export_log)
        form.check_asked.connect(self.check)
        self._settings_form = form
        self.window.open_sheet("Settings", form, 560)

    def check(self) -> None:
        """Look at the machine anew, with the sheet of the first run."""
        self._open_first_run()
        self.desk.check(again=True)

    def show_settings(self) -> None:
        """Everything on the window as the settings have it."""
        window, settings = self.window, self.desk.settings
        window.stay_on_top(settings.on_top)
        window.panel.sound.show_settings(settings)
        window.dock.check("panel", settings.panel)
        window.dock.check("camera", self.desk.camera_on)
        window.face.written.badge = settings.badge
        if not settings.captions:
            window.face.written.caption = ""
        self._show_microphone()
        self._show_figures()
        window.lay_out()
        window.face.update()
        self.state_changed.emit()

    # What comes from the desk.

    def _on_frame(self) -> None:
        shown = self.bridge.take()
        if shown is not None:
            self.window.face.show_frame(shown)

    def _on_phase(self, phase: Phase) -> None:
        self.phase = phase.kind.value
        if phase.kind is PhaseKind.READY and not self._been_ready:
            self._been_ready = True
            self.desk.on_stage()
        self.window.setWindowTitle(TITLE if self.phase == "ready" else f"{TITLE} – {phase.text}")
        self.window.face.show_phase(phase)
        if self.phase == "failed":
            self._on_notice(Notice("stage_failed", phase.text, "error"))

    def _on_notice(self, notice: Notice) -> None:
        if notice.code in _CAMERA_OFF and self.desk.camera_on:
            self.desk.camera_on = False
            self.show_settings()
        self.window.notices.tell(notice)

    def _on_cards(self, cards: tuple[Card, ...]) -> None:
        self.window.panel.people.show_cards(cards, self.desk.settings.portrait)

    def _on_examined(self, examined: Examined) -> None:
        preview = Preview()
        preview.taken.connect(self._take_picture)
        preview.another.connect(self.open_picture)
        self.window.open_sheet(examined.path.name, preview, 400)
        preview.show_examined(examined)
        self._fit_soon()

    def _on_progress(self, progress: Progress) -> None:
        if self._first_run is None:
            self._open_first_run()
        if self._first_run is not None:
            self._first_run.show_progress(progress)

    def _on_verdict(self, verdict: Verdict) -> None:
        if self._first_run is not None:
            self._first_run.show_verdict(verdict)
            self._fit_soon()

    def _on_caption(self, text: str) -> None:
        if self.desk.settings.captions:
            self._caption(text)
            self._caption_over.start()

    # Wires.

    def _connect_bridge(self) -> None:
        bridge = self.bridge
        bridge.frame_came.connect(self._on_frame)
        bridge.phase_came.connect(self._on_phase)
        bridge.notice_came.connect(self._on_notice)
        bridge.devices_came.connect(self._show_devices)
        bridge.cards_came.connect(self._on_cards)
        bridge.examined_came.connect(self._on_examined)
        bridge.progress_came.connect(self._on_progress)
        bridge.verdict_came.connect(self._on_verdict)
        bridge.caption_came.connect(self._on_caption)
        bridge.talk_came.connect(self.talk)

    def _connect_window(self) -> None:
        window = self.window
        window.key.connect(self.on_key)
        window.left.connect(self.stop_talking)
        window.dock.asked.connect(self.act)
        window.dock.talk.connect(self.talk)
        window.notices.asked.connect(self.act)
        window.face.dropped.connect(self.look_at)
        window.face.opened_full.connect(self.full_screen)
        people, sound, mood = window.panel.people, window.panel.sound, window.panel.mood
        people.chosen.connect(self.show_person)
        people.opened.connect(self.open_picture)
        people.removed.connect(self.desk.remove)
        sound.source_chosen.connect(self.choose_source)
        sound.device_chosen.connect(self.choose_device)
        sound.file_asked.connect(self.open_sound)
        sound.mode_chosen.connect(self.set_mode)
        sound.mic_mode_chosen.connect(self.set_mic_mode)
        sound.headphones_set.connect(self.desk.set_headphones)
        sound.aloud_set.connect(self.hear_aloud)
        sound.speaker_chosen.connect(lambda name: self.desk.hear_aloud(self.desk.settings.hear_aloud, name))
        mood.state_chosen.connect(lambda state: self.desk.stage.set_state(None if state == "auto" else state))
        mood.expression_chosen.connect(lambda name, strength: self.desk.stage.set_expression(name or None, strength))
        mood.gaze.moved.connect(self._gaze)
        mood.gaze.released.connect(lambda: self.desk.stage.set_pose(None))

    def _every(self, milliseconds: int, call: object) -> QTimer:
        timer = QTimer(self, interval=milliseconds)
        timer.timeout.connect(call)
        timer.start()
        return timer

    def _dialog(self, title: str, kinds: str) -> QFileDialog:
        """Not modal: the person goes on meanwhile."""
        dialog = QFileDialog(self.window, title, "", kinds)
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        return dialog

    def _ask_folder(self) -> None:
        dialog = QFileDialog(self.window, "Folder for films and pictures")
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.fileSelected.connect(self._take_folder)
        dialog.open()

    def _take_folder(self, folder: str) -> None:
        self._remember(recordings=folder)
        if self._settings_form is not None and self.window.sheet is not None:
            self._settings_form.show_folder(folder)

    def _take_sound(self, path: str) -> None:
        self.desk.listen(source="file", file=path)
        self.show_settings()

    def _take_picture(self, path: str) -> None:
        self.window.close_sheet()
        self.desk.add(Path(path))

    def _use(self, values: dict[str, object]) -> None:
        try:
            self.desk.use(**values)
        except ArgumentError as error:
            self._on_notice(Notice(error.code, f"{str(error).capitalize()}.", "warning"))
            return
        self.window.close_sheet()

    def _remember(self, **values: object) -> None:
        try:
            if "hotkey" in values:
                self.desk.set_hotkey(str(values.pop("hotkey")))
            self.desk.remember(**values)
        except ArgumentError as error:
            self._on_notice(Notice(error.code, f"{str(error).capitalize()}.", "warning"))
        self.show_settings()

    def _open_first_run(self) -> None:
        form = FirstRun()
        form.skipped.connect(self.desk.skip_check)
        form.skipped.connect(self.window.close_sheet)
        form.done.connect(self.window.close_sheet)
        self.window.open_sheet("Welcome", form, 440)
        self._first_run = form
        if self.window.sheet is not None:
            self.window.sheet.closed.connect(self._forget_first_run)

    def _fit_soon(self) -> None:
        """Qt counts what was put into a sheet only after this event."""
        QTimer.singleShot(0, self.window.lay_out)

    def _forget_first_run(self) -> None:
        self._first_run = None

    def _gaze(self, right: float, down: float) -> None:
        shares = {"gaze_x": right, "yaw": right, "gaze_y": down, "pitch": down}
        self.desk.stage.set_pose({axis: _GAZE_DEGREES[axis] * share for axis, share in shares.items()})

    def _show_devices(self, devices: Devices) -> None:
        self._devices = devices
        self.window.panel.sound.show_devices(devices, self.desk.settings)

    def _show_level(self) -> None:
        self.window.panel.sound.show_level(self.desk.ears.level_db, self.desk.ears.state)

    def _show_microphone(self) -> None:
        self.window.dock.show_microphone(self.desk.settings.mic_mode, self._talking)

    def _show_figures(self) -> None:
        written = self.window.face.written
        stats = self.desk.stage.stats()
        written.figures = figures(stats) if self.desk.settings.hud else ()
        recording = self.desk.stage.recording
        if recording != (self._recorded_s is not None):
            self._recorded_s = 0.0 if recording else None
            self.window.dock.check("record", recording)
            self.state_changed.emit()
        elif self._recorded_s is not None:
            self._recorded_s += _FIGURES_MS / 1000
        written.recording = (
            "" if self._recorded_s is None else f"{int(self._recorded_s) // 60}:{int(self._recorded_s) % 60:02}"
        )

    def _caption(self, text: str) -> None:
        self.window.face.written.caption = text
        self.window.face.update()


def figures(stats: StageStats) -> tuple[str, ...]:
    """Lines for people; what is not known is left out."""
    values = [(text, getattr(stats, name), form) for text, name, form in _FIGURES]
    known = [f"{text}  {form.format(value)}" for text, value, form in values if math.isfinite(value)]
    return (*known, f"late  {stats.late}    dropped  {stats.dropped}")
