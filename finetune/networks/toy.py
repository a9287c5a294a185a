"""Training of toy models, a whole batch at once: Adam with decoupled weight decay, and a schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.checks import require_choice, require_count, require_number, require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.networks.toy import ToyModel, ToySettings
from bilinear_lm.shown import shown
from finetune.networks.tasks import Task

ToySchedule = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class ToyTraining:
    """How toy models are trained."""

    steps: int = 2000
    lr: float = 1e-2
    weight_decay: float = 0.0
    """The decay of AdamW, a step: weights shrink by lr · weight_decay."""
    schedule: ToySchedule = "cosine"
    """How the learning rate falls to 0, if it does."""
    seed: int = 0
    """Seed of the weights and of the samples."""
    records: int = 100
    """How many times at most losses are recorded, evenly over the steps, the last one among them."""

    def __post_init__(self):
        require_count(self.steps, f"steps {self.steps}")
        require_count(self.records, f"records {self.records}")
        require_number(self.lr, f"lr {self.lr}", "above 0, 1 at most", least=1e-12, most=1)
        require_number(self.weight_decay, f"weight_decay {self.weight_decay}", "0 or more", least=0)
        require_choice(self.schedule, get_args(ToySchedule), "schedule")
        require_seed(self.seed)

    def share(self, step: int) -> float:
        """The share of the learning rate at a step, from 1 down to 0 unless it is constant."""
        if self.schedule == "constant":
            return 1.0
        done = step / self.steps
        return 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


@shown
@dataclass(frozen=True)
class ToyRun:
    """Toy models after training."""

    model: ToyModel
    steps: tuple[int, ...]
    """Steps at which losses were recorded, from 1; the last is after the last."""
    losses: Float[Tensor, "records *batch"]
    """The loss of each model at these steps, before the step is made."""

    @property
    def last(self) -> Float[Tensor, "*batch"]:
        """The last loss of each model."""
        return self.losses[-1]

    def _first(self) -> dict[str, Any]:
        return {"last": f"{float(self.last.min()):.3g} to {float(self.last.max()):.3g}"}


def new_models(
    settings: ToySettings,
    batch: tuple[int, ...],
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ToyModel:
    """A batch of untrained toy models, the same for the same seed on any device."""
    require_seed(seed)
    draws = torch.Generator().manual_seed(seed)
    return ToyModel(settings, batch, draws).to(device=device, dtype=dtype)


def train_toy(model: ToyModel, task: Task, training: ToyTraining | None = None) -> ToyRun:
    """Trains a batch of toy models, in place and side by side, on the losses of a task.

    Adam works on each number alone and the losses are summed, so that a model of the batch goes the way it
    would go by itself. The same settings give the same weights. Raises InputError where the models cannot do
    the task, and where a loss is not finite.

    >>> task = Gates.of(["AND", "XOR"])
    >>> run = train_toy(new_models(task.settings(), (5, 2)), task, ToyTraining(steps=100))
    >>> run.last.shape
    torch.Size([5, 2])
    """
    training = training or ToyTraining()
    task.require_fit(model)
    device = model.W_encoder.device
    draws = torch.Generator(device).manual_seed(training.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, training.share)
    every = -(-training.steps // training.records)
    steps, losses = [], []
    for step in range(training.steps):
        loss = task.losses(model, draws)
        if (training.steps - 1 - step) % every == 0:
            _require_finite(loss.detach(), step + 1, training.lr)
            steps.append(step + 1)
            losses.append(loss.detach())
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        schedule.step()
    return ToyRun(model, tuple(steps), torch.stack(losses))


def _require_finite(losses: Tensor, step: int, lr: float) -> None:
    bad = int((~torch.isfinite(losses)).sum())
    if bad:
        raise InputError(
            f"step {step}: the loss of {bad} of {losses.numel()} toy models is not finite; train with a "
            f"learning rate below {lr:g}"
        )
