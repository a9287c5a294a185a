"""sparsify's Trainer with checkpoints that can be relied on; to be imported where sparsify is there.

sparsify saves over what it saved before, and forgets that its optimizer evaluates at other weights than it
trains. Here each checkpoint has a folder of its own, and a run that goes on from one ends in the same bytes.
"""

from __future__ import annotations

import shutil
import traceback
from pathlib import Path

import sparsify

from bilinear_lm.files import read_json, told, write_json
from finetune.runs.folder import MAKE_ROOM, Diverged, checkpoint_to_resume, checkpoints, writing
from finetune.runs.manifest import is_complete, write_manifest

KEPT = 2
"""Checkpoints; where the newest is damaged, the other one is left."""


class DictionaryTrainer(sparsify.Trainer):
    """A trainer whose `save_dir` is the folder of a run."""

    global_step: int

    def fit(self) -> None:
        """Trains from the last good checkpoint of the run, or from the start, and leaves one at the end."""
        checkpoint = checkpoint_to_resume(Path(self.cfg.save_dir))
        if checkpoint is not None and checkpoint.name == f"checkpoint-{self.n_steps}":
            return  # the result: averaging its weights back and forth would round them once more
        if checkpoint is not None:
            self.load_state(str(checkpoint))
            for optimizer in self.optimizers:  # what it saved are the averaged weights
                optimizer.train_mode = False
                optimizer.train()
        try:
            super().fit()
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # which ends its bar: errors have a line of their own
            raise

    @property
    def n_steps(self) -> int:
        """Steps of the whole run."""
        return len(self.dataset) // self.cfg.batch_size

    def save(self) -> None:
        """Writes a checkpoint; sparsify calls it before it counts the step, but for the last time.

        Raises Diverged where weights are not finite: no checkpoint has any such.
        """
        before = self.global_step
        if before + 1 == self.n_steps:
            return  # the one at the end follows at once
        self.global_step = min(before + 1, self.n_steps)
        self._require_finite()
        run = Path(self.cfg.save_dir)
        self.cfg.run_name = f"checkpoint-{self.global_step}"
        folder = run / self.cfg.run_name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with writing(folder, MAKE_ROOM):
                super().save()
                settings = folder / "config.json"  # which nothing reads, and says where the run lies
                write_json(settings, read_json(settings) | {"save_dir": told(self.cfg.save_dir)})
                write_manifest(folder)
        finally:
            if not is_complete(folder):
                shutil.rmtree(folder, ignore_errors=True)
        self.global_step = before
        for old in checkpoints(run)[KEPT:]:
            shutil.rmtree(old)

    def _require_finite(self) -> None:
        for name, coder in self.saes.items():
            if not all(weights.isfinite().all() for weights in coder.parameters()):
                rate = self.optimizers[0].param_groups[0]["lr"]
                raise Diverged(
                    f"training diverged before step {self.global_step + 1}: NaN or infinity in the "
                    f"dictionary of {name} at a learning rate of {rate:g}; give a smaller one and start anew"
                )
