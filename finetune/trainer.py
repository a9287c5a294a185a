"""transformers' Trainer with a teacher, annealed gates, and a log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from tqdm.auto import tqdm
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from bilinear_lm.checkpoints.huggingface import quiet
from bilinear_lm.errors import InputError
from bilinear_lm.evaluate import window_loss
from bilinear_lm.files import write_text
from finetune.annealing import linearity
from finetune.finetune_config import FinetuneConfig
from finetune.losses import divergence, stream_error
from finetune.run_folder import last_checkpoint, writing
from finetune.settings import Schedule

LOG = "log.jsonl"
_DIVERGED = 2.0
"""Times the first step's loss, or a uniform guess's where that is higher: above it a run has diverged."""
RECOMPUTE = "activation_checkpointing"
"""transformers' name for recomputing activations in the backward pass."""
if RECOMPUTE not in TrainingArguments.__dataclass_fields__:
    RECOMPUTE = "gradient_checkpointing"  # before transformers 5.23


@runtime_checkable
class Linearised(Protocol):
    """What becomes linear while training: a gate or a norm."""

    linearity: float


class DistillationTrainer(Trainer):
    """A Trainer whose loss weighs the text against a teacher: see `FinetuneConfig`."""

    def __init__(self, config: FinetuneConfig, teacher: PreTrainedModel | None, log: RunLog, **kwargs: Any):
        super().__init__(**kwargs)
        self.config, self.teacher, self.run_log = config, teacher, log
        self.add_callback(log)
        # Windows are equally long, so the loss is a mean, which the Trainer divides by `accumulation`.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
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
            outputs = model(**inputs, use_cache=False)
            return (outputs.loss, outputs) if return_outputs else outputs.loss
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

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains; whatever ends it, the bar is closed and errors have a line of their own."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.run_log.close()

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices alone: a gate's factor is to stay near 1, which is not told by its name."""
        matrices = {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
        return [name for name in super().get_decay_parameter_names(model) if name in matrices]

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        advice = "earlier checkpoints are kept: make room and go on with --resume"
        folder = Path(str(self.args.output_dir), f"checkpoint-{self.state.global_step}")
        with writing(folder, advice), quiet():
            super()._save_checkpoint(*args, **kwargs)


def trainer(
    config: FinetuneConfig,
    run: Path,
    model: nn.Module,
    teacher: PreTrainedModel | None,
    windows: torch.utils.data.Dataset,
    validation: Int[Tensor, "window pos"] | None,
    linearised: Sequence[Linearised],
    use_cpu: bool,
) -> DistillationTrainer:
    """The trainer of a run: its checkpoints, log and bar."""
    rate_schedule = "constant_with_warmup" if config.rate_schedule == "constant" else config.rate_schedule
    recompute: dict[str, Any] = {RECOMPUTE: True} if config.gradient_checkpointing else {}
    arguments = TrainingArguments(
        output_dir=str(run),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        num_train_epochs=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=rate_schedule,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        adam_beta2=config.beta2,
        max_grad_norm=config.max_grad_norm,
        bf16=config.precision == "bfloat16",
        use_cpu=use_cpu,
        seed=config.seed,
        logging_steps=config.log_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_steps=config.checkpoint_steps,
        save_total_limit=2,
        dataloader_drop_last=True,
        # Norms that have become linear leave their own weights without a gradient.
        ddp_find_unused_parameters=config.linearises,
        report_to=list(config.report_to) or "none",
        **recompute,
    )
    # One process trains on one device; on more the Trainer would copy the model at every step.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    # The settings say how precise it is, whatever `accelerate launch` was told.
    arguments.mixed_precision = "bf16" if arguments.bf16 else "no"
    log = RunLog(run / LOG, config, linearised, validation)
    made = DistillationTrainer(config, teacher, log, model=model, train_dataset=windows, args=arguments)
    if made.accelerator.is_fsdp2 and arguments.bf16:
        # Its default rounds the loss to bfloat16 as well, and adds the processes' gradients in it.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        made.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
    made.remove_callback(PrinterCallback)
    made.remove_callback(ProgressCallback)
    made.add_callback(Annealing(linearised, config.schedule, config.anneal, config.exponential_k))
    return made


class Annealing(TrainerCallback):
    """Sets how linear gates and norms are: a function of the step, so that a resumed run goes on exactly."""

    def __init__(self, linearised: Sequence[Linearised], schedule: Schedule, share: float, k: float):
        self.linearised, self.schedule, self.share, self.k = linearised, schedule, share, k

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the forward passes of a step."""
        progress = state.global_step / max(1.0, self.share * state.max_steps)
        for part in self.linearised:
            part.linearity = linearity(self.schedule, progress, self.k)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Everything is linear at the end, of however few steps."""
        for part in self.linearised:
            part.linearity = 1.0


class RunLog(TrainerCallback):
    """A bar, a file of JSON lines, and a stop where training diverges, before the weights are saved."""

    def __init__(
        self,
        path: Path,
        config: FinetuneConfig,
        linearised: Sequence[Linearised],
        validation: Int[Tensor, "window pos"] | None,
    ):
        self.path, self.config, self.linearised, self.validation = path, config, linearised, validation
        self.validation_loss: float | None = None
        self.entries: list[dict[str, Any]] = []
        self.bar: Any = None
        self.since = (0, 0.0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes up the log of a resumed run at its checkpoint."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        entries = [json.loads(line) for line in lines]
        self.entries = [entry for entry in entries if entry["step"] <= state.global_step]
        self.since = state.global_step, time.perf_counter()
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="finetune", unit=" steps")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Whatever is saved has been looked at: a checkpoint never holds diverged weights."""
        if self.bar is not None:
            self.bar.update(1)
        every = self.config.validation_steps
        due = every is not None and (state.global_step % every == 0 or state.global_step == state.max_steps)
        if self.validation is not None and due:
            model = kwargs["model"]
            self.validation_loss = window_loss(model.eval(), self.validation)
            model.train()
            control.should_log = True
        if control.should_save:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes an entry; raises InputError where the loss or its gradient is out of bounds."""
        if logs is None or "loss" not in logs:
            return
        self._require_converging(args, state, logs, kwargs["model"])
        step, at = self.since
        self.since = state.global_step, time.perf_counter()
        windows_a_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        tokens_a_step = windows_a_step * self.config.window
        passed = (state.global_step - step) * tokens_a_step
        entry = {
            "step": state.global_step,
            "tokens": state.global_step * tokens_a_step,
            "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm"),
            "learning_rate": logs["learning_rate"],
            "linearity": self.linearised[0].linearity if self.linearised else None,
            "tokens_per_second": round(passed / (self.since[1] - at)),
        }
        if self.validation_loss is not None:
            entry["validation_loss"], self.validation_loss = self.validation_loss, None
        self.entries.append(entry)
        if not state.is_world_process_zero:
            return
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.entries))
        shown = {"loss": f"{entry['loss']:.3f}", "tokens/s": entry["tokens_per_second"]}
        if self.linearised:
            shown["β"] = f"{1 - self.linearised[0].linearity:.2f}"
        self.bar.set_postfix(shown)

    def close(self) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()

    def _require_converging(
        self, args: TrainingArguments, state: TrainerState, logs: dict[str, Any], model: nn.Module
    ) -> None:
        loss, norm = logs["loss"], logs.get("grad_norm", 0.0)
        first = self.entries[0]["loss"] if self.entries else loss
        bound = _DIVERGED * max(first, math.log(model.config.vocab_size))  # type: ignore[union-attr, arg-type]
        if math.isfinite(loss) and math.isfinite(norm) and loss < bound:
            return
        kept = last_checkpoint(self.path.parent)
        saved = f"the last good checkpoint is {kept}" if kept else "no checkpoint had been saved"
        raise InputError(
            f"training diverged before step {state.global_step}: loss {loss:.3g}, gradient norm {norm:.3g} "
            f"at a learning rate of {args.learning_rate:g}; give a smaller one and start anew ({saved})"
        )
