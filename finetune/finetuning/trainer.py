"""transformers' Trainer with a teacher, and with gates that are annealed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from bilinear_lm.errors import InputError
from finetune.choices import Schedule
from finetune.finetuning.annealing import linearity
from finetune.finetuning.config import FinetuneConfig
from finetune.finetuning.losses import divergence, stream_error
from finetune.runs.log import Linearised, RunLog
from finetune.runs.trainer import RunTrainer, training_arguments

RECOMPUTE = "activation_checkpointing"
"""transformers' name for recomputing activations in the backward pass."""

if RECOMPUTE not in TrainingArguments.__dataclass_fields__:
    RECOMPUTE = "gradient_checkpointing"  # before transformers 5.23


def require_trackers(names: Sequence[str]) -> None:
    """Raises InputError unless transformers can report to each of the trackers here."""
    available = get_available_reporting_integrations() if names else []  # it imports what it looks for
    for name in names:
        if name not in available:
            listed = ", ".join(available) or "none"
            raise InputError(
                f"report_to {name}; expected a tracker that is installed, of which there are: {listed}"
            )


class DistillationTrainer(RunTrainer):
    """A trainer whose loss weighs the text against a teacher: see `FinetuneConfig`."""

    def __init__(self, config: FinetuneConfig, teacher: PreTrainedModel | None, log: RunLog, **kwargs: Any):
        super().__init__(log, **kwargs)
        self.config, self.teacher = config, teacher
        if teacher is not None:
            teacher.eval().requires_grad_(False)
            low = torch.bfloat16 if self.args.bf16 else torch.float32
            # transformers wraps `to` in a way that hides its signature.
            teacher.to(self.args.device, low)  # type: ignore[arg-type]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch of windows."""
        config, teacher = self.config, self.teacher
        if teacher is None:
            return super().compute_loss(model, inputs, return_outputs)
        streams = config.matching > 0
        ids = inputs["input_ids"]
        outputs = model(**inputs, output_hidden_states=streams, use_cache=False)
        with torch.no_grad():
            taught = teacher(input_ids=ids, output_hidden_states=streams, use_cache=False)
        loss = (1 - config.distillation) * outputs.loss
        if config.distillation:
            divergent = divergence(outputs.logits[:, :-1], taught.logits[:, :-1], config.temperature)
            loss = loss + config.distillation * divergent
        if streams:
            error = stream_error(outputs.hidden_states[1:], taught.hidden_states[1:])
            loss = loss + config.matching * error
        return (loss, outputs) if return_outputs else loss

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The names of matrices alone: a gate's factor must stay near 1, and its name does not tell that."""
        matrices = {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
        return [name for name in super().get_decay_parameter_names(model) if name in matrices]


def trainer(
    config: FinetuneConfig,
    run: Path,
    model: nn.Module,
    teacher: PreTrainedModel | None,
    windows: Dataset,
    validation: Int[Tensor, "window pos"] | None,
    linearised: Sequence[Linearised],
    use_cpu: bool,
) -> DistillationTrainer:
    """The trainer of a run: its checkpoints, log and bar."""
    rate_schedule = "constant_with_warmup" if config.rate_schedule == "constant" else config.rate_schedule
    recompute: dict[str, Any] = {RECOMPUTE: True} if config.gradient_checkpointing else {}
    arguments = training_arguments(
        config,
        run,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        lr_scheduler_type=rate_schedule,
        adam_beta2=config.beta2,
        max_grad_norm=config.max_grad_norm,
        use_cpu=use_cpu,
        logging_steps=config.log_steps,
        # Norms that have become linear leave their own weights without a gradient.
        ddp_find_unused_parameters=config.linearises,
        report_to=list(config.report_to) or "none",
        **recompute,
    )
    log = RunLog(
        run,
        "finetune",
        config.window,
        linearised=linearised,
        validation=validation,
        validation_steps=config.validation_steps,
    )
    made = DistillationTrainer(config, teacher, log, model=model, train_dataset=windows, args=arguments)
    if made.accelerator.is_fsdp2 and arguments.bf16:
        # Its default rounds the loss to bfloat16 as well, and adds the processes' gradients in it.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        made.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
    made.add_callback(Annealing(linearised, config.schedule, config.anneal, config.exponential_k))
    return made


class Annealing(TrainerCallback):
    """Sets the linearity of gates and norms by the step alone, so that a resumed run goes on exactly."""

    def __init__(self, linearised: Sequence[Linearised], schedule: Schedule, share: float, k: float):
        self.linearised, self.schedule, self.share, self.k = linearised, schedule, share, k

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sets the linearity before the forward passes of a step."""
        progress = state.global_step / max(1.0, self.share * state.max_steps)
        for part in self.linearised:
            part.linearity = linearity(self.schedule, progress, self.k)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Makes all parts linear at the end, after however few steps."""
        for part in self.linearised:
            part.linearity = 1.0
