"""`visavis bench gpu`: every row is there, measured or with its reason, and one that breaks does not end the table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from apps.bench import gpu
from apps.bench.gpu import Case, Way, all_ways, measure_gpu
from apps.bench.gpu_table import print_gpu
from apps.bench.tidy import tidy
from apps.cli import main
from engine.backends.base import Backend
from engine.backends.mock import MockBackend
from engine.bundle import find_bundle
from engine.errors import ArtefactStaleError, BackendUnavailableError


class Doubling(MockBackend):
    """Counts the sessions of each call, and paints one shade brighter."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def denoise(self, **inputs: Any) -> Any:
        self.batches.append(len(inputs["latents"]))
        return super().denoise(**inputs)

    def decode(self, *inputs: Any) -> Any:
        return np.minimum(super().decode(*inputs), 254) + np.uint8(1)


class Breaking(MockBackend):
    """Opens, computes its first block, and then fails as a library would."""

    def __init__(self) -> None:
        self.calls = 0

    def decode(self, *inputs: Any) -> Any:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("CUDA out of memory\nand a long trace")
        return super().decode(*inputs)


def way(name: str, device: str, backend: Backend | Exception) -> Way:
    def open_it(_: Case) -> Backend:
        if isinstance(backend, Exception):
            raise backend
        return backend

    return Way(name, device, open_it)


@pytest.fixture
def case() -> Case:
    return Case(find_bundle("nano"), sizes_px=(128,), batches=(1, 3), seconds=0.01)


def report(monkeypatch: pytest.MonkeyPatch, case: Case, *ways: Way) -> dict[str, Any]:
    monkeypatch.setattr(gpu, "all_ways", lambda _: iter(ways))
    document: dict[str, Any] = json.loads(json.dumps(tidy(measure_gpu(case, lambda _: None)), allow_nan=False))
    return document


def test_rows_are_compared_timed_and_batched(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    other = Doubling()
    document = report(monkeypatch, case, way("plain", "cpu", MockBackend()), way("other", "gpu", other))
    plain, row = document["rows"]
    assert document["yardstick"] == {"trained": "plain, float32"}
    assert plain["parity_db"] == 99.0
    # One shade of 255: 20 log10(255).
    assert row["parity_db"] == pytest.approx(48.13, abs=0.01)
    assert set(other.batches) == {1, 3} and set(row["batch_fps"]) == {"1", "3"}
    assert row["fps"] == row["batch_fps"]["1"] > 0 and row["first_block_ms"] > 0
    assert row["sessions"] == int(max(row["batch_fps"].values()) / 25)


def test_rows_that_cannot_run_say_why_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    document = report(
        monkeypatch, case,
        way("absent", "gpu", BackendUnavailableError("there is no GPU")),
        way("stale", "gpu", ArtefactStaleError("export it again")),
        way("breaking", "gpu", Breaking()),
        way("plain", "cpu", MockBackend()),
    )  # fmt: skip
    reasons = [row["why_not"] for row in document["rows"]]
    assert reasons == ["there is no GPU", "export it again", "RuntimeError: CUDA out of memory", ""]
    assert [row["fps"] is None for row in document["rows"]] == [True, True, True, False]


def test_the_table_shows_what_was_measured_and_why_the_rest_was_not(
    monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    from rich.console import Console

    absent = way("tensorrt", "gpu", BackendUnavailableError("there is no [GPU]"))
    document = report(monkeypatch, case, absent, way("plain", "cpu", MockBackend()))
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as shown:
        print_gpu(document, console)
    assert "plain" in shown.get() and "not measured: tensorrt, gpu: there is no [GPU]" in shown.get()


def test_the_command_ends_with_one_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "all_ways", lambda _: iter([way("plain", "cpu", MockBackend())]))
    arguments = ["--sizes", "128", "144", "--batches", "2", "--timing-seconds", "0.01", "--json"]
    assert main(["bench", "gpu", *arguments]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["size_px"] for row in document["rows"]] == [128, 144]
    assert set(document["rows"][0]["batch_fps"]) == {"1", "2"}


def _gpu_ways(case: Case) -> Iterator[Way]:
    return (each for each in all_ways(case) if each.device == "gpu")


def test_without_a_gpu_every_gpu_row_refuses_with_a_reason(case: Case) -> None:
    torch = pytest.importorskip("torch", reason="most rows are torch's")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ways = list(_gpu_ways(case))
    assert {"torch-tensorrt", "onnxruntime:cuda", "tensorrt", "tensorrt_rtx"} <= {each.name for each in ways}
    for each in ways:
        with pytest.raises(BackendUnavailableError):
            each.open(case)


def test_torch_costs_the_same_without_a_checkpoint(case: Case) -> None:
    pytest.importorskip("torch", reason="the row is torch's")
    eager = next(each for each in all_ways(case) if each.name == "torch eager, float32")
    assert not eager.trained
    assert eager.open(case).config == case.bundle.config
