"""What a transcript expects of a message, as JSON: the fields that matter, with words for those that vary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from apps.conformance.line import CONFIGURATION, FIRST, FROZEN, KEY_FRAME, KINDS, LAST, Heard

_FLAGS = {"key": KEY_FRAME, "first": FIRST, "last": LAST, "frozen": FROZEN, "configuration": CONFIGURATION}
_STATES = ("speaking", "listening", "idle")

Kept = Mapping[str, Any]
"""What a transcript has kept of earlier messages, by name."""


def filled(value: Any, kept: Kept) -> Any:
    """A step with `"$name"` replaced by what was kept under that name."""
    if isinstance(value, str) and value.startswith("$"):
        return kept[value[1:]]
    if isinstance(value, dict):
        return {key: filled(part, kept) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, kept) for part in value]
    return value


_WORDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "any": lambda _, got: got is not None,
    "least": lambda bound, got: _is_number(got) and bool(got >= bound),
    "most": lambda bound, got: _is_number(got) and bool(got <= bound),
    "not": lambda wrong, got: bool(got != wrong),
    "has": lambda item, got: isinstance(got, list) and item in got,
    "one_of": lambda choices, got: got in choices,
}


def fits(wanted: Any, got: Any) -> bool:
    """Whether a value is as expected: objects have at least the wanted fields, everything else is equal, but for
    {"any": true}, {"least": N}, {"most": N}, {"not": V}, {"has": V} (a list holds it) and {"one_of": [...]}.
    """
    if isinstance(wanted, dict) and wanted and set(wanted) <= set(_WORDS):
        return all(_WORDS[word](argument, got) for word, argument in wanted.items())
    if isinstance(wanted, dict):
        return isinstance(got, dict) and all(key in got and fits(part, got[key]) for key, part in wanted.items())
    # In Python, unlike in JSON, true is 1.
    return isinstance(wanted, bool) is isinstance(got, bool) and bool(wanted == got)


def is_media(wanted: Mapping[str, Any], heard: Heard) -> bool:
    """Whether a message is the media wanted: `kind` by name, `flag` or `state` by name, other fields by `fits`."""
    if heard.text is not None or heard.kind != KINDS[wanted["kind"]]:
        return False
    if "flag" in wanted and not heard.flags & _FLAGS[wanted["flag"]]:
        return False
    if "state" in wanted and _STATES[min(heard.state, 2)] != wanted["state"]:
        return False
    others = {name: value for name, value in wanted.items() if name not in ("kind", "flag", "state")}
    return all(fits(value, getattr(heard, name)) for name, value in others.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
