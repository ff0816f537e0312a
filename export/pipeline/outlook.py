"""What N devices would bring, by simulation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from export.pipeline.costs import Costs
from export.pipeline.layouts import one_device, session_bound, shared_decoder, spread_steps
from export.pipeline.simulate import Layout, simulate

FPS = 25
"""Of a session that is held live."""
_BLOCKS = 32


@dataclass(frozen=True, slots=True)
class Outlook:
    """A layout over `devices` devices, for so many sessions that take turns. fps: of all sessions together, once it is
    full. first_ms: until the first block has passed; latency_ms: of a block that meets no other one, as that of a live
    session does. bubble_share: of the devices' time in which they wait, once it is full. live_sessions: at 25 frames a
    second by that rate. trained: whether a model as ours is trained can run so.
    """

    layout: str
    devices: int
    sessions: int
    fps: float
    fps_a_session: float
    first_ms: float
    latency_ms: float
    bubble_share: float
    live_sessions: int
    trained: bool


def look_ahead(costs: Costs, devices: Sequence[int], sessions: Sequence[int]) -> list[Outlook]:
    """Every layout for every number of devices and of sessions."""
    return [
        _outlook(layout, copies, number, held, costs, trained)
        for number in devices
        for held in sessions
        for layout, copies, trained in _layouts(number, held, costs)
    ]


def session_fps(costs: Costs, devices: int) -> float:
    """The most that one session's dependencies allow, see export.pipeline.layouts."""
    return 1e3 * costs.block.frames / session_bound(costs).block_ms(devices)


def _layouts(devices: int, sessions: int, costs: Costs) -> Iterator[tuple[Layout, int, bool]]:
    """Layouts, how many of them stand side by side, and whether our models can run so."""
    yield one_device(costs), min(devices, sessions), True
    if devices >= 2:
        yield shared_decoder(devices, costs), 1, True
    if 3 <= devices <= costs.block.calls + 1:
        yield spread_steps(devices, costs), 1, True
        yield spread_steps(devices, costs, stale_blocks=devices - 2), 1, False


def _outlook(layout: Layout, copies: int, devices: int, sessions: int, costs: Costs, trained: bool) -> Outlook:
    """copies: of the layout, among which the sessions are divided as evenly as can be; the fullest one counts."""
    most = -(-sessions // copies)
    schedule = simulate(layout, _BLOCKS, most)
    fps = 1e3 * costs.block.frames / schedule.block_ms * (sessions / most)
    busy_ms = sum(stage.ms for stage in layout.stages) * sessions / most
    return Outlook(
        layout=f"{layout.name}, {copies} side by side" if copies > 1 else layout.name,
        devices=devices,
        sessions=sessions,
        fps=fps,
        fps_a_session=fps / sessions,
        first_ms=schedule.first_ms,
        latency_ms=layout.passage_ms,
        bubble_share=max(0.0, 1 - busy_ms / (devices * schedule.block_ms)),
        live_sessions=int(fps / FPS),
        trained=trained,
    )
