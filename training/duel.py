"""A student and its critic, trained in turn: the critic a few times for each update of the student (two time scales,
DMD2, arXiv 2405.14867).

`Duel` is what `training.run.Run` sees as one stage: a call trains the critic and returns the student's loss. The run
keeps the student; what the critic has learned is kept beside it, so that both go on together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from training.run import Batch

Given = TypeVar("Given")


class Method(Protocol[Given]):
    """A method of distillation; also an nn.Module. scene: what both losses are computed on, made once for a batch."""

    student: nn.Module
    critic: nn.Module

    def scene(self, batch: Batch) -> Given: ...

    def generator_loss(self, scene: Given) -> tuple[Tensor, dict[str, float]]: ...

    def critic_loss(self, scene: Given) -> tuple[Tensor, dict[str, float]]: ...


@dataclass(frozen=True, slots=True)
class CriticConfig:
    """steps: updates for each of the student. warmup: updates before the first one, so that the critic knows whom it
    judges before anyone listens. betas without momentum, since what it chases moves.
    """

    steps: int = 5
    warmup: int = 50
    lr: float = 2e-4
    betas: tuple[float, float] = (0.0, 0.999)
    weight_decay: float = 0.01
    grad_clip: float = 1.0


class Duel(nn.Module, Generic[Given]):
    """Calls train the critic and return the student's loss and logs."""

    def __init__(self, method: Method[Given], config: CriticConfig | None = None) -> None:
        super().__init__()
        assert isinstance(method, nn.Module)
        self._module: nn.Module = method
        self.method, self.config = method, config or CriticConfig()
        self._parameters_of_critic = [p for p in method.critic.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters_of_critic, self.config.lr, self.config.betas, weight_decay=self.config.weight_decay
        )
        self.critic_updates = 0

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        scene = self.method.scene(batch)
        updates = self.config.steps + (self.config.warmup if self.critic_updates == 0 else 0)
        logs: dict[str, float] = {}
        for _ in range(updates):
            logs = self._train_critic(scene)
        # The critic passes the student's gradient on, and gets none itself.
        with _frozen(self._parameters_of_critic):
            loss, more = self.method.generator_loss(scene)
            return loss, logs | more

    def _train_critic(self, scene: Given) -> dict[str, float]:
        with torch.enable_grad():
            loss, logs = self.method.critic_loss(scene)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._parameters_of_critic, self.config.grad_clip)
        if torch.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.critic_updates += 1
        return logs | {"critic_norm": float(norm)}

    def save(self, path: Path) -> None:
        """The critic, its optimiser, how often it was updated, and the method's own buffers, as one file."""
        from safetensors.torch import save_file

        tensors = {f"critic.{k}": v for k, v in self.method.critic.state_dict().items()}
        tensors |= {f"buffers.{k}": v for k, v in self._module.named_buffers(recurse=False)}
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        temporary = path.with_suffix(".part")
        packed = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        save_file(packed, temporary, metadata={"updates": str(self.critic_updates)})
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """What `save` wrote."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
            self.critic_updates = int(file.metadata()["updates"])
        self.method.critic.load_state_dict(_part(tensors, "critic."))
        for name, buffer in self._module.named_buffers(recurse=False):
            buffer.copy_(tensors[f"buffers.{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, "optimizer.").items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


class _frozen:
    """Parameters without a gradient, for the body of a `with`."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)
