"""What is found by tests/fuzz_protocol.py stays mended, and some seconds of it find nothing new."""

from __future__ import annotations

import pytest
from fuzz_protocol import Found, Input, attempt, fuzz, read_corpus

import apps.server.protocol


def test_corpus() -> None:
    corpus = read_corpus()
    assert len(corpus) > 50 and {item.kind for item in corpus} == {"text", "binary", "headers"}
    for item in corpus:
        attempt(item)


def test_five_seconds() -> None:
    report, _ = fuzz(5, seed=7, corpus=read_corpus())
    assert report.runs > 1000 and report.pairs > 200


def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer itself: a parser that forgets one check is caught within a second."""
    monkeypatch.setattr(apps.server.protocol, "_sound", lambda value, depth: True)
    with pytest.raises(Found, match="(?s)Unicode|finite|surrogates"):
        fuzz(20, seed=7, corpus=[Input("text", b'{"type": "ping", "t": 1.5, "id": "a"}')])
