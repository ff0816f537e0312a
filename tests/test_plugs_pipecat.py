"""The Pipecat plug in a real pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import pytest

pytest.importorskip("pipecat", reason="pipecat-ai is not installed: make test-plugs")

from pipecat.frames.frames import (  # noqa: E402
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputImageRawFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed  # noqa: E402
from pipecat.tests.utils import SleepFrame, run_test  # noqa: E402

from apps.plugs import pipecat_service  # noqa: E402
from apps.plugs.avatar import Source  # noqa: E402
from engine.errors import WorkerBrokenError  # noqa: E402
from tests.plugs import MOCK, PATIENCE_S, tone  # noqa: E402
from visavis.pipecat import VisavisVideoService  # noqa: E402

RATE_HZ = 24_000


def utterance(context_id: str, seconds: float) -> list[Frame]:
    pcm, step = tone(seconds, RATE_HZ), RATE_HZ // 5
    spoken = [TTSAudioRawFrame(pcm[i : i + step], RATE_HZ, 1, context_id) for i in range(0, len(pcm), step)]
    return [TTSStartedFrame(context_id), *spoken, TTSStoppedFrame(context_id)]


class Ear(BaseObserver):
    """Knows when the avatar was heard."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = False

    async def on_push_frame(self, data: FramePushed) -> None:
        self.heard |= isinstance(data.source, VisavisVideoService) and isinstance(data.frame, TTSAudioRawFrame)

    def until_heard(self) -> Iterator[Frame]:
        """Pauses, for among the frames to send."""
        while not self.heard:
            yield SleepFrame(sleep=0.05)


def run(frames: Iterable[Frame], source: Source = MOCK, ear: Ear | None = None) -> tuple[list[Frame], list[Frame]]:
    """What came out downstream and upstream."""

    async def main() -> Any:
        service = VisavisVideoService(source)
        async with asyncio.timeout(3 * PATIENCE_S):
            return await run_test(
                service, frames_to_send=frames, start_timeout=PATIENCE_S, observers=[ear] if ear else []
            )

    down, up = asyncio.run(main())
    return list(down), list(up)


def heard(frames: Sequence[Frame]) -> dict[str | None, float]:
    """Seconds of sound by context."""
    seconds: dict[str | None, float] = {}
    for frame in frames:
        if isinstance(frame, TTSAudioRawFrame):
            seconds[frame.context_id] = seconds.get(frame.context_id, 0) + len(frame.audio) / 2 / frame.sample_rate
    return seconds


def kinds(frames: Sequence[Frame]) -> list[str]:
    """Names without pictures, runs of the same once."""
    names = [type(frame).__name__ for frame in frames if not isinstance(frame, OutputImageRawFrame)]
    return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]


def test_utterances_pass_with_pictures_and_end_once_each() -> None:
    down, _ = run([*utterance("a", 0.4), *utterance("b", 0.3)])
    assert {context: round(seconds, 3) for context, seconds in heard(down).items()} == {"a": 0.4, "b": 0.3}
    assert [f.context_id for f in down if isinstance(f, TTSStoppedFrame)] == ["a", "b"]
    pictures = [f for f in down if isinstance(f, OutputImageRawFrame)]
    assert len(pictures) >= 17
    assert all(p.size == (128, 128) and p.format == "RGB" and len(p.image) == 128 * 128 * 3 for p in pictures)


def test_the_sound_is_that_of_the_tts_at_its_rate() -> None:
    down, _ = run(utterance("a", 0.4))
    sound = [f for f in down if isinstance(f, TTSAudioRawFrame)]
    assert {f.sample_rate for f in sound} == {RATE_HZ}
    assert b"".join(f.audio for f in sound) == tone(0.4, RATE_HZ)


def test_an_end_is_told_after_its_last_sound() -> None:
    down, _ = run(utterance("a", 0.2))
    assert kinds(down) == ["TTSStartedFrame", "TTSAudioRawFrame", "TTSStoppedFrame"]


def test_an_interruption_cuts_and_what_follows_is_whole() -> None:
    ear = Ear()
    down, _ = run(
        chain(utterance("long", 20), ear.until_heard(), [InterruptionFrame()], utterance("next", 0.3)), ear=ear
    )
    cut = next(i for i, frame in enumerate(down) if isinstance(frame, InterruptionFrame))
    assert 0 < heard(down[:cut]).get("long", 0) < 10
    # What was under way to the sink when the interruption overtook it is one frame at most.
    assert heard(down[cut:]).get("long", 0) <= 0.041
    assert round(heard(down)["next"], 3) == 0.3
    assert [f.context_id for f in down if isinstance(f, TTSStoppedFrame)] == ["next"]


def test_the_users_voice_passes() -> None:
    users = [UserStartedSpeakingFrame(), InputAudioRawFrame(tone(0.1, 16_000), 16_000, 1), UserStoppedSpeakingFrame()]
    down, _ = run([*users, SleepFrame(sleep=0.1)])
    assert kinds(down) == [type(frame).__name__ for frame in users]


def test_without_an_avatar_the_voice_passes_and_the_pipeline_is_told() -> None:
    down, up = run(utterance("a", 0.3), Source(portrait="nowhere.jpg", model="mock"))
    assert round(heard(down)["a"], 3) == 0.3
    assert [type(frame) for frame in up] == [ErrorFrame]
    assert "file_missing" in up[0].error  # type: ignore[attr-defined]


def test_an_avatar_lost_in_the_middle_ends_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    lose = asyncio.Event

    class Broken:
        def __init__(self) -> None:
            self.flushed = lose()

        async def frames(self) -> AsyncIterator[Any]:
            await self.flushed.wait()
            raise WorkerBrokenError("crashed too often")
            yield

        def push_audio(self, pcm: Any, sample_rate: int = 0) -> int:
            return 1

        def flush(self) -> None:
            self.flushed.set()

    class Opened:
        def __init__(self, *_: object) -> None: ...

        async def __aenter__(self) -> Broken:
            return Broken()

        async def __aexit__(self, *_: object) -> None: ...

    monkeypatch.setattr(pipecat_service, "open_avatar", Opened)
    down, up = run([*utterance("a", 0.1), SleepFrame(sleep=0.3), *utterance("b", 0.1)])
    assert [f.context_id for f in down if isinstance(f, TTSStoppedFrame)] == ["a", "b"]
    assert round(heard(down)["b"], 3) == 0.1
    assert any(isinstance(frame, ErrorFrame) for frame in up)
