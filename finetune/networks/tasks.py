"""Tasks of toy models: superposition, boolean gates and their compositions, modular addition.

A task makes the settings of models that can do it, and the losses of a batch of models. The last batch axis
of the models runs over the variants of the task (a sparsity, a gate, …), the axes before it over seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from bilinear_lm.checks import require_count, require_finite_numbers, require_number, require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.networks.gates import boolean_inputs, truth_table
from bilinear_lm.networks.toy import Kind, ToyModel, ToySettings


@runtime_checkable
class Task(Protocol):
    """A task, as the training of toy models uses it."""

    def require_fit(self, model: ToyModel) -> None:
        """Raises InputError for models that cannot do the task."""

    def losses(self, model: ToyModel, draws: torch.Generator) -> Float[Tensor, "*batch"]:
        """The loss of each model of the batch; samples are drawn with `draws`."""


@dataclass(frozen=True)
class Superposition:
    """Sparse features that go through an encoder narrower than they are many, and come back.

    A feature is 0 with probability `sparsity`, else uniform in [0, 1]. The loss is Σ_i importance_i (y_i −
    x_i)², without a decoder: as many hidden units as features (Elhage et al. 2022, "Toy models of
    superposition"; Pearce and Dooms for the bilinear model).
    """

    n_features: int = 20
    sparsity: tuple[float, ...] = (0.0, 0.9)
    """Probability that a feature is 0; a variant each."""
    decay: float = 1.0
    """The importance of feature i is decayⁱ."""
    correlation: float = 0.0
    """Correlation of being there of two features of one group."""
    group: int = 2
    """Features of a group, which are neighbours."""
    batch_size: int = 128
    """Samples a step."""

    def __post_init__(self):
        object.__setattr__(self, "sparsity", tuple(self.sparsity))
        require_count(self.n_features, f"n_features {self.n_features}", "at least 2", least=2)
        require_count(self.batch_size, f"batch_size {self.batch_size}")
        if not self.sparsity:
            raise InputError("sparsity (); expected one or more probabilities, (0.0, 0.9)")
        for value in self.sparsity:
            require_number(value, f"sparsity {value}", "from 0 to below 1", least=0, most=1 - 1e-6)
        require_number(self.decay, f"decay {self.decay}", "above 0, 1 at most", least=1e-6, most=1)
        require_number(self.correlation, f"correlation {self.correlation}", "0 to 1", least=0, most=1)
        n = self.n_features
        require_count(self.group, f"groups of {self.group} features", f"1 to n_features={n}", most=n)

    @property
    def importance(self) -> Float[Tensor, " n_features"]:
        """The importance of each feature."""
        return self.decay ** torch.arange(self.n_features, dtype=torch.float64)

    def settings(self, d_model: int, kind: Kind = "bilinear", tied: bool = False) -> ToySettings:
        """Settings of models with an encoder [n_features, d_model]. InputError unless it is narrower."""
        settings = ToySettings(self.n_features, d_model, self.n_features, None, kind=kind, tied=tied)
        self._require_narrow(settings)
        return settings

    def require_fit(self, model: ToyModel) -> None:
        """Raises InputError unless the encoder is narrower than the features, which it reads and returns."""
        settings, n = model.settings, self.n_features
        self._require_narrow(settings)
        if (settings.n_inputs, settings.d_mlp, settings.n_outputs) != (n, n, None):
            raise InputError(
                f"superposition of {n} features in a model of {settings.n_inputs} inputs, {settings.d_mlp} "
                f"hidden units and n_outputs={settings.n_outputs}; expected {n}, {n} and None"
            )
        _require_variants(model, len(self.sparsity), "sparsities")

    def sample(self, batch: Sequence[int], n: int, draws: torch.Generator) -> Float[Tensor, "*batch n k"]:
        """Inputs [*batch, n, n_features]; the last batch axis runs over the sparsities."""
        shape, device = (*batch, n, self.n_features), draws.device
        drawn = torch.rand(shape, generator=draws, device=device)
        if self.correlation:  # two that take the group's draw, each with √ρ, are equal with probability ρ
            groups = -(-self.n_features // self.group)
            shared = torch.rand((*batch, n, groups), generator=draws, device=device)
            shared = shared.repeat_interleave(self.group, dim=-1)
            takes = torch.rand(shape, generator=draws, device=device) < self.correlation**0.5
            drawn = torch.where(takes, shared[..., : self.n_features], drawn)
        sparsity = torch.tensor(self.sparsity, device=device)[:, None, None]
        return torch.rand(shape, generator=draws, device=device) * (drawn >= sparsity)

    def losses(self, model: ToyModel, draws: torch.Generator) -> Float[Tensor, "*batch"]:
        """Σ_i importance_i (y_i − x_i)² of each model, the mean over fresh samples."""
        x = self.sample(model.batch, self.batch_size, draws).to(model.W_encoder)
        return ((model(x) - x).square() * self.importance.to(x)).sum(-1).mean(-1)

    def _require_narrow(self, settings: ToySettings) -> None:
        if settings.d_model >= self.n_features:
            raise InputError(
                f"an encoder of width {settings.d_model} for {self.n_features} features leaves nothing to "
                f"superpose; expected d_model 1 to {self.n_features - 1}"
            )


@dataclass(frozen=True, eq=False)
class Gates:
    """Boolean functions of 0s and 1s: squared error over all inputs, a truth table a variant.

    >>> Gates.of(["AND", "XOR"]).tables
    tensor([[0., 0., 0., 1.],
            [0., 1., 1., 0.]], dtype=torch.float64)
    """

    tables: Float[Tensor, "*seeds gates corners"]
    """Truth tables, inputs in the order of `boolean_inputs`; with axes in front where seeds differ."""

    def __post_init__(self):
        require_finite_numbers(self.tables, "truth tables")
        if self.tables.ndim < 2 or self.tables.shape[-1] not in (2**k for k in range(1, 11)):
            raise InputError(
                f"truth tables {list(self.tables.shape)}; expected [gates, 2ⁿ], one entry an input"
            )

    @classmethod
    def of(cls, gates: Sequence[int | str], n: int = 2) -> Gates:
        """The task of these gates of n inputs, by name or number."""
        if isinstance(gates, str) or not len(gates):
            raise InputError(f"gates {gates!r}; expected a list of names or numbers, ['AND', 'XOR']")
        return cls(torch.stack([truth_table(gate, n) for gate in gates]))

    @cached_property
    def inputs(self) -> Float[Tensor, "corners n"]:
        """All inputs of a gate."""
        return boolean_inputs(self.tables.shape[-1].bit_length() - 1)

    def settings(
        self, d_mlp: int = 4, *, n_layers: int = 1, bias: bool = True, kind: Kind = "bilinear"
    ) -> ToySettings:
        """Settings of models whose encoder is as wide as a gate has inputs."""
        n = self.inputs.shape[1]
        return ToySettings(n, n, d_mlp, 1, n_layers, kind, bias)

    def require_fit(self, model: ToyModel) -> None:
        """Raises InputError unless the models have the inputs of a gate and one output."""
        n, settings = self.inputs.shape[1], model.settings
        if (settings.n_inputs, settings.d_out) != (n, 1):
            raise InputError(
                f"gates of {n} inputs in a model of {settings.n_inputs} inputs and {settings.d_out} outputs; "
                f"expected {n} and 1"
            )
        _require_variants(model, self.tables.shape[-2], "gates")

    def losses(self, model: ToyModel, draws: torch.Generator) -> Float[Tensor, "*batch"]:
        """Squared error of each model, the mean over all inputs."""
        x = self.inputs.to(model.W_encoder)
        return (model(x)[..., 0] - self.tables.to(x)).square().mean(-1)


def composed_table(
    n: int,
    pairs: tuple[tuple[int, int], tuple[int, int]],
    gates: tuple[int | str, int | str],
    output: int | str,
) -> Float[Tensor, " corners"]:
    """The truth table over n inputs of output(gate(x_i, x_j), gate'(x_k, x_l)): a composition of two hops.

    >>> composed_table(4, ((0, 1), (2, 3)), ("AND", "OR"), "XOR").shape
    torch.Size([16])
    """
    flat = [index for pair in pairs for index in pair]
    if len(flat) != 4 or len(set(flat)) != 4 or not all(0 <= index < n for index in flat):
        raise InputError(f"input pairs {pairs}; expected two pairs of four different inputs below n={n}")
    x = boolean_inputs(n).long()
    first, second = (
        truth_table(gate)[2 * x[:, i] + x[:, j]].long() for gate, (i, j) in zip(gates, pairs, strict=True)
    )
    return truth_table(output)[2 * first + second]


@dataclass(frozen=True)
class ModularAddition:
    """a + b mod p from two one-hot inputs, [2p] to p logits; some pairs are held out.

    The loss is cross-entropy over the pairs that are trained on. An encoder that is narrower than 2p is an
    embedding.
    """

    p: int = 17
    train_share: float = 0.6
    """Share of the p² pairs (a, b) that is trained on."""
    seed: int = 0
    """Seed of the split."""

    def __post_init__(self):
        require_count(self.p, f"p {self.p}", "3 to 199", least=3, most=199)
        require_seed(self.seed)
        got = f"train_share {self.train_share}"
        require_number(self.train_share, got, "above 0, below 1", least=1e-6, most=1 - 1e-6)
        if not 0 < round(self.train_share * self.p**2) < self.p**2:
            raise InputError(f"{got} of {self.p**2} pairs; expected pairs on either side")

    def settings(self, d_model: int = 64, d_mlp: int = 128, *, bias: bool = False) -> ToySettings:
        """Settings of models with an embedding of width d_model."""
        return ToySettings(2 * self.p, d_model, d_mlp, self.p, bias=bias)

    @cached_property
    def pairs(self) -> Int[Tensor, "pairs 2"]:
        """All pairs (a, b)."""
        return torch.tensor(list(itertools.product(range(self.p), repeat=2)))

    @cached_property
    def inputs(self) -> Float[Tensor, "pairs width"]:
        """The one-hot inputs [p², 2p]: a, then b."""
        return F.one_hot(self.pairs, self.p).flatten(1).double()

    @cached_property
    def targets(self) -> Int[Tensor, " pairs"]:
        """a + b mod p of every pair."""
        return self.pairs.sum(-1) % self.p

    @cached_property
    def trained_on(self) -> Bool[Tensor, " pairs"]:
        """The pairs that are trained on."""
        order = torch.randperm(self.p**2, generator=torch.Generator().manual_seed(self.seed))
        return order < round(self.train_share * self.p**2)

    def require_fit(self, model: ToyModel) -> None:
        """Raises InputError unless the models have 2p inputs and p outputs."""
        settings = model.settings
        if (settings.n_inputs, settings.d_out) != (2 * self.p, self.p):
            raise InputError(
                f"addition modulo {self.p} in a model of {settings.n_inputs} inputs and {settings.d_out} "
                f"outputs; expected {2 * self.p} and {self.p}"
            )

    def losses(self, model: ToyModel, draws: torch.Generator) -> Float[Tensor, "*batch"]:
        """Cross-entropy of each model, the mean over the pairs that are trained on."""
        rows = self.trained_on
        logits = model(self.inputs[rows].to(model.W_encoder))
        targets = self.targets[rows].to(logits.device).expand(logits.shape[:-1])
        return -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0].mean(-1)

    def accuracies(self, model: ToyModel) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Each model's share of right answers on the pairs that are trained on, and on those held out."""
        with torch.no_grad():
            answers = model(self.inputs.to(model.W_encoder)).argmax(-1)
        right, rows = (answers == self.targets.to(answers)).double(), self.trained_on
        return right[..., rows].mean(-1), right[..., ~rows].mean(-1)


def _require_variants(model: ToyModel, n: int, what: str) -> None:
    if (model.batch[-1:] or (1,)) != (n,):
        raise InputError(f"{n} {what} for models of batch {list(model.batch)}; expected [..., {n}], one each")
