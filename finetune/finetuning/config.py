"""Settings of conversions and of finetuning runs; the command line is made from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bilinear_lm.checks import require_seed
from bilinear_lm.device import DeviceName
from bilinear_lm.errors import InputError
from finetune.bounds import (
    COUNT,
    FROM_ZERO,
    LARGEST,
    POSITIVE,
    RATES,
    RATES_SAY,
    SHARE,
    Bounds,
    require_bounds,
    require_kinds,
)
from finetune.choices import Method, Precision, Schedule, Selection, Store, require_texts

_COUNTS = ("tokens", "lora_rank", "calibration_tokens", "batch_size", "accumulation")

_BOUNDS = {
    **dict.fromkeys((*_COUNTS, "validation_steps", "checkpoint_steps", "log_steps"), COUNT),
    "exponential_k": Bounds(-100, 100),
    "beta2": SHARE,
    "max_grad_norm": POSITIVE,
}


@dataclass(frozen=True)
class ConvertConfig(Selection):
    """Settings of a conversion without end-to-end training."""

    model: tyro.conf.Positional[str]
    """Folder or hub name of a language model with gated MLPs, as Llama, Mistral, Qwen, Gemma or Phi-3."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """New folder for the bilinear model: a plain Hugging Face checkpoint, its tokenizer, and a record."""
    method: Method = "fit"
    """fit: each MLP fitted to its outputs on the calibration text; closed-form: the best quadratic under a
    Gaussian of the same mean and covariance; linear: the activation replaced by its slope at zero."""
    calibration: tuple[str, ...] = ()
    """Files of text, JSON Lines, CSV or Parquet, dataset folders or hub datasets to measure on; `linear` does
    without."""
    calibration_tokens: int = 262_144
    """Tokens of it to use."""
    context: int = 256
    """Tokens in a window of it."""
    biases: bool | None = None
    """Whether MLPs get biases; by default where the model's family has them as an option."""
    steps: int = 1_000
    """Gradient steps of the fit for each MLP."""
    batch_size: int = 2_048
    """Tokens a step of the fit."""
    store: Store = "float32"
    """Precision of the weights on disk."""
    device: DeviceName = "auto"
    """Where to compute."""
    seed: int = 0
    """Seeds the choice of windows and of points."""

    def check(self) -> None:
        """Raises InputError where the settings do not fit together."""
        require_kinds(self)
        if self.method != "linear" and not self.calibration:
            raise InputError(f"the method {self.method} needs text; give it with --calibration")
        for name in ("calibration_tokens", "steps", "batch_size"):
            require_bounds(self, {name: COUNT})
        require_bounds(self, {"context": Bounds(2, LARGEST)})
        require_seed(self.seed)


@dataclass(frozen=True)
class FinetuneConfig(Selection):
    """Settings of a finetuning run; on one machine the same settings give the same model."""

    model: tyro.conf.Positional[str]
    """Folder or hub name of a language model with gated MLPs, as Llama, Mistral, Qwen, Gemma or Phi-3."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """New folder for the finetuned model: a plain Hugging Face checkpoint, its tokenizer, and a record."""
    data: tuple[str, ...]
    """Files of text (documents separated by <|endoftext|>), JSON Lines, CSV or Parquet, compressed or not,
    folders of them, dataset folders, or names of datasets on the hub."""
    tokens: Annotated[int | None, tyro.conf.arg(name="train-tokens")] = None
    """Tokens to train on, passing over the data as often as that takes; by default one pass."""
    arm: Literal["bilinear", "baseline"] = "bilinear"
    """bilinear: the gates become linear; baseline: the same run with the gates left alone."""
    start: Method | Literal["anneal"] = "fit"
    """Start of the bilinear arm: a conversion by one of three methods (see `convert`), or its own activation,
    which is annealed while training."""
    schedule: Schedule = "linear"
    """Schedule by which the annealed activation becomes linear."""
    anneal: float = 0.3
    """Share of the steps after which it is linear."""
    exponential_k: float = 1.0
    """k of the exponential schedule min(t e^(k - kt), 1)."""
    learnable_gates: bool = False
    """Give each hidden unit's annealed gate a factor that is trained."""
    norms: Literal["keep", "linear"] = "keep"
    """linear: every norm becomes a fixed factor, in the same share of the steps, so that the model is a
    polynomial in what its attention weights."""
    distillation: float = 0.5
    """Weight of the divergence from the model as it was, KL(it ‖ student); cross-entropy has the rest."""
    temperature: float = 1.0
    """Temperature of both distributions in the divergence, whose weight is multiplied by its square."""
    matching: float = 0.0
    """Weight of the relative squared error of the residual stream after each layer against the teacher's."""
    lora_rank: int | None = None
    """Train low-rank additions (LoRA) of this rank to all projections, merged at the end; by default all
    weights are trained."""
    calibration_tokens: int = 262_144
    """Tokens of the data that the conversion at the start measures on."""
    context: int | None = None
    """Tokens in a training window; by default the model's context, at most 2048."""
    first_token: bool = True
    """Begin each window with the tokenizer's beginning-of-sequence token, if it has one."""
    batch_size: int = 8
    """Windows on each device in one forward pass."""
    accumulation: int = 1
    """Forward passes a step."""
    learning_rate: float = 1e-4
    """Peak of the learning rate."""
    rate_schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up: it falls to zero, or stays constant."""
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.1
    """Decoupled weight decay of AdamW on matrices."""
    beta2: float = 0.95
    """AdamW's decay of squared gradients."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    precision: Precision = "bfloat16"
    """Precision of the matrix products; weights and optimiser stay in float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, far less memory."""
    store: Store = "float32"
    """Precision of the weights on disk."""
    validation: Path | None = None
    """Held-out file of plain text to evaluate on."""
    validation_steps: int | None = None
    """Steps between evaluations while training, on the first 100 windows of that text; by default none."""
    checkpoint_steps: int = 500
    """Steps between checkpoints to resume from."""
    log_steps: int = 10
    """Steps between entries of the log."""
    report_to: tuple[str, ...] = ()
    """Trackers of transformers' Trainer to report to, as tensorboard or wandb."""
    device: DeviceName = "auto"
    """Where to train; under `accelerate launch` each process takes its own."""
    seed: int = 0
    """Seeds the order of the data, the cuts between windows, and the conversion."""
    resume: bool = False
    """Go on with an interrupted run of the same settings."""
    plan: bool = False
    """Only estimate memory and time, from the model's configuration."""

    def check(self) -> None:
        """Raises InputError where the settings do not fit together."""
        require_kinds(self)
        require_texts(self.data, self.validation, self.selection)
        require_bounds(
            self,
            {"distillation": Bounds(0, 1), "temperature": POSITIVE, "matching": FROM_ZERO},
            "0 to 1, above 0 and at least 0",
        )
        share = "the share of the steps, above 0 and at most 1"
        require_bounds(self, {"anneal": Bounds(0, 1, above=True)}, share)
        if self.learnable_gates and not self.anneals:
            raise InputError("learnable_gates are annealed; give them start=anneal and the bilinear arm")
        if self.learnable_gates and self.lora_rank is not None:
            raise InputError("learnable_gates are frozen by LoRA; leave one of them out")
        require_bounds(self, RATES, RATES_SAY)
        if self.validation_steps is not None and (self.validation_steps < 1 or self.validation is None):
            raise InputError("validation_steps are at least 1, and need a validation text")
        if min(self.batch_size, self.accumulation, self.checkpoint_steps, self.log_steps) < 1:
            raise InputError("batch_size, accumulation, checkpoint_steps and log_steps are at least 1")
        for name, bounds in _BOUNDS.items():
            require_bounds(self, {name: bounds})
        require_seed(self.seed)

    def with_context(self, longest: int) -> FinetuneConfig:
        """The settings with the context filled in for a model of `longest` positions.

        Raises InputError for a context that does not fit the model.
        """
        context = min(longest, 2048) if self.context is None else self.context
        if not 2 <= context <= longest:
            raise InputError(f"a context of {context} tokens; expected 2 to the model's {longest}")
        return replace(self, context=context)

    @property
    def window(self) -> int:
        """Tokens in a training window, of settings by `with_context`."""
        assert self.context is not None
        return self.context

    @property
    def anneals(self) -> bool:
        """Whether activations become linear while training."""
        return self.arm == "bilinear" and self.start == "anneal"

    @property
    def conversion(self) -> Method | None:
        """The method of the conversion that training starts from, if it does."""
        return None if self.arm == "baseline" or self.start == "anneal" else self.start

    @property
    def linearises(self) -> bool:
        """Whether norms become linear while training."""
        return self.arm == "bilinear" and self.norms == "linear"

    @property
    def calibrates(self) -> bool:
        """Whether the start is measured on text."""
        return self.conversion is not None or self.linearises

    @property
    def teaches(self) -> bool:
        """Whether the model as it was is needed beside the one that is trained."""
        return self.distillation > 0 or self.matching > 0
