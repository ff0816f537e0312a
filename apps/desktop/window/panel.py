"""The side panel: who is seen, what is heard, mood and gaze."""

from __future__ import annotations

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFrame,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QSlider,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from apps.desktop.desk import Devices
from apps.desktop.settings import Settings
from apps.desktop.window import icons, theme
from apps.desktop.window.controls import Chips, GazePad, Meter, Section, Segments, named, wrapped
from apps.desktop.window.keys import tip
from apps.desktop.window.people import People
from engine.types import EXPRESSIONS

WIDTH_PX = 320
_SYSTEM = "System default"
_SOURCES = (("microphone", "Microphone"), ("loopback", "This computer"), ("file", "A file"), ("socket", "A chatbot"))
_HEARD = {
    "open": "Heard", "waiting": "Ready", "echo": "Waits for the echo", "muted": "Muted", "off": "Off",
}  # fmt: skip


class Choice(QComboBox):
    """Of devices by name; its values are names, empty for the system's own choice."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.setAccessibleName(label)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        # Scrolling the panel must not change a device that the pointer passes over.
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def offer(self, names: tuple[str, ...], chosen: str) -> None:
        """chosen: stays in the list while it is unplugged, since it is what is waited for."""
        with QSignalBlocker(self):
            self.clear()
            self.addItem(_SYSTEM, "")
            for name in names:
                self.addItem(name, name)
            if chosen and chosen not in names:
                self.addItem(f"{chosen} (not there)", chosen)
            self.setCurrentIndex(max(0, self.findData(chosen)))

    def wheelEvent(self, event: object) -> None:
        if self.hasFocus():
            super().wheelEvent(event)  # type: ignore[arg-type]
        else:
            event.ignore()  # type: ignore[attr-defined]


class Sound(Section):
    """What is heard, and what of it passes."""

    source_chosen = Signal(str)
    device_chosen = Signal(str)
    file_asked = Signal()
    mode_chosen = Signal(str)
    mic_mode_chosen = Signal(str)
    headphones_set = Signal(bool)
    aloud_set = Signal(bool)
    speaker_chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__("Voice")
        self.mode = Segments("The person", (("speak", "Speaks as me"), ("listen", "Listens to me")))
        self.mode.setToolTip(tip("switch_mode", "Whose voice it is"))
        self.source = QComboBox()
        self.source.setAccessibleName("Source")
        for value, text in _SOURCES:
            self.source.addItem(text, value)
        self.device = Choice("Device")
        self.file = QToolButton()
        self.file.setAccessibleName("Choose a sound file")
        self.file.setToolTip("Choose a sound or video file")
        self.meter = Meter()
        self.mic_mode = Segments("Microphone", (("open", "Open"), ("push", "Push to talk"), ("muted", "Muted")))
        self.headphones = QCheckBox("I wear headphones")
        self.headphones.setToolTip("Then there is no echo to guard against, and you can speak while the person does")
        self.aloud = QCheckBox("Hear the person")
        self.aloud.setToolTip(tip("hear_aloud", "Play the person's voice"))
        self.speaker = Choice("Loudspeaker")
        self._hint = wrapped(name="muted")
        self.add(self.mode)
        self.add_row(self.source, self.file)
        self.add(self.device)
        self.add(self._hint)
        self.add(self.meter)
        self.add(self.mic_mode)
        self.add(self.headphones)
        self.add(self.aloud)
        self.add(self.speaker)
        self._connect()
        self.dress()

    def dress(self) -> None:
        self.file.setIcon(icons.icon("folder", theme.colours().ink))

    def show_settings(self, settings: Settings) -> None:
        blockers = [QSignalBlocker(widget) for widget in (self.source, self.headphones, self.aloud)]
        self.mode.choose(settings.mode)
        self.mic_mode.choose(settings.mic_mode)
        self.source.setCurrentIndex(self.source.findData(settings.source))
        self.headphones.setChecked(settings.headphones)
        self.aloud.setChecked(settings.hear_aloud)
        del blockers
        room = settings.source == "microphone"
        self.device.setVisible(settings.source in ("microphone", "loopback"))
        self.file.setVisible(settings.source == "file")
        self.headphones.setVisible(room)
        self.speaker.setVisible(settings.hear_aloud)
        hints = {
            "file": settings.file.replace("\\", "/").rpartition("/")[2] or "No file yet: the folder button opens one.",
            "socket": "Programs that speak the protocol of “visavis serve” connect to this window.",
        }
        self._hint.setText(hints.get(settings.source, ""))
        self._hint.setVisible(settings.source in hints)

    def show_devices(self, devices: Devices, settings: Settings) -> None:
        if settings.source == "loopback":
            self.device.offer(devices.loopbacks, settings.loopback)
        else:
            self.device.offer(devices.microphones, settings.microphone)
        self.speaker.offer(devices.speakers, settings.speaker)

    def show_level(self, level_db: float, state: str) -> None:
        self.meter.show_level(level_db, state == "open")
        if self.value.text() != _HEARD[state]:
            self.value.setText(_HEARD[state])

    def _connect(self) -> None:
        self.mode.chosen.connect(self.mode_chosen)
        self.mic_mode.chosen.connect(self.mic_mode_chosen)
        self.source.currentIndexChanged.connect(lambda _: self.source_chosen.emit(self.source.currentData()))
        self.device.currentIndexChanged.connect(lambda _: self.device_chosen.emit(self.device.currentData()))
        self.file.clicked.connect(self.file_asked)
        self.headphones.toggled.connect(self.headphones_set)
        self.aloud.toggled.connect(self.aloud_set)
        self.speaker.currentIndexChanged.connect(lambda _: self.speaker_chosen.emit(self.speaker.currentData()))


class Mood(Section):
    """State, expression, and where the eyes go."""

    state_chosen = Signal(str)
    expression_chosen = Signal(str, float)

    def __init__(self) -> None:
        super().__init__("Mood")
        self.state = Segments(
            "State", (("auto", "Auto"), ("speaking", "Speak"), ("listening", "Listen"), ("idle", "Idle"))
        )
        names = [(name, name.capitalize()) for name in EXPRESSIONS]
        self.expression = Chips("Expression", [("", "Free"), *names])
        self.strength = QSlider(Qt.Orientation.Horizontal)
        self.strength.setAccessibleName("Strength of the expression")
        self.strength.setRange(10, 100)
        self.strength.setValue(60)
        self._percent = QLabel("60 %")
        self._percent.setMinimumWidth(self._percent.fontMetrics().horizontalAdvance("100 %"))
        self.gaze = GazePad()
        self._name = ""
        self.add(self.state)
        self.add(self.expression)
        self.add_row(QLabel("Strength"), self.strength, self._percent, stretch=1)
        self.add(QLabel("Gaze"))
        self.add(self.gaze)
        self.state.choose("auto")
        self.expression.choose("")
        self.state.chosen.connect(self.state_chosen)
        self.expression.chosen.connect(self.express)
        self.strength.valueChanged.connect(self._strengthen)

    def be(self, state: str) -> None:
        self.state.choose(state)
        self.state_chosen.emit(state)

    def express(self, name: str) -> None:
        """Empty: no expression is given."""
        self._name = name
        self.expression.choose(name)
        self.value.setText(name.capitalize())
        self.expression_chosen.emit(name, self.strength.value() / 100)

    def stronger(self, step: float) -> None:
        self.strength.setValue(self.strength.value() + round(100 * step))

    def _strengthen(self, value: int) -> None:
        self._percent.setText(f"{value} %")
        if self._name:
            self.expression_chosen.emit(self._name, value / 100)


class Panel(QScrollArea):
    """All sections, in a column that scrolls."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setAccessibleName("Panel")
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.people, self.sound, self.mood = People(), Sound(), Mood()
        inside = named(QWidget(), "inside")
        column = QVBoxLayout(inside)
        column.setContentsMargins(6, 12, 10, 12)
        column.setSpacing(10)
        for section in (self.people, self.sound, self.mood):
            column.addWidget(section)
        column.addStretch(1)
        self.setWidget(inside)

    def dress(self) -> None:
        self.people.dress()
        self.sound.dress()
