"""Settings of training runs; the command line is made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bilinear_lm.checks import require_seed
from bilinear_lm.device import DeviceName
from bilinear_lm.errors import InputError
from finetune.bounds import COUNT, PASSES, RATES, RATES_SAY, require_bounds, require_kinds
from finetune.choices import Precision, Selection, require_texts
from finetune.pretraining.presets import UNGATED, find_preset, ordinary_config

LOGARITHMIC = "log"


@dataclass(frozen=True)
class PretrainConfig(Selection):
    """Settings of a training run; a run is repeated exactly by the same settings on the same machine."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the model: a plain Hugging Face checkpoint, its tokenizer, and train.json."""
    data: tuple[str, ...]
    """Files of text (documents separated by <|endoftext|>), JSON Lines, CSV or Parquet, compressed or not,
    folders of them, dataset folders, or names of datasets on the hub."""
    passes: tuple[float, ...] = (1.0,)
    """Passes over the data: one number for all sources, or one each."""
    preset: str = "stories"
    """Shape of the model: stories, stories-1l, ts-medium, fw-small, fw-medium, tinyllama-1.1b."""
    gate: Literal["linear", "silu", "relu", "gelu"] = "linear"
    """linear: a bilinear model; silu: its SwiGLU twin; relu, gelu: an ordinary model (a GPT-NeoX), with this
    activation in MLPs that have no gates and 3/2 of the preset's width, so that parameters match."""
    tokenizer: str | None = None
    """Folder or hub name of a tokenizer to use; by default one is trained on the data."""
    max_tokens: int | None = None
    """At most so many tokens are read from each source; needed for endless datasets."""
    validation: Path | None = None
    """Held-out file of plain text to evaluate the finished model on."""
    batch_size: int = 32
    """Windows a step; a window fills the context."""
    learning_rate: float = 3e-3
    """Peak of a cosine schedule that ends at zero."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.1
    """Decoupled weight decay of AdamW on matrices."""
    seed: int = 0
    """Seeds the weights, the order of the data and the cuts between windows."""
    precision: Precision = "bfloat16"
    """Precision of the matrix products; weights and optimiser stay in float32."""
    store: Literal["float32", "float16"] = "float32"
    """Precision of the weights on disk."""
    device: DeviceName = "auto"
    """Where to train."""
    checkpoint_steps: int = 500
    """Steps between checkpoints to resume from."""
    keep_checkpoints: tuple[str, ...] = ()
    """Steps whose models are kept in the output's folder `checkpoints`: numbers, 0 the beginning, or log for
    0, 1, 2, 4, 8, … and the last."""
    resume: bool = False
    """Go on with an interrupted run of the same settings."""

    def check(self) -> None:
        """Raises InputError where the settings do not fit together."""
        require_kinds(self)
        preset = find_preset(self.preset)
        if self.gate in UNGATED:
            ordinary_config(preset, activation=self.gate)
        require_texts(self.data, self.validation, self.selection)
        if len(self.passes) not in (1, len(self.data)):
            raise InputError(
                f"{len(self.passes)} numbers of passes for {len(self.data)} sources; give one, or one each"
            )
        if any(count <= 0 for count in self.passes):
            raise InputError(f"passes {self.passes}; expected positive numbers")
        require_bounds(self, {"passes": PASSES})
        require_bounds(self, RATES, RATES_SAY)
        for name in ("max_tokens", "batch_size", "checkpoint_steps"):
            require_bounds(self, {name: COUNT})
        for step in self.keep_checkpoints:
            if step != LOGARITHMIC and not (step.isascii() and step.isdecimal() and len(step) < 16):
                raise InputError(f"keep_checkpoints {step!r}; expected steps from 0, or {LOGARITHMIC}")
        require_seed(self.seed)

    def kept_steps(self, n_steps: int) -> tuple[int, ...]:
        """The steps whose models are kept in a run of `n_steps`; InputError for one beyond its end."""
        steps: set[int] = set()
        for each in self.keep_checkpoints:
            if each == LOGARITHMIC:
                steps |= {0, n_steps, *(2**power for power in range(n_steps.bit_length()))}
            else:
                steps.add(int(each))
        if steps and max(steps) > n_steps:
            raise InputError(
                f"keep_checkpoints {max(steps)}: the run has {n_steps} steps; expected steps up to that"
            )
        return tuple(sorted(steps))

    @property
    def passes_by_source(self) -> tuple[float, ...]:
        """The number of passes over each source."""
        return self.passes if len(self.passes) == len(self.data) else self.passes * len(self.data)
