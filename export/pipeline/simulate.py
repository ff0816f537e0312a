"""Blocks through stages, one event after the other: when each stage begins and ends each block.

The rules are those of the runtime (engine.ahead, engine.pipeline.chain). A stage is a thread that takes blocks in their
order; it takes the next one once it has put the last one down; between two stages lie at most `depth` blocks, and a
stage that cannot put its block down waits. A place runs one stage at a time, the one that could begin first, and of
several the one with the oldest block. A block's first step waits for what it attends to, the context of the session's
block before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StageCost:
    """ms: of a block, first_ms: of a session's first. places: block j is made at places[j % len(places)], by as many
    threads. after: stages that hand it the block, none for the first one. handed_ms: until a stage at another place has
    what this one made.
    """

    name: str
    ms: float
    first_ms: float
    places: tuple[str, ...]
    after: tuple[str, ...] = ()
    handed_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Feedback:
    """Stage `waits` begins a block of a session only when stage `on` has ended the block that is `blocks` earlier.
    handed_ms: what it takes to bring the keys and values over, when the two are at different places.
    """

    waits: str
    on: str
    blocks: int = 1
    handed_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Layout:
    """Stages in the order of their work, every one after those that it names."""

    name: str
    stages: tuple[StageCost, ...]
    feedback: Feedback | None = None
    depth: int = 1

    @property
    def passage_ms(self) -> float:
        """A block's way through all stages when it meets no other one, as that of a live session does."""
        passed: dict[str, float] = {}
        for stage in self.stages:
            came = [passed[before.name] + self._handed_ms(before, stage) for before in self._before(stage)]
            passed[stage.name] = max(came, default=0.0) + stage.ms
        return passed[self.stages[-1].name]

    def _before(self, stage: StageCost) -> list[StageCost]:
        return [before for before in self.stages if before.name in stage.after]

    @staticmethod
    def _handed_ms(before: StageCost, stage: StageCost) -> float:
        return 0.0 if before.places == stage.places else before.handed_ms

    @property
    def places(self) -> list[str]:
        return list(dict.fromkeys(place for stage in self.stages for place in stage.places))


@dataclass(frozen=True, slots=True)
class Ran:
    """Stage number `stage` worked on job `job` (block * sessions + session)."""

    stage: int
    job: int
    place: str
    begin_ms: float
    end_ms: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """What came of a layout. ran: in the order in which it began."""

    layout: Layout
    sessions: int
    blocks: int
    ran: tuple[Ran, ...]

    @property
    def ends_ms(self) -> list[float]:
        """When each job had passed the last stage."""
        last = len(self.layout.stages) - 1
        return [ran.end_ms for ran in sorted(self.ran, key=lambda ran: ran.job) if ran.stage == last]

    @property
    def makespan_ms(self) -> float:
        return max(self.ends_ms)

    @property
    def first_ms(self) -> float:
        """Until the first block of all has passed."""
        return self.ends_ms[0]

    @property
    def block_ms(self) -> float:
        """Time a block, all sessions together, while the pipeline is full: over the middle half."""
        ends = sorted(self.ends_ms)
        half, quarter = max(1, len(ends) // 2), len(ends) // 4
        return (ends[quarter + half - 1] - ends[quarter - 1]) / half if quarter else ends[-1] / len(ends)

    def busy_share(self) -> dict[str, float]:
        """Of each place, over the whole of it: the rest is bubbles."""
        busy = dict.fromkeys(self.layout.places, 0.0)
        for ran in self.ran:
            busy[ran.place] += ran.end_ms - ran.begin_ms
        return {place: ms / self.makespan_ms for place, ms in busy.items()}


def simulate(layout: Layout, blocks: int, sessions: int = 1) -> Schedule:
    """Every session has so many blocks; they take turns. At least 4 in all, so that there is a middle."""
    assert blocks * sessions >= 4 and sessions >= 1
    return Schedule(layout, sessions, blocks, tuple(_Simulation(layout, blocks * sessions, sessions).run()))


@dataclass(slots=True)
class _Simulation:
    layout: Layout
    jobs: int
    sessions: int
    ends: dict[tuple[int, int], float] = field(default_factory=dict)
    taken: dict[tuple[int, int], float] = field(default_factory=dict)
    put: dict[tuple[int, int], float] = field(default_factory=dict)
    free: dict[str, float] = field(default_factory=dict)

    def run(self) -> list[Ran]:
        ran: list[Ran] = []
        while len(ran) < self.jobs * len(self.layout.stages):
            ready = [found for stage in range(len(self.layout.stages)) for found in self._ready(stage)]
            assert ready, "a layout whose stages wait for one another"
            # Of those that could begin at the same moment the oldest block, so that it leaves.
            begin, job, order = min((begin, job, -stage) for begin, stage, job in ready)
            ran.append(self._execute(-order, job, begin))
        return ran

    def _ready(self, stage: int) -> Sequence[tuple[float, int, int]]:
        """Begin, stage and job of each of the stage's threads that knows when it can begin."""
        threads = len(self.layout.stages[stage].places)
        found = []
        for thread in range(threads):
            job = next((j for j in range(thread, self.jobs, threads) if (stage, j) not in self.ends), None)
            begin = None if job is None else self._earliest(stage, job)
            if job is not None and begin is not None:
                found.append((begin, stage, job))
        return found

    def _earliest(self, stage: int, job: int) -> float | None:
        moments = [self._taken(stage, job), self._fed_back(stage, job)]
        if any(moment is None for moment in moments):
            return None
        return max(self.free.get(self._place(stage, job), 0.0), *(moment for moment in moments if moment is not None))

    def _execute(self, stage: int, job: int, begin: float) -> Ran:
        cost, place = self.layout.stages[stage], self._place(stage, job)
        end = begin + (cost.first_ms if job < self.sessions else cost.ms)
        self.ends[stage, job] = self.free[place] = end
        return Ran(stage, job, place, begin, end)

    def _place(self, stage: int, job: int) -> str:
        places = self.layout.stages[stage].places
        return places[job % len(places)]

    def _taken(self, stage: int, job: int) -> float | None:
        """When the stage's thread has the block; None if that is not known yet."""
        if (stage, job) not in self.taken:
            threads, moments = len(self.layout.stages[stage].places), [0.0]
            waits = [(self._put(before, job), self._handed(before, stage, job)) for before in self._before(stage)]
            if job >= threads:
                waits.append((self._put(stage, job - threads), 0.0))
            for moment, handed_ms in waits:
                if moment is None:
                    return None
                moments.append(moment + handed_ms)
            self.taken[stage, job] = max(moments)
        return self.taken[stage, job]

    def _put(self, stage: int, job: int) -> float | None:
        """When the stage has put the block down for the next ones; None if that is not known yet."""
        if (stage, job) not in self.put:
            moments = [self.ends.get((stage, job))]
            if job >= self.layout.depth:
                moments += [self._taken(after, job - self.layout.depth) for after in self._after(stage)]
            known = [moment for moment in moments if moment is not None]
            if len(known) < len(moments):
                return None
            self.put[stage, job] = max(known)
        return self.put[stage, job]

    def _fed_back(self, stage: int, job: int) -> float | None:
        feedback, stages = self.layout.feedback, self.layout.stages
        if feedback is None or stages[stage].name != feedback.waits:
            return 0.0
        earlier = job - feedback.blocks * self.sessions
        if earlier < 0:
            return 0.0
        on = next(i for i, cost in enumerate(stages) if cost.name == feedback.on)
        end = self.ends.get((on, earlier))
        apart = self._place(on, earlier) != self._place(stage, job)
        return None if end is None else end + (feedback.handed_ms if apart else 0.0)

    def _handed(self, before: int, stage: int, job: int) -> float:
        apart = self._place(before, job) != self._place(stage, job)
        return self.layout.stages[before].handed_ms if apart else 0.0

    def _before(self, stage: int) -> list[int]:
        names = self.layout.stages[stage].after
        return [i for i, cost in enumerate(self.layout.stages) if cost.name in names]

    def _after(self, stage: int) -> list[int]:
        name = self.layout.stages[stage].name
        return [i for i, cost in enumerate(self.layout.stages) if name in cost.after]
