"""The buttons under the picture: what one reaches for while talking."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QToolButton, QWidget

from apps.desktop.window import icons, theme
from apps.desktop.window.controls import named
from apps.desktop.window.keys import tip

HEIGHT_PX = 54
_BUTTONS = (
    ("mute", "microphone", "Mute", True),
    ("interrupt", "stop", "Interrupt", False),
    ("record", "record", "Record a film", True),
    ("screenshot", "screenshot", "Screenshot", False),
    ("camera", "camera", "Be a camera", True),
    ("pet", "pet", "Pet mode", False),
    ("settings", "settings", "Settings", False),
    ("help", "help", "Keys", False),
    ("panel", "panel", "Panel", True),
)
_KEY_OF = {"interrupt": "escape"}


class Dock(QFrame):
    """Emits the names of actions, see apps.desktop.window.actions."""

    asked = Signal(str)
    talk = Signal(bool)
    """The microphone button while it is held, when it is set to push to talk."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("dock")
        self.setAccessibleName("Controls")
        row = QHBoxLayout(self)
        row.setContentsMargins(7, 5, 7, 5)
        row.setSpacing(1)
        self.buttons: dict[str, QToolButton] = {}
        self._push = False
        for action, _, text, checkable in _BUTTONS:
            button = named(QToolButton(), f"dock_{action}", checkable=checkable)
            button.setAccessibleName(text)
            button.setToolTip(tip(_KEY_OF.get(action, action), text))
            # A click leaves the focus, and with it the space bar, where it was.
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            button.setIconSize(QSize(22, 22))
            button.clicked.connect(lambda _=False, action=action: self._clicked(action))
            self.buttons[action] = button
            row.addWidget(button)
        self.buttons["mute"].pressed.connect(lambda: self._hold(True))
        self.buttons["mute"].released.connect(lambda: self._hold(False))
        self.dress()

    def dress(self) -> None:
        look = theme.colours()
        for action, name, _, _ in _BUTTONS:
            checked = look.alarm if action in ("mute", "record") else look.accent
            self.buttons[action].setIcon(icons.icon(name, look.ink, checked, side_px=22))

    def show_microphone(self, mode: str, talking: bool) -> None:
        look, button = theme.colours(), self.buttons["mute"]
        self._push = mode == "push"
        muted = mode == "muted"
        button.setCheckable(not self._push)
        button.setChecked(muted)
        name = {"push": "Hold to talk", "muted": "Unmute"}.get(mode, "Mute")
        button.setAccessibleName(name)
        button.setToolTip(tip("talk" if self._push else "mute", name))
        colour = look.accent if talking else look.muted if self._push else look.ink
        button.setIcon(icons.icon("microphone_off" if muted else "microphone", colour, look.alarm, side_px=22))

    def check(self, action: str, on: bool) -> None:
        self.buttons[action].setChecked(on)

    def _clicked(self, action: str) -> None:
        if not (action == "mute" and self._push):
            self.asked.emit(action)

    def _hold(self, pressed: bool) -> None:
        if self._push:
            self.talk.emit(pressed)
