"""The training loop all stages share: budget, schedule, EMA, resume, JSON log, sample grids, progress bar.

A stage is an `nn.Module` whose forward takes a batch and returns `(loss, logs)`, and an iterator of batches. The same
call runs on one CPU, one GPU, or under `torchrun` (one process per GPU, DistributedDataParallel).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.ema import Ema
from training.progress import progress_bar

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One stage's budget and optimiser. The run ends at `steps` or `minutes`, whichever comes first."""

    out: Path
    steps: int = 100_000
    minutes: float = 60.0
    batch: int = 32
    lr: float = 5e-4
    warmup: int = 100
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    log_every: int = 20
    sample_every: int = 500
    save_every_minutes: float = 4.0
    device: str = "auto"
    threads: int = 0

    def resolve_device(self) -> torch.device:
        if self.device != "auto":
            return torch.device(self.device)
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cpu")


def start_distributed(device: torch.device) -> tuple[int, int]:
    """(rank, world size); joins the process group when started by torchrun."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return dist.get_rank(), dist.get_world_size()


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 where it is fast: any GPU since Ampere, CPUs with AVX512-BF16 or AMX. Elsewhere plain fp32."""
    if device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def learning_rate(peak: float, step: int, progress: float, warmup: int) -> float:
    """Linear warm-up in steps, then a cosine to 2 % of the peak over the budget."""
    decay = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return peak * min(1.0, (step + 1) / warmup) * decay


class Run:
    """One run: model, optimiser, averaged weights and the resumable state under `config.out`."""

    def __init__(self, config: RunConfig, stage: nn.Module, trained: nn.Module) -> None:
        """stage: the module that is called; trained: the part of it whose weights are optimised and averaged."""
        self.config, self.stage, self.trained = config, stage, trained
        self.device = config.resolve_device()
        self.rank, self.world = start_distributed(self.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed + self.rank)
        stage.to(self.device)
        self.ema = Ema(trained, config.ema)
        parameters = [p for p in trained.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=(0.9, 0.99),
            fused=self.device.type == "cuda",
        )
        self.step, self.elapsed_s = 0, 0.0
        config.out.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def progress(self) -> float:
        """Fraction of the budget that is spent."""
        return max(self.step / self.config.steps, self.elapsed_s / (60 * self.config.minutes))

    def train(
        self,
        batches: Iterator[Batch],
        on_sample: Callable[[int], None] | None = None,
        on_save: Callable[[int], None] | None = None,
    ) -> None:
        """Run to the end of the budget. on_sample and on_save are called with averaged weights in place."""
        called: nn.Module = self.stage
        if self.world > 1:
            called = nn.parallel.DistributedDataParallel(self.stage, find_unused_parameters=True)
        self.stage.train()
        last_save, begun = self.elapsed_s, time.monotonic() - self.elapsed_s
        waited = _Waiting()
        with progress_bar(self.config.out.name, shown=self.rank == 0) as show:
            while self.progress < 1.0:
                logs = self._step(called, waited.next(batches))
                self.elapsed_s = time.monotonic() - begun
                show(self.progress, f"step {self.step} loss {logs['loss']:.4f}")
                if self.step % self.config.log_every == 0:
                    self.log(logs | {"data_wait": waited.share()})
                if on_sample and self.rank == 0 and self.step % self.config.sample_every == 0:
                    self._averaged(on_sample)
                if self.elapsed_s - last_save > 60 * self.config.save_every_minutes:
                    last_save = self.elapsed_s
                    self._save(on_save)
        if on_sample and self.rank == 0:
            self._averaged(on_sample)
        self._save(on_save)

    def _step(self, called: nn.Module, batch: Batch) -> dict[str, float]:
        rate = learning_rate(self.config.lr, self.step, self.progress, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        with autocast(self.device):
            loss, logs = called(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.grad_clip)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.ema.update(self.trained, self.step)
        self.step += 1
        return {"loss": float(loss.detach()), "grad_norm": float(norm), "lr": rate, **logs}

    def log(self, logs: dict[str, float]) -> None:
        """Append one JSON line to log.jsonl (first process only)."""
        if self.rank:
            return
        record = {"step": self.step, "seconds": round(self.elapsed_s, 1)}
        record |= {k: round(float(v), 6) for k, v in logs.items()}
        with (self.config.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _averaged(self, call: Callable[[int], None]) -> None:
        self.stage.eval()
        with self.ema.applied(self.trained), torch.no_grad():
            call(self.step)
        self.stage.train()

    def _save(self, on_save: Callable[[int], None] | None) -> None:
        if self.rank:
            return
        from safetensors.torch import save_file

        tensors = {f"weights.{k}": v for k, v in self.trained.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.shadow.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        temporary = self.config.out / "resume.part"
        meta = {"step": str(self.step), "elapsed_s": str(self.elapsed_s)}
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary, metadata=meta)
        temporary.replace(self.config.out / "resume.safetensors")
        config = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.config).items()}
        (self.config.out / "run.json").write_text(json.dumps(config, indent=1))
        if on_save:
            self._averaged(on_save)

    def _resume(self) -> None:
        path = self.config.out / "resume.safetensors"
        if not path.exists():
            return
        from safetensors import safe_open

        with safe_open(path, framework="pt", device=str(self.device)) as file:
            meta = file.metadata()
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        self.trained.load_state_dict(_part(tensors, "weights."))
        self.ema.shadow = _part(tensors, "ema.")
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, "optimizer.").items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.step, self.elapsed_s = int(meta["step"]), float(meta["elapsed_s"])


class _Waiting:
    """How much of the time goes into getting batches."""

    def __init__(self) -> None:
        self._waited_s, self._since_s = 0.0, time.monotonic()

    def next(self, batches: Iterator[Batch]) -> Batch:
        asked_s = time.monotonic()
        batch = next(batches)
        self._waited_s += time.monotonic() - asked_s
        return batch

    def share(self) -> float:
        """Share of the time since the last call, in [0, 1]."""
        now_s = time.monotonic()
        share = self._waited_s / max(now_s - self._since_s, 1e-9)
        self._waited_s, self._since_s = 0.0, now_s
        return share


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
