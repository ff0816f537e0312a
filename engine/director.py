"""Decides what a session's worker does next: keeps a little ahead of the presenter, throws work away when the user
changes something, and goes on when the worker is lost.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.clock import MICROSECONDS, now_us
from engine.controller import LEVELS, BlockController, Choice
from engine.errors import AvatarError, EngineFullError, WorkerLostError
from engine.events import EventKind, SessionEvent
from engine.metrics import SessionMetrics
from engine.presenter import Presenter
from engine.timeline.timeline import Plan, Timeline
from engine.types import FRAME_US, SAMPLES_PER_FRAME, AvatarState, VideoFrame
from engine.watchdog import CHECK_EVERY_FRAMES, DriftWatchdog
from engine.worker.base import STEPS_PER_SLOT, Face, Pictures, Slot, Step, Worker

_LOG = logging.getLogger(__name__)

AHEAD, AHEAD_LISTENING = (5, 13), (2, 4)
"""Frames ahead of the presenter below which a block is planned, and up to which: little while someone is listened to,
whose voice is not known ahead."""

LIVE_BLOCK = 2
"""Longest block of a microphone's voice, frames. Planned no earlier than it must be, or sound that came late once would
be shown late for good: what is ahead of the picture by then is delay.
"""

LISTENING_US = 500_000
"""How long after the last sound of the other party the session counts as listening."""

REPLAN_US = 2 * FRAME_US
"""Least time between two changes of plan, so that a flood of them cannot stop the picture. Interrupts do not wait."""

AFTER_CUT_FRAMES = 2
"""Longest block right after a change of plan, when the answer matters more than the cost."""

MOST_LOSSES, LOSSES_US = 5, 20 * MICROSECONDS
"""So many lost slots within so long end the session: what fails at every step would do so for ever."""

REOPEN_FIRST_S, REOPEN_LONGEST_S = 0.05, 2.0

Change = Callable[[int], None]
"""Applies what the user asked for from a frame on."""


@dataclass(slots=True)
class _UnderWay:
    """A step that the worker has. fresh: it starts from the reference alone; came: frames of it that have come."""

    plan: Plan
    choice: Choice
    submitted_us: int
    fresh: bool
    came: int = 0
    late: bool = False


class Director:
    """The planning half of a session; the worker's listener."""

    def __init__(
        self,
        timeline: Timeline,
        presenter: Presenter,
        worker: Worker,
        face: Face,
        watchdog: DriftWatchdog,
        on_event: Callable[[SessionEvent], None],
    ) -> None:
        self.timeline, self.presenter, self.watchdog = timeline, presenter, watchdog
        self.controller = BlockController(worker.info)
        self.metrics = SessionMetrics()
        self._partner_us = -LISTENING_US
        self.failure: AvatarError | None = None
        self._worker, self._face, self._on_event = worker, face, on_event
        self._slot: Slot | None = None
        self._generation = 0
        self._next = 0
        self._fresh = True
        self._cut = False
        self._under_way: deque[_UnderWay] = deque()
        self._changes: dict[str, Change] = {}
        self._replanned_us = -REPLAN_US
        self._losses: deque[int] = deque(maxlen=MOST_LOSSES)
        self._wake = asyncio.Event()
        self._reopening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Take a place in the worker. Raises EngineFullError or WorkerLostError."""
        self._slot = await self._worker.open(self._face, self)

    async def run(self) -> None:
        """Plan until cancelled."""
        while True:
            self._wake.clear()
            wait_us = self._advance()
            try:
                async with asyncio.timeout(None if wait_us is None else wait_us / MICROSECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def aclose(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.gather(self._reopening, return_exceptions=True)
        slot, self._slot = self._slot, None
        if slot is not None:
            await slot.aclose()
        self._on_event = _nobody

    def wake(self) -> None:
        """Something changed: sound came, or a frame was shown."""
        self._wake.set()

    def hear_partner(self) -> None:
        """Sound of the other party came. Who begins to listen stops planning far ahead."""
        if now_us() - self._partner_us >= LISTENING_US:
            self.change("partner", lambda frame: None)
        self._partner_us = now_us()
        self._wake.set()

    def change(self, kind: str, change: Change) -> None:
        """Apply a change as early as it can still be seen; of one kind, the last wins."""
        self._changes.pop(kind, None)
        self._changes[kind] = change
        self._wake.set()

    def replan(self) -> int:
        """Throw away what was not shown and can be made anew in time; returns the first frame to be made again."""
        reaction_us = round(1000 * self.controller.reaction_ms())
        frame = self.presenter.replaceable(reaction_us)
        self._cut_back(frame)
        self.metrics.replans += 1
        self._replanned_us = now_us()
        self._wake.set()
        return frame

    def replaceable(self) -> int:
        """The frame that `replan` would go back to."""
        return self.presenter.replaceable(round(1000 * self.controller.reaction_ms()))

    def on_pictures(self, pictures: Pictures) -> None:
        """Worker's call back: make frames of pictures, with the sound and labels of their plan."""
        if pictures.generation != self._generation or not self._under_way:
            return
        step = self._under_way[0]
        if step.came == 0:
            step.late = self.presenter.paced and now_us() > self.presenter.due_us(step.plan.first)
        for image in pictures.images:
            last = pictures.last and step.came + 1 == step.plan.length
            self.presenter.add(_frame(step.plan, step.came, image, dict(pictures.timing) if last else {}))
            step.came += 1
        if pictures.last:
            self._under_way.popleft()
            self._learn(step, dict(pictures.timing))
        self._wake.set()

    def on_lost(self, error: AvatarError) -> None:
        """Worker's call back: the slot is gone. The utterance is lost, the session is not."""
        self.metrics.workers_lost += 1
        self._slot = None
        self._cut_back(self.presenter.end_index)
        self.timeline.voice.discard(fade=False)
        self._fresh = True
        self._on_event(SessionEvent(EventKind.WORKER_LOST, detail=f"{error.code}: {error}"))
        self._losses.append(now_us())
        if len(self._losses) == MOST_LOSSES and now_us() - self._losses[0] < LOSSES_US:
            self._give_up(error)
        elif self._reopening is None or self._reopening.done():
            self._reopening = asyncio.get_running_loop().create_task(self._reopen(), name="avatar-reopen")
        self._wake.set()

    def on_shown(self, frame: VideoFrame) -> None:
        """A frame went out: look at it now and then, and plan on."""
        if frame.index % CHECK_EVERY_FRAMES == 0 and not frame.frozen and self.watchdog.check(frame.image):
            self._fresh = True
            self._on_event(SessionEvent(EventKind.REANCHORED))
        self._wake.set()

    def _advance(self) -> int | None:
        """Do what can be done now; returns after how many microseconds to look again, None for when woken."""
        if self._slot is None:
            return self._freeze()
        wait_us = self._apply_changes()
        while self._slot is not None and len(self._under_way) < STEPS_PER_SLOT and not self.presenter.full:
            room = self._room()
            if room <= 0:
                return wait_us
            frames, starving_us = self._available(room)
            if not frames:
                return starving_us if wait_us is None else wait_us if starving_us is None else min(wait_us, starving_us)
            self._submit(self._choose(frames))
        return wait_us

    def _apply_changes(self) -> int | None:
        waiting = self.timeline.voice
        waiting.rewind(self._next)
        starts = waiting.startable() and self._silent_from() < self._next
        if not self._changes and not starts:
            return None
        wait_us = self._replanned_us + REPLAN_US - now_us()
        if wait_us > 0 and self.presenter.paced:
            return wait_us
        if self.presenter.paced:
            if starts and not self._changes:
                self._cut_back(self._silent_from())
                self._replanned_us = now_us()
            else:
                self.replan()
        changes, self._changes = self._changes, {}
        for change in changes.values():
            change(self._next)
        return None

    def _silent_from(self) -> int:
        """First frame that can be replaced and after which nothing is heard."""
        frame = self.replaceable()
        voiced = [f for f in range(frame, self._next) if self.timeline.voice.at(f).length]
        return voiced[-1] + 1 if voiced else frame

    def _room(self) -> int:
        ahead = self._next - self.presenter.next_index
        if not self.presenter.paced:
            return 32 - ahead
        listening = now_us() - self._partner_us < LISTENING_US
        low, high = AHEAD_LISTENING if listening else AHEAD
        if self.timeline.voice.live and not listening:
            low = min(low, math.ceil(1000 * self.controller.reaction_ms() / FRAME_US))
            high = low + LIVE_BLOCK
        return high - ahead if ahead <= low else 0

    def _available(self, room: int) -> tuple[int, int | None]:
        """Frames that may be planned now, and when to look again if there are none."""
        heard = self.timeline.voice.plannable(self._next)
        if not self.presenter.paced:
            return self._available_offline(heard, room), None
        if heard is None:
            return room, None
        if heard:
            return min(heard, room), None
        # Sound is late. It is waited for as long as silence could still be made in time.
        due_us = self.presenter.due_us(self._next) - round(1000 * self.controller.reaction_ms())
        if now_us() < due_us:
            return 0, due_us - now_us()
        self.metrics.starved_frames += 1
        return 1, None

    def _available_offline(self, heard: int | None, room: int) -> int:
        wanted = self.controller.offline(32, self._fresh).length
        if heard is None:
            return min(self.timeline.voice.remaining(self._next), room)
        return min(wanted, room) if heard >= wanted else 0

    def _choose(self, frames: int) -> Choice:
        if not self.presenter.paced:
            return self.controller.offline(frames, self._fresh)
        slack_us = self.presenter.due_us(self._next) - now_us() - self._remaining_us()
        most = min(frames, AFTER_CUT_FRAMES) if self._cut else frames
        return self.controller.choose(slack_us / 1000, most, self._fresh)

    def _remaining_us(self) -> int:
        """How long what is under way will take yet."""
        total_ms = 0.0
        for step in self._under_way:
            choice = step.choice
            total_ms += self.controller.step_ms(choice.length, choice.steps, choice.picture_every)
        elapsed_us = now_us() - self._under_way[0].submitted_us if self._under_way else 0
        return max(0, round(1000 * total_ms) - elapsed_us)

    def _submit(self, choice: Choice) -> None:
        assert self._slot is not None
        plan = self.timeline.plan(self._next, choice.length)
        step = Step(
            generation=self._generation, start_frame=plan.first, windows=plan.windows,
            partner_windows=plan.partner_windows, state=plan.state, expression=plan.expression,
            expression_given=plan.expression_given, pose=plan.pose, pose_given=plan.pose_given,
            denoising_steps=choice.steps, deadline_us=self.presenter.due_us(plan.first),
            picture_every=choice.picture_every, forget=self._fresh,
        )  # fmt: skip
        try:
            self._slot.submit(step)
        except WorkerLostError as error:
            self.on_lost(error)
            return
        self.metrics.steps += 1
        self._under_way.append(_UnderWay(plan, choice, now_us(), self._fresh))
        self._fresh = self._cut = False
        self._next += choice.length

    def _cut_back(self, frame: int) -> None:
        """Forget everything from `frame` on, made or under way."""
        self._generation += 1
        if self._slot is not None:
            self._slot.cancel(self._generation)
        self._fresh |= any(step.fresh and step.came == 0 for step in self._under_way)
        self._under_way.clear()
        self._cut = True
        self.metrics.discarded_frames += max(0, self._next - frame)
        self.presenter.drop_from(frame)
        self._next = self.presenter.end_index
        self.timeline.rewind(self._next)

    def _learn(self, step: _UnderWay, timing: dict[str, float]) -> None:
        self.metrics.observe_block(timing)
        level = self.controller.level
        self.controller.observe(step.choice.length, step.choice.steps, timing, step.late)
        if self.controller.level != level:
            self._on_event(SessionEvent(EventKind.QUALITY, detail=LEVELS[self.controller.level]))

    def _freeze(self) -> int | None:
        """Without a worker: repeat the last picture, in time."""
        last, index = self.presenter.last, self.presenter.end_index
        if last is None or not self.presenter.paced or self.failure is not None:
            return None
        wait_us = self.presenter.due_us(index) - FRAME_US // 2 - now_us()
        if wait_us > 0:
            return wait_us
        silence = np.zeros(SAMPLES_PER_FRAME, np.float32)
        self.timeline.pass_over(index + 1)
        self.presenter.add(VideoFrame(last.image, silence, index * FRAME_US, AvatarState.IDLE, frozen=True))
        self.metrics.frozen_frames += 1
        self._next = index + 1
        return FRAME_US // 2

    async def _reopen(self) -> None:
        pause_s = REOPEN_FIRST_S
        while self._slot is None:
            try:
                self._slot = await self._worker.open(self._face, self)
            except (WorkerLostError, EngineFullError):
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, REOPEN_LONGEST_S)
            except AvatarError as error:
                self._give_up(error)
                return
        self._on_event(SessionEvent(EventKind.WORKER_BACK))
        self._wake.set()

    def _give_up(self, error: AvatarError) -> None:
        """End the frames with this error; sessions of a model that keeps failing must not go round for ever."""
        self.failure = error
        self.presenter.close()


def _frame(plan: Plan, offset: int, image: NDArray[np.uint8], timing: dict[str, float]) -> VideoFrame:
    placed = plan.placed[offset]
    return VideoFrame(
        image=image,
        audio=plan.audio[offset],
        pts_us=(plan.first + offset) * FRAME_US,
        state=AvatarState(int(plan.state[offset])),
        timing=timing,
        turn_id=placed.turn_id,
        turn_samples=placed.turn_samples,
        end_of_turn=placed.last,
    )


def _nobody(event: SessionEvent) -> None:
    """Whom a closed session tells: so that it and its parts do not hold each other until they are collected."""
