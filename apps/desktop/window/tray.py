"""The icon in the tray, and the menu that the pet has too."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu, QSystemTrayIcon

from apps.desktop.window import icons
from apps.desktop.window.actions import Actions


class Tray(QObject):
    """Where the system has no tray there is only the menu."""

    back_asked = Signal()

    def __init__(self, actions: Actions) -> None:
        super().__init__(actions)
        self._actions = actions
        self.menu = QMenu()
        self._back = self.menu.addAction("Show the window", self._show_window)
        self._pet = self._add("Pet mode", "pet", checkable=True)
        self._through = self._add("Clicks go through", "click_through", checkable=True)
        self.menu.addSeparator()
        self._muted = self._add("Mute", "mute", checkable=True)
        self._add("Interrupt", "interrupt")
        self._recording = self._add("Record", "record", checkable=True)
        self.menu.addSeparator()
        self._add("Quit", "quit")
        self._icon = QSystemTrayIcon(icons.mark(), self)
        self._icon.setToolTip("visavis")
        self._icon.setContextMenu(self.menu)
        self._icon.activated.connect(self._clicked)
        actions.state_changed.connect(self._refresh)
        self.show_pet(False, False)

    @property
    def available(self) -> bool:
        return QSystemTrayIcon.isSystemTrayAvailable()

    def show(self) -> None:
        if self.available:
            self._icon.show()

    def hide(self) -> None:
        self._icon.hide()

    def show_pet(self, pet: bool, through: bool) -> None:
        self._pet.setChecked(pet)
        self._through.setChecked(through)
        self._through.setEnabled(pet)
        self._refresh()

    def _refresh(self) -> None:
        desk = self._actions.desk
        self._muted.setChecked(desk.settings.mic_mode == "muted")
        self._recording.setChecked(desk.stage.recording)

    def _add(self, text: str, action: str, checkable: bool = False) -> QAction:
        added = self.menu.addAction(text, lambda: self._actions.act(action))
        added.setCheckable(checkable)
        return added

    def _show_window(self) -> None:
        self.back_asked.emit()
        window = self._actions.window
        window.showNormal()
        window.raise_()
        window.activateWindow()

    def _clicked(self, reason: QSystemTrayIcon.ActivationReason) -> None:
        if reason == QSystemTrayIcon.ActivationReason.Trigger:
            self._show_window()
