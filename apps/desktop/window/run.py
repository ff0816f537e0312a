"""Opens the window and closes it again."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QSize, QTimer
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication

from apps.desktop.app import Options
from apps.desktop.desk import USUAL, Desk, Means
from apps.desktop.keeper import SettingsKeeper
from apps.desktop.library import PortraitLibrary
from apps.desktop.logs import open_log
from apps.desktop.notice import Notice
from apps.desktop.settings import Place
from apps.desktop.window import icons, theme
from apps.desktop.window.actions import Actions
from apps.desktop.window.bridge import Bridge
from apps.desktop.window.diary import Diary
from apps.desktop.window.main import MainWindow
from apps.desktop.window.pet import Pets
from apps.desktop.window.tray import Tray
from engine.errors import AvatarError

_LOG = logging.getLogger("visavis.desktop")

CLOSE_S = 1.5
_SIGNAL_MS = 100
_GRIP_PX = 40
"""Of a window that must be on a screen so that one can take hold of it; and room for its frame."""


class Window:
    """Everything on the screen, and what belongs to it."""

    def __init__(self, app: QApplication, desk: Desk, bridge: Bridge, stats: Path | None = None) -> None:
        """Shows nothing yet."""
        self.app, self.desk = app, desk
        self.main = MainWindow(desk)
        self.actions = Actions(desk, bridge, self.main)
        self.tray = Tray(self.actions)
        self.pets = Pets(self.actions, self.tray)
        self._diary = Diary(stats, self.actions, self.main) if stats is not None else None
        self.main.closing.connect(self.close)
        self.actions.quit_asked.connect(self.close)
        QGuiApplication.styleHints().colorSchemeChanged.connect(self.dress)
        self.closed_in_time = True
        self._closed = False

    def dress(self) -> None:
        theme.apply(self.app)
        self.main.dress()
        self.actions.show_settings()

    def show(self) -> None:
        settings = self.desk.settings
        self._place(settings.window)
        if settings.maximised:
            self.main.showMaximized()
        else:
            self.main.show()
        self.main.face.setFocus()
        self.tray.show()

    def _place(self, place: Place | None) -> None:
        """Where it was; but never larger than the screen, nor on one that is no longer there."""
        main = self.main
        if place is not None:
            main.resize(place.width_px, place.height_px)
            for screen in QGuiApplication.screens():
                if screen.availableGeometry().contains(place.x_px + _GRIP_PX, place.y_px + _GRIP_PX):
                    main.move(place.x_px, place.y_px)
        room = main.screen().availableSize() - QSize(_GRIP_PX, _GRIP_PX)
        main.resize(main.size().boundedTo(room))

    def close(self) -> None:
        """Within two seconds, whatever state everything is in. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._remember_place()
        self.main.hide()
        self.pets.close()
        self.tray.hide()
        if self._diary is not None:
            self._diary.close()
        self.closed_in_time = self.desk.close(CLOSE_S)
        self.app.quit()

    def _remember_place(self) -> None:
        main = self.main
        area = main.normalGeometry() if main.isMaximized() or main.isFullScreen() else main.geometry()
        corner = area.topLeft() if main.isMaximized() or main.isFullScreen() else main.pos()
        place = Place(corner.x(), corner.y(), max(1, area.width()), max(1, area.height()))
        self.desk.remember(window=place, maximised=main.isMaximized())


def make_app(theme_name: str = "auto", arguments: Sequence[str] = ("visavis",)) -> QApplication:
    """The one application of the process, dressed."""
    # OpenCV's desktop build, which other packages bring, points Qt to plugins of its own, of another version.
    for name in ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR"):
        if "cv2" in os.environ.get(name, ""):
            del os.environ[name]
    made = QApplication.instance()
    app = made if isinstance(made, QApplication) else QApplication(list(arguments))
    app.setApplicationName("visavis")
    app.setApplicationDisplayName("visavis")
    app.setDesktopFileName("visavis")
    app.setStyle("Fusion")
    app.setWindowIcon(icons.mark())
    app.setQuitOnLastWindowClosed(False)
    theme.set_scheme(theme_name)
    theme.apply(app)
    return app


def build_window(
    keeper: SettingsKeeper, bridge: Bridge, options: Options | None = None, means: Means = USUAL
) -> Window:
    """With a desk behind it, nothing of which has begun; make_app comes before. Raises AvatarError."""
    options = options or Options()
    library = PortraitLibrary()
    desk = Desk(keeper, library, bridge, means, options.computing, options.token)
    return Window(theme.application(), desk, bridge, options.stats)


def run_window(options: Options, means: Means = USUAL) -> int:
    """Until it is closed. Raises ArgumentError, PortraitError or FileError for what the options say."""
    app = make_app(options.theme)
    bridge = Bridge()
    log = open_log(on_crash=lambda text: bridge.on_notice(Notice("crashed", text, "error")))
    keeper = SettingsKeeper(bridge.on_notice)
    try:
        keeper.change(**options.settings)
        if options.portrait:
            keeper.change(portrait=_person(options.portrait))
        window = build_window(keeper, bridge, options, means)
    except AvatarError:
        keeper.close()
        log.close()
        raise
    _heed_signals(window)
    if options.exit_after_s is not None:
        QTimer.singleShot(round(options.exit_after_s * 1000), window.close)
    window.show()
    window.desk.start()
    if options.pet:
        window.actions.pet()
    if options.camera:
        window.actions.camera()
    app.exec()
    _LOG.info("closed")
    log.close()
    if not window.closed_in_time:
        # A driver or a model that is being read holds a thread; nothing of it is worth waiting for.
        sys.stdout.flush()
        os._exit(0)
    return 0


def _person(portrait: str) -> str:
    """The name of a person of the library; a picture file is taken in first. Raises AvatarError."""
    library = PortraitLibrary()
    if portrait in library.names():
        return portrait
    return library.add(Path(portrait)).name


def _heed_signals(window: Window) -> None:
    """Qt's loop runs no Python between events, so signals wait until a timer lets them in."""
    asked: list[float] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.append(time.monotonic()))
    timer = QTimer(window.main, interval=_SIGNAL_MS)
    timer.timeout.connect(lambda: window.close() if asked else None)
    timer.start()
