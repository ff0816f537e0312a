"""The laboratory's figures, cells and table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("matplotlib", reason="needs the train extra")

from test_distribution_matching import random_clips  # noqa: E402

from apps.cli import main  # noqa: E402
from engine.model.avatar import AvatarModel, save_model  # noqa: E402
from engine.model.config import TINY  # noqa: E402
from training.codec import PROBE_OUTPUTS  # noqa: E402
from training.denoising import test_batch as batch_of  # noqa: E402
from training.duel import CriticConfig  # noqa: E402
from training.lab.cells import BEST, START, TEACHER, UNTRAINED, LabConfig, sampling_of  # noqa: E402
from training.lab.drift import drift, long_batch  # noqa: E402
from training.lab.figures import figures_of  # noqa: E402
from training.lab.run import CELLS, METHODS, PLOT, run_lab  # noqa: E402
from training.lab.table import markdown, rows_of  # noqa: E402

FRAMES = 48


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    torch.manual_seed(0)
    model = AvatarModel(TINY, PROBE_OUTPUTS).eval()
    for parameter in model.denoiser.parameters():
        # At birth attention counts for nothing.
        torch.nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    return model


def true_motion(model: AvatarModel) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Smooth motion, and a batch whose landmarks are what the probe reads from it."""
    from training.codec import LANDMARK_SCALE

    batch = batch_of(random_clips(6, FRAMES))
    size = len(batch["state"])
    wave = torch.sin(torch.linspace(0, 9, FRAMES)[None, :, None] * torch.linspace(0.5, 2, size)[:, None, None])
    noise = torch.randn(size, FRAMES, TINY.latent_channels * TINY.latent_grid**2)
    moved = wave * torch.randn(size, 1, noise.shape[-1]) + 0.1 * noise
    assert model.codec.probe is not None
    read = model.codec.probe(moved).detach()[..., -56:].unflatten(-1, (-1, 2)) / LANDMARK_SCALE
    batch["landmarks"] = batch["reference_landmarks"][:, None] + read
    shape = (TINY.latent_channels, TINY.latent_grid, TINY.latent_grid)
    return moved.unflatten(-1, shape), batch


def test_true_motion_is_perfect_and_changes_show_where_they_should(model: AvatarModel) -> None:
    torch.manual_seed(1)
    true, batch = true_motion(model)
    same = figures_of(model, true, true, batch, 8)
    assert same.r == pytest.approx(1.0, abs=1e-4) and same.lag_ms == pytest.approx(0.0, abs=1.0)
    assert [same.opening, same.energy, same.jerk, same.seam] == pytest.approx([1.0] * 4, rel=1e-4)
    assert same.frechet_frame == pytest.approx(0.0, abs=1e-3) and same.frechet_film == pytest.approx(0.0, abs=1e-3)
    late = figures_of(model, true.roll(2, 1), true, batch, 8)
    assert late.lag_ms == pytest.approx(80.0, abs=8.0) and late.r < same.r
    wide = figures_of(model, 2 * true, true, batch, 8)
    assert wide.energy == pytest.approx(4.0, rel=1e-3) and wide.frechet_film > 0.1
    trembling = figures_of(model, true + 0.2 * torch.randn_like(true), true, batch, 8)
    assert trembling.jerk > 2 and trembling.jerk > trembling.energy
    jumping = true.clone()
    jumping[:, 8:16] += 1
    assert figures_of(model, jumping, true, batch, 8).seam > 1.2


def test_cells_are_trained_once_and_become_a_table(model: AvatarModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "teacher.safetensors", {"stage": "teacher"})
    clips = random_clips(4, FRAMES)
    config = LabConfig(
        tmp_path / "lab", tmp_path / "teacher.safetensors", minutes=0.004, batch=2, seeds=(0, 1), steps=(1, 2), clips=4,
        critic=CriticConfig(steps=1, warmup=1),
    )  # fmt: skip
    told: list[str] = []
    table = run_lab(config, ("consistency", "tdm"), clips, clips, told.append)
    assert told == [f"{name}, seed {seed}" for seed in (0, 1) for name in (*UNTRAINED, "consistency", "tdm")]
    text = table.read_text()
    cells = json.loads((tmp_path / "lab" / CELLS).read_text())
    assert len(cells) == 10 and (tmp_path / "lab" / PLOT).stat().st_size > 1000
    assert {int(s) for c in cells if c["method"] == TEACHER for s in c["steps"]} == {1, 2, BEST}
    assert all(c["cost"]["updates"] >= 1 for c in cells if c["method"] not in UNTRAINED)
    rows = rows_of(cells)
    assert [(row.method, row.steps) for row in rows][:3] == [(TEACHER, 1), (TEACHER, 2), (TEACHER, BEST)]
    assert len(text.splitlines()) == 2 + len(rows)
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "lab").rglob("cell.json")}
    run_lab(config, ("consistency", "tdm"), clips, clips, told.append)
    assert written == {p: p.stat().st_mtime_ns for p in (tmp_path / "lab").rglob("cell.json")}


def cell(method: str, seed: int, r: float, film: float) -> dict[str, object]:
    names = ("r", "lag_ms", "opening", "energy", "jerk", "seam", "frechet_frame", "frechet_film")
    return {
        "method": method, "seed": seed, "steps": {"2": dict.fromkeys(names, 1.0) | {"r": r, "frechet_film": film}},
        "cost": {"updates": 10, "minutes": 1.0},
    }  # fmt: skip


def test_a_row_says_how_many_seeds_got_nearer_than_what_they_began_as() -> None:
    cells = [cell(START, s, 0.5, 4.0) for s in (0, 1, 2)]
    cells += [cell("dmd", s, 0.5 + s / 10, film) for s, film in ((0, 3.0), (1, 5.0), (2, 2.0))]
    rows = rows_of(cells)
    dmd = next(row for row in rows if row.method == "dmd")
    assert (dmd.better, dmd.seeds) == ((0, 2), 3)
    assert dmd.mean("r") == pytest.approx(0.6) and dmd.spread("r") == pytest.approx(0.1)
    assert "0, 2 of 3" in markdown(rows) and "0.600 ± 0.100" in markdown(rows)


def test_students_are_drawn_as_they_were_taught() -> None:
    for name in METHODS:
        how = sampling_of(name, 2)
        assert how is not None
        assert how.sampler == ("euler" if name in ("tdm", "accvideo", "phased", "vdit") else "consistency")
    assert sampling_of("phased", 4) is None and sampling_of("tdm", 4) is not None
    teacher = sampling_of(TEACHER, 4)
    assert teacher is not None and teacher.guidance > 1


def test_a_roll_out_over_minutes_is_judged_minute_by_minute(model: AvatarModel) -> None:
    clips = random_clips(4, 80)
    how = sampling_of("dmd", 1)
    assert how is not None
    batch = long_batch(clips, people=2, frames=200)
    assert batch["windows"].shape[:2] == (2, 200) and batch["latent"].shape[1] == 64
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.lab.drift.FPS", 1)
        static, sunk = (drift(model, clips, how, decay, minutes=2, people=2) for decay in (1.0, 0.5))
    assert [m.minute for m in static] == [1, 2]
    assert static[0].away == 0 and static[0].energy == pytest.approx(1.0)
    assert static[1].away > 0
    # Frames have left the context within the first minute already.
    assert sunk[0].frechet != static[0].frechet


def test_the_time_of_tiles_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--frames", "4", "8", "--globals", "2", "--tokens", "8", "--json"]
    assert main(["train", "tiles", *arguments]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [t["frames"] for t in told] == [4, 8] and all(t["tiled_ms"] > 0 for t in told)


def test_unknown_methods_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["--teacher", "t.safetensors", "--data", str(tmp_path), "--test", str(tmp_path), "--out", str(tmp_path)]
    assert main(["train", "lab", *paths, "--methods", "magic"]) == 2
    assert "magic" in capsys.readouterr().err
