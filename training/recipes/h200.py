"""`base` on one GPU of the H200's class in half an hour: three commands of less than ten minutes each."""

from __future__ import annotations

from training.data.takes import TakeSettings
from training.staged.plan import RunRecipe, StagePlan

_SEQUENCES = TakeSettings("sequences", 128, 96)

RECIPE = RunRecipe(
    name="h200",
    size="base",
    workers=15,
    codec=StagePlan(
        minutes=7.0, batch=192, lr=1.2e-3, take=TakeSettings("pairs", 128, 24), places=6000, fill=120, test_takes=24,
        warmup=300,
    ),
    teacher=StagePlan(
        minutes=7.5, batch=256, lr=1.5e-3, take=_SEQUENCES, places=4000, fill=160, test_takes=24, warmup=300,
    ),
    student=StagePlan(
        minutes=6.5, batch=192, lr=3e-4, take=_SEQUENCES, places=4000, fill=160, test_takes=24, warmup=100,
    ),
    articulation=(15.0, 0.0),
)  # fmt: skip
