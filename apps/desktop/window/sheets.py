"""What lies over the window for a while: help, settings, the preview of a picture, the first run."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from apps.desktop.firstrun import Progress, Verdict
from apps.desktop.settings import Settings
from apps.desktop.window import icons, theme
from apps.desktop.window.controls import named, wrapped
from apps.desktop.window.keys import BINDINGS
from engine.backends.registry import CHOICES

_TOP_LEFT = Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft
_SIZES_PX = (256, 384, 512, 768)


class Sheet(QWidget):
    """One card over a dimmed window; closed by its button, by Esc, or by a click beside it."""

    closed = Signal()

    def __init__(self, parent: QWidget, title: str, content: QWidget, width_px: int) -> None:
        super().__init__(parent)
        self.setAccessibleName(title)
        self._width_px = width_px
        self._card = named(QFrame(self), "sheet")
        column = QVBoxLayout(self._card)
        column.setContentsMargins(20, 14, 14, 18)
        row = QHBoxLayout()
        heading = wrapped(title)
        heading.setFont(theme.font(1.25, bold=True))
        close = named(QToolButton(), "small")
        close.setIcon(icons.icon("close", theme.colours().ink))
        close.setAccessibleName("Close")
        close.setToolTip("Close  (Esc)")
        close.clicked.connect(self.leave)
        row.addWidget(heading, 1)
        row.addWidget(close, 0, Qt.AlignmentFlag.AlignTop)
        column.addLayout(row)
        self._scroll = QScrollArea()
        self._scroll.setFrameShape(QFrame.Shape.NoFrame)
        self._scroll.setWidgetResizable(True)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        content.setObjectName("inside")
        self.content = content
        self._scroll.setWidget(content)
        column.addWidget(self._scroll)
        self.close_button = close
        self.fit()
        self.show()
        self.raise_()
        close.setFocus()

    def fit(self) -> None:
        """Into the window as it is now."""
        parent = self.parentWidget()
        assert parent is not None
        self.setGeometry(parent.rect())
        width = min(self._width_px, self.width() - 16)
        inside = width - 34 - self._scroll.verticalScrollBar().sizeHint().width()
        wanted = (
            self.content.heightForWidth(inside)
            if self.content.hasHeightForWidth()
            else self.content.sizeHint().height()
        )
        height = min(wanted + 84, self.height() - 16)
        self._card.setGeometry((self.width() - width) // 2, (self.height() - height) // 2, width, height)

    def leave(self) -> None:
        self.hide()
        self.closed.emit()
        self.deleteLater()

    def paintEvent(self, _: QPaintEvent) -> None:
        QPainter(self).fillRect(self.rect(), QColor(0, 0, 0, 110))

    def mousePressEvent(self, event: object) -> None:
        if not self._card.geometry().contains(event.position().toPoint()):  # type: ignore[attr-defined]
            self.leave()


class Help(QWidget):
    """The keys, by group."""

    def __init__(self) -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 8, 0)
        for group in dict.fromkeys(binding.group for binding in BINDINGS):
            heading = QLabel(group)
            heading.setFont(theme.font(1.05, bold=True))
            column.addWidget(heading)
            grid = QGridLayout()
            grid.setColumnStretch(1, 1)
            grid.setHorizontalSpacing(12)
            rows = [binding for binding in BINDINGS if binding.group == group and binding.shown]
            for row, binding in enumerate(rows):
                grid.addWidget(named(QLabel(binding.shown), "key"), row, 0, _TOP_LEFT)
                grid.addWidget(wrapped(binding.text), row, 1)
            column.addLayout(grid)
        note = "Space and letters belong to the window; where a button or a list has the focus, Space presses that one."
        column.addWidget(wrapped(note, "muted"))


class SettingsForm(QWidget):
    """What is not in the panel. Takes effect at once; what concerns the model, with its button."""

    changed = Signal(str, object)
    computing_changed = Signal(dict)
    folder_asked = Signal()
    log_asked = Signal()
    check_asked = Signal()

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._form = QFormLayout(self)
        self._form.setContentsMargins(0, 0, 8, 0)
        self._form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._switch("AI-generated badge on the picture", "badge", settings.badge)
        self._switch("Captions, where a chatbot sends texts", "captions", settings.captions)
        self._switch("Figures on the picture", "hud", settings.hud)
        self._switch("Window above all others", "on_top", settings.on_top)
        self._recordings(settings)
        self._hotkey(settings)
        self._computing(settings)
        self._buttons()

    def show_folder(self, folder: str) -> None:
        self.folder.setText(folder)

    def _switch(self, text: str, name: str, on: bool) -> None:
        box = QCheckBox(text)
        box.setChecked(on)
        box.toggled.connect(lambda value: self.changed.emit(name, value))
        self._form.addRow(box)

    def _recordings(self, settings: Settings) -> None:
        # A path has nowhere to break; in a field it can be moved along.
        self.folder = QLineEdit(str(settings.recordings_path))
        self.folder.setReadOnly(True)
        self.folder.setAccessibleName("Folder of films and pictures")
        choose = QPushButton("Choose…")
        choose.setAccessibleName("Choose the folder of films and pictures")
        choose.clicked.connect(self.folder_asked)
        row = QHBoxLayout()
        row.addWidget(self.folder, 1)
        row.addWidget(choose)
        self._form.addRow("Recordings", row)

    def _hotkey(self, settings: Settings) -> None:
        edit = QLineEdit(settings.hotkey)
        edit.setPlaceholderText("none, or for example Ctrl+Alt+Space")
        edit.setAccessibleName("Key that talks from anywhere")
        edit.editingFinished.connect(lambda: self.changed.emit("hotkey", edit.text().strip()))
        self._form.addRow("Talk from anywhere", edit)

    def _computing(self, settings: Settings) -> None:
        self.model, self.server = QLineEdit(settings.model), QLineEdit(settings.server)
        self.model.setAccessibleName("Model")
        self.server.setAccessibleName("Server")
        self.server.setPlaceholderText("none: this machine computes")
        self.backend, self.side = QComboBox(), QComboBox()
        self.backend.setAccessibleName("Computed by")
        self.side.setAccessibleName("Size of the picture")
        self.backend.addItems(CHOICES)
        self.backend.setCurrentText(settings.backend)
        for side_px in sorted({*_SIZES_PX, settings.size_px}):
            self.side.addItem(f"{side_px} pixels", side_px)
        self.side.setCurrentIndex(self.side.findData(settings.size_px))
        for text, widget in (
            ("Model", self.model),
            ("By", self.backend),
            ("Picture", self.side),
            ("Server", self.server),
        ):
            self._form.addRow(text, widget)
        use = QPushButton("Use these")
        use.setAccessibleName("Use this model")
        use.clicked.connect(self._use)
        self._form.addRow("", use)

    def _use(self) -> None:
        values = {
            "model": self.model.text().strip() or "auto",
            "backend": self.backend.currentText(),
            "size_px": self.side.currentData(),
            "server": self.server.text().strip(),
        }
        self.computing_changed.emit(values)

    def _buttons(self) -> None:
        check, log = QPushButton("Check this machine"), QPushButton("Log for a bug report")
        check.clicked.connect(self.check_asked)
        log.clicked.connect(self.log_asked)
        self._form.addRow(check)
        self._form.addRow(log)


class FirstRun(QWidget):
    """What the machine check finds, while it does."""

    skipped = Signal()
    done = Signal()
    size_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 8, 0)
        column.setSpacing(10)
        self._text = wrapped("Looking at this machine…")
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setAccessibleName("Progress of the check")
        self._bar.setRange(0, 0)
        self._advice = wrapped(name="muted")
        self._advice.hide()
        column.addWidget(self._text)
        column.addWidget(self._bar)
        column.addWidget(self._advice)
        column.addWidget(wrapped(
            "Everything stays on this machine: pictures, voice and film. Use pictures of yourself, or of people who"
            " have agreed; a badge says that the picture is made by a machine.", "muted",
        ))  # fmt: skip
        self._skip, self._go = QPushButton("Skip the check"), named(QPushButton("Begin"), "main")
        self._go.setEnabled(False)
        self._skip.clicked.connect(self.skipped)
        self._go.clicked.connect(self.done)
        row = QHBoxLayout()
        row.addWidget(self._skip)
        row.addStretch(1)
        row.addWidget(self._go)
        column.addLayout(row)

    def show_progress(self, progress: Progress) -> None:
        self._text.setText(progress.text)
        self._bar.setRange(0, 1000 if progress.fraction is not None else 0)
        self._bar.setValue(round(1000 * (progress.fraction or 0)))

    def show_verdict(self, verdict: Verdict) -> None:
        self._text.setText(verdict.text)
        self._bar.hide()
        self._skip.hide()
        self._advice.setText("\n".join(verdict.advice))
        self._advice.setVisible(bool(verdict.advice))
        self._go.setEnabled(True)
        self._go.setFocus()
