"""Checkpoints that a run keeps for its readers: the model at chosen steps, beside the finished one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bilinear_lm.checkpoints.save import save_folder
from bilinear_lm.checkpoints.steps import KEPT
from bilinear_lm.files import new_folder
from finetune.runs.folder import MAKE_ROOM, writing


class KeepCheckpoints(TrainerCallback):
    """Writes the model at chosen steps into the run's folder `checkpoints`, each a folder that loads."""

    def __init__(
        self,
        run: Path,
        steps: Sequence[int],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        store: Literal["float32", "float16"],
    ):
        self.folder, self.steps, self.store = run / KEPT, frozenset(steps), store
        self.trained, self.tokenizer = model, tokenizer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """The model as it begins."""
        if state.global_step == 0:
            self._keep(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """The model after a step."""
        self._keep(state)

    def _keep(self, state: TrainerState) -> None:
        step = state.global_step
        if step not in self.steps or not state.is_world_process_zero:
            return
        folder = self.folder / f"{step:0{len(str(max(self.steps)))}}"
        shutil.rmtree(folder, ignore_errors=True)  # a resumed run passes the step again
        uses_cache, self.trained.config.use_cache = self.trained.config.use_cache, True
        try:
            with writing(folder, MAKE_ROOM), new_folder(folder) as draft:
                save_folder(self.trained, self.tokenizer, draft, store=self.store)
        finally:
            self.trained.config.use_cache = uses_cache
