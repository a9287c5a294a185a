"""The display and the record of a training run: a bar, a log, and the judgement whether it converges."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bilinear_lm.files import write_text
from bilinear_lm.text.evaluate import window_loss
from finetune.runs.folder import Diverged, newest_checkpoint

LOG = "log.jsonl"

_DIVERGED = 2.0
"""Multiple of the first step's loss, or of a uniform guess's if higher, above which a run has diverged."""


@runtime_checkable
class Linearised(Protocol):
    """A part that becomes linear while training: a gate or a norm."""

    linearity: float


class RunLog(TrainerCallback):
    """A bar, a file of JSON lines in the run's folder, and a stop where training diverges."""

    def __init__(
        self,
        run: Path,
        name: str,
        window: int,
        *,
        linearised: Sequence[Linearised] = (),
        validation: Int[Tensor, "window pos"] | None = None,
        validation_steps: int | None = None,
    ):
        self.path, self.name, self.window, self.linearised = run / LOG, name, window, linearised
        self.validation, self.validation_steps = validation, validation_steps
        self.validation_loss: float | None = None
        self.entries: list[dict[str, Any]] = []
        self.bar: Any = None
        self.since = (0, 0.0)

    def keep(self, folder: Path) -> None:
        """Writes the entries into a folder, such as a checkpoint."""
        write_text(folder / LOG, "".join(json.dumps(line) + "\n" for line in self.entries))

    def take_up(self, checkpoint: Path) -> None:
        """Goes on from the entries that a checkpoint keeps."""
        self.entries = read_log(checkpoint)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begins the bar, of a resumed run at its checkpoint."""
        self.since = state.global_step, time.perf_counter()
        if state.is_world_process_zero:
            self.keep(self.path.parent)
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.name, unit=" steps")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluates where it is due, and asks for an entry in the log for every checkpoint."""
        if self.bar is not None:
            self.bar.update(1)
        every = self.validation_steps
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
        self.require_converging(args, state.global_step, logs["loss"], logs.get("grad_norm"), kwargs["model"])
        step, at = self.since
        self.since = state.global_step, time.perf_counter()
        windows_a_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        tokens_a_step = windows_a_step * self.window
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
        self.keep(self.path.parent)
        shown = {"loss": f"{entry['loss']:.3f}", "tokens/s": entry["tokens_per_second"]}
        if self.linearised:
            shown["β"] = f"{1 - self.linearised[0].linearity:.2f}"
        self.bar.set_postfix(shown)

    def close(self) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()

    def require_converging(
        self, args: TrainingArguments, step: int, loss: float, norm: float | None, model: nn.Module
    ) -> None:
        """Raises Diverged where the loss before a step, or the norm of its gradient, is out of bounds."""
        first = self.entries[0]["loss"] if self.entries else loss
        bound = _DIVERGED * max(first, math.log(model.config.vocab_size))  # type: ignore[union-attr, arg-type]
        if math.isfinite(loss) and math.isfinite(norm or 0.0) and loss < bound:
            return
        kept = newest_checkpoint(self.path.parent)
        saved = f"the last good checkpoint is {kept}" if kept else "no checkpoint had been saved"
        gradient = "" if norm is None else f", gradient norm {norm:.3g}"
        raise Diverged(
            f"training diverged before step {step}: loss {loss:.3g}{gradient} at a learning rate of "
            f"{args.learning_rate:g}; give a smaller one and start anew ({saved})"
        )


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The entries of the log in a folder."""
    return [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
