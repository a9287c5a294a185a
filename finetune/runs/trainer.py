"""transformers' Trainer as runs use it: whole steps, checkpoints that can be relied on, a log and a bar."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from bilinear_lm.checkpoints.huggingface import quiet
from bilinear_lm.files import read_json, write_json
from finetune.data.windows import Windows
from finetune.finetuning.config import FinetuneConfig
from finetune.pretraining.config import PretrainConfig
from finetune.runs.folder import MAKE_ROOM, checkpoint_to_resume, writing
from finetune.runs.log import RunLog
from finetune.runs.manifest import is_complete, write_manifest


def whole_steps(windows: Windows, size: int, seed: int) -> Dataset:
    """As many windows as fill steps of `size`, so that all weigh the same; random ones are left out."""
    kept = len(windows) // size * size
    if kept == len(windows):
        return windows
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    return Subset(windows, sorted(order[:kept].tolist()))


def training_arguments(config: PretrainConfig | FinetuneConfig, run: Path, **more: Any) -> TrainingArguments:
    """The Trainer's arguments: those that all kinds of runs share, and `more`."""
    arguments = TrainingArguments(
        output_dir=str(run),
        num_train_epochs=1,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        bf16=config.precision == "bfloat16",
        seed=config.seed,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_steps=config.checkpoint_steps,
        save_total_limit=2,  # where the newest is damaged, the other one is left
        dataloader_drop_last=True,
        **more,
    )
    # One process trains on one device; on more the Trainer would copy the model at every step.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    # The settings say how precise it is, whatever `accelerate launch` was told.
    arguments.mixed_precision = "bf16" if arguments.bf16 else "no"
    return arguments


def _forget_places(checkpoint: Path) -> None:
    """Takes out of a checkpoint what says where on the machine it lies; nothing reads it."""
    for name in (TRAINING_ARGS_NAME, "README.md"):
        (checkpoint / name).unlink(missing_ok=True)
    adapter = checkpoint / "adapter_config.json"
    if adapter.exists():
        write_json(adapter, read_json(adapter) | {"base_model_name_or_path": None})


def agreed(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in the first process, given to all processes."""
    results = [function(*arguments) if PartialState().is_main_process else None]
    return broadcast_object_list(results)[0]


class RunTrainer(Trainer):
    """A Trainer of equally long windows, in a run's folder."""

    def __init__(self, log: RunLog, **kwargs: Any):
        super().__init__(**kwargs)
        self.run_log = log
        self.batch: dict[str, Tensor] = {}
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(log)
        # Windows are equally long, so the loss is a mean, which the Trainer divides by `accumulation`.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False

    def train_in_folder(self) -> None:
        """Trains from the last good checkpoint of the run's folder, or from the start.

        Whatever ends it, the bar is closed and errors have a line of their own.
        """
        checkpoint = agreed(checkpoint_to_resume, Path(str(self.args.output_dir)))
        if checkpoint is not None:
            self.run_log.take_up(checkpoint)
        try:
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            self.run_log.close()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The mean cross-entropy of a batch of windows."""
        outputs = model(**inputs, use_cache=False)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Computes the gradients of a batch, and keeps the batch to measure its loss again after the step."""
        self.batch = inputs
        return super().training_step(model, inputs, *args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._require_converged(model)
        folder = Path(str(self.args.output_dir), f"checkpoint-{self.state.global_step}")
        first = self.is_world_process_zero()
        if first:  # a resumed run passes the step of one that is damaged
            shutil.rmtree(folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            with writing(folder, MAKE_ROOM), quiet():
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if first:
                    _forget_places(folder)
                    self.run_log.keep(folder)
                    write_manifest(folder)
        finally:
            if first and not is_complete(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _require_converged(self, model: nn.Module) -> None:
        """Checks the loss after a step against its bound, so that no checkpoint has diverged weights."""
        assert self.model is not None
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(self.batch))
        model.train()
        mean = self.accelerator.gather(loss.float().reshape(1)).mean().item()
        self.run_log.require_converging(self.args, self.state.global_step + 1, mean, None, self.model)
