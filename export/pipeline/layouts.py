"""Layouts to be simulated: of a plan that can be run, and over N devices of one kind.

What a session allows. A block's denoising attends to the clean keys and values of the block before, which are there
only after that block's last step and its context pass. So with n steps of c ms and a decoder of d ms, one session's
blocks follow at max((n + 1) c, d) at best, however many devices there are: denoising can run beside decoding, and
decoding can be shared out, since frames are decoded one by one; but a second device for the steps of one session waits.
Spreading steps over devices (LLIA splits U-Net and decoder; one device a step: TalkingMachines, arXiv 2506.03099, and
Live Avatar, arXiv 2512.04677) fills them only with several sessions that take turns, or when a block may attend to an
older context ("stale"), for which the model must be trained: ours is not. For many sessions whole workers side by side
are never slower, since no device waits for the slowest stage; a pipeline then gains where a device cannot hold the
whole model, or where a session's own speed counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from engine.pipeline.plan import WORKS, Place, Plan
from export.pipeline.costs import BlockCosts, Costs
from export.pipeline.simulate import Feedback, Layout, StageCost

_LAST_WORKS = ("decode", "compose", "encode")


def of_plan(plan: Plan, costs: Costs) -> Layout:
    """As the runtime does it: a thread for each stage, and the caller's own for `encode`, unless all is one stage."""
    if len(plan.stages) == 1:
        return Layout(str(plan), (_stage("all", WORKS, (_where(plan.stages[0].place),), costs, ()),), depth=plan.depth)
    stages: list[StageCost] = []
    for stage in plan.stages:
        inner = tuple(work for work in stage.works if work != "encode")
        for works in (inner, tuple(set(stage.works) - set(inner))):
            if works:
                after = (stages[-1].name,) if stages else ()
                stages.append(_stage("+".join(works), works, (_where(stage.place),), costs, after))
    return Layout(str(plan), tuple(stages), depth=plan.depth)


def one_device(costs: Costs) -> Layout:
    return Layout("all on one", (_stage("all", WORKS, ("0",), costs, ()),))


def shared_decoder(devices: int, costs: Costs) -> Layout:
    """Denoiser on the first, decoder on the others, which take blocks in turn."""
    decoders = tuple(str(number) for number in range(1, devices))
    stages = (
        _stage("denoise", ("denoise",), ("0",), costs, ()),
        _stage("decode", _LAST_WORKS, decoders, costs, ("denoise",)),
    )
    return Layout("denoise | decode" + (f" x {devices - 1}" if devices > 2 else ""), stages)


def spread_steps(devices: int, costs: Costs, stale_blocks: int = 0) -> Layout:
    """Calls of the denoiser over all devices but the last, in runs as even as can be; the decoder on the last. The pass
    that writes the context is the last call, and runs beside the decoder. stale_blocks: by how many blocks the context
    may be late.
    """
    block, first = costs.block, costs.first
    runs = _even_runs(block.calls, min(devices - 1, block.calls))
    names = [f"calls {a + 1}-{b}" if b - a > 1 else f"call {b}" for a, b in runs]
    stages = []
    for number, ((a, b), name) in enumerate(zip(runs, names, strict=True)):
        audio_ms, first_audio_ms = (block.audio_ms, first.audio_ms) if number == 0 else (0.0, 0.0)
        # The first block's steps are more, in the same proportions.
        share = (b - a) / block.calls
        ms, first_ms = audio_ms + share * block.denoise_ms, first_audio_ms + share * first.denoise_ms
        after = (names[number - 1],) if number else ()
        stages.append(StageCost(name, ms, first_ms, (str(number),), after, costs.hand_over_ms))
    clean = names[-1] if runs[-1][1] - runs[-1][0] > 1 or len(names) == 1 else names[-2]
    stages.append(_stage("decode", _LAST_WORKS, (str(len(runs)),), costs, (clean,)))
    feedback = Feedback(names[0], names[-1], 1 + stale_blocks, costs.cache_ms)
    title = f"steps over {len(runs)} | decode"
    return Layout(f"{title}, stale context" if stale_blocks else title, tuple(stages), feedback)


@dataclass(frozen=True, slots=True)
class Bound:
    """What one session's dependencies allow, milliseconds a block. denoise_ms: its calls, one after the other, which no
    number of devices shortens; decode_ms: the rest, which shares out.
    """

    denoise_ms: float
    decode_ms: float

    def block_ms(self, devices: int) -> float:
        if devices == 1:
            return self.denoise_ms + self.decode_ms
        return max(self.denoise_ms, self.decode_ms / (devices - 1))


def session_bound(costs: Costs) -> Bound:
    return Bound(costs.block.ms("denoise"), _sum(costs.block, _LAST_WORKS))


def candidates(first: Place, second: Place, depth: int = 1) -> list[Plan]:
    """Every way to lay the works over two places so that the denoiser is at the first and no more than two stages
    change places, and all of it at the first: which of them is balanced depends on the costs.
    """
    plans = [Plan.parse(f"denoise@{first}", depth)]
    for begin, end in _cuts():
        stages = [(WORKS[:begin], first), (WORKS[begin:end], second), (WORKS[end:], first)]
        plans.append(Plan.parse("/".join(f"{'+'.join(works)}@{place}" for works, place in stages if works), depth))
    return plans


def _cuts() -> list[tuple[int, int]]:
    """From which work up to which one the second place has them; some are at the first before, or after, or both."""
    return [(begin, end) for begin in range(1, len(WORKS)) for end in range(begin + 1, len(WORKS) + 1)]


def _stage(name: str, works: Sequence[str], places: tuple[str, ...], costs: Costs, after: tuple[str, ...]) -> StageCost:
    return StageCost(name, _sum(costs.block, works), _sum(costs.first, works), places, after, costs.hand_over_ms)


def _sum(block: BlockCosts, works: Sequence[str]) -> float:
    return sum(block.ms(work) for work in works)


def _where(place: Place) -> str:
    """Stages of one core set share it, whether or not one of them is in a process of its own."""
    return str(Place(place.device, place.cores))


def _even_runs(count: int, parts: int) -> list[tuple[int, int]]:
    ends = [round(i * count / parts) for i in range(parts + 1)]
    return list(pairwise(ends))
