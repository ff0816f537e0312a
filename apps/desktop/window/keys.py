"""The keys: one table for what they do, what the help sheet says, and what buttons tell when pointed at."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import Qt

from engine.types import EXPRESSIONS

Key = Qt.Key


@dataclass(frozen=True, slots=True)
class Binding:
    """action: a method of apps.desktop.window.actions.Actions, with `value` as its argument unless that is None. held:
    called with True when pressed, and False when let go.
    """

    group: str
    shown: str
    text: str
    action: str
    keys: tuple[Key, ...]
    value: str | float | None = None
    held: bool = False
    control: bool = False


BINDINGS: tuple[Binding, ...] = (
    Binding("Talk", "Space", "Hold to talk, with “Push to talk” chosen", "talk", (Key.Key_Space,), held=True),
    Binding("Talk", "F9", "The same, wherever the focus is", "talk", (Key.Key_F9,), held=True),
    Binding("Talk", "M", "Mute, and back", "mute", (Key.Key_M,)),
    Binding("Talk", "Esc", "Interrupt; closes what lies over the picture first", "escape", (Key.Key_Escape,)),
    Binding("Talk", "V", "Speak with my voice, or listen to me", "switch_mode", (Key.Key_V,)),
    Binding("Talk", "A", "Hear the person, or not", "hear_aloud", (Key.Key_A,)),
    *(
        Binding("Face", str(number), name.capitalize(), "express", (Key(Key.Key_0 + number),), value=name)
        for number, name in enumerate(EXPRESSIONS, start=1)
    ),
    Binding("Face", "9 or 0", "No expression given: it moves freely", "express", (Key.Key_9, Key.Key_0), value=""),
    Binding("Face", "+", "Stronger", "stronger", (Key.Key_Plus, Key.Key_Equal), value=0.1),
    Binding("Face", "−", "Weaker", "stronger", (Key.Key_Minus,), value=-0.1),
    Binding("Face", "F5", "State: as the voices have it", "be", (Key.Key_F5,), value="auto"),
    Binding("Face", "F6", "State: speaking", "be", (Key.Key_F6,), value="speaking"),
    Binding("Face", "F7", "State: listening", "be", (Key.Key_F7,), value="listening"),
    Binding("Face", "F8", "State: idle", "be", (Key.Key_F8,), value="idle"),
    Binding("Face", "Arrows", "Look there", "look", (Key.Key_Left,), value="left"),
    Binding("Face", "", "", "look", (Key.Key_Right,), value="right"),
    Binding("Face", "", "", "look", (Key.Key_Up,), value="up"),
    Binding("Face", "", "", "look", (Key.Key_Down,), value="down"),
    Binding("Face", "Home", "Let the eyes go where they want", "look", (Key.Key_Home,), value="free"),
    Binding("Face", "Page up, down", "The person before, the next one", "next_person", (Key.Key_PageUp,), value=-1),
    Binding("Face", "", "", "next_person", (Key.Key_PageDown,), value=1),
    Binding("Out", "R", "Record a film, and stop", "record", (Key.Key_R,)),
    Binding("Out", "S", "Screenshot", "screenshot", (Key.Key_S,)),
    Binding("Out", "C", "Be a camera for other programs", "camera", (Key.Key_C,)),
    Binding("Window", "P", "Pet: only the person, on top of everything", "pet", (Key.Key_P,)),
    Binding("Window", "X", "Pet: clicks go through it", "click_through", (Key.Key_X,)),
    Binding("Window", "F or F11", "Full screen", "full_screen", (Key.Key_F, Key.Key_F11)),
    Binding("Window", "L", "Fold the panel", "panel", (Key.Key_L,)),
    Binding("Window", "H", "Figures", "hud", (Key.Key_H,)),
    Binding("Window", "T", "Captions", "captions", (Key.Key_T,)),
    Binding("Window", "B", "“AI-generated” badge", "badge", (Key.Key_B,)),
    Binding("Window", "O", "Open a picture", "open_picture", (Key.Key_O,)),
    Binding("Window", "F1 or ?", "This sheet", "help", (Key.Key_F1, Key.Key_Question)),
    Binding("Window", "Ctrl+,", "Settings", "settings", (Key.Key_Comma,), control=True),
    Binding("Window", "Ctrl+Q", "Quit", "quit", (Key.Key_Q,), control=True),
)  # fmt: skip

_BY_KEY = {(key.value, binding.control): binding for binding in BINDINGS for key in binding.keys}


def find(key: int, control: bool) -> Binding | None:
    """What a key does; None for nothing."""
    return _BY_KEY.get((key, control))


def tip(action: str, text: str) -> str:
    """A tool tip with the key of an action in it."""
    shown = next((binding.shown for binding in BINDINGS if binding.action == action and binding.shown), "")
    return f"{text}  ({shown})" if shown else text
