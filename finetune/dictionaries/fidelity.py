"""Faithfulness of a dictionary to the activations it describes, and to the model that it is put into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.distributed import divided
from bilinear_lm.errors import InputError
from bilinear_lm.sites import Site, observed, replaced, site_activations
from bilinear_lm.text.evaluate import next_token_loss
from finetune.choices import Ablation


@dataclass(frozen=True)
class Fidelity:
    """A dictionary measured on text; losses are in nats per token."""

    fvu: float
    """Fraction of variance unexplained: Σ|y - ŷ|² / Σ|y - mean(y)|² over tokens."""
    active_features: float
    """Features active on a token, on average."""
    dead_features: int
    """Features that were active on no token."""
    loss_clean: float
    """Loss of the model as it is."""
    loss_spliced: float
    """Loss with the reconstruction in place of the activations."""
    loss_ablated: float
    """Loss with the activations ablated."""
    ablation: Ablation
    """Value that they were ablated to: zero, or their mean over the tokens."""
    n_tokens: int

    @property
    def variance_explained(self) -> float:
        """1 - fvu."""
        return 1 - self.fvu

    @property
    def loss_recovered(self) -> float | None:
        """(loss_ablated - loss_spliced) / (loss_ablated - loss_clean): 1 where nothing is lost.

        None where ablation changes nothing.
        """
        if self.loss_ablated == self.loss_clean:
            return None
        return (self.loss_ablated - self.loss_spliced) / (self.loss_ablated - self.loss_clean)


def measure_fidelity(
    model: Any,
    dictionary: Dictionary,
    batches: Sequence[Int[Tensor, "_batch pos"]],
    *,
    ablation: Ablation = "zero",
    loss_clean: float | None = None,
) -> Fidelity:
    """Measures a dictionary at its site (a transcoder at its target) on batches of token windows.

    `loss_clean` is the model's `clean_loss` on them, where it is known; else it is measured. The processes of
    a torch.distributed group share the batches.

    Raises InputError where the dictionary does not tell its site, for no batches, and for activations that do
    not vary.
    """
    site = dictionary.site
    if site is None:
        raise InputError("a dictionary without a site; load it with site=Site(layer, point) to measure it")
    if not batches:
        raise InputError("no batches to measure a dictionary on; expected one of token windows or more")
    target = dictionary.target or site

    def of_batch(some: Sequence[Tensor]) -> _Statistics:
        (seen,) = site_activations(model, some, [site, target])
        return _Statistics.of(dictionary, seen[site], seen[target])

    statistics = divided(batches, of_batch)
    constant = statistics.mean if ablation == "mean" else torch.zeros_like(statistics.mean)
    return Fidelity(
        fvu=statistics.fvu(target),
        active_features=int(statistics.active.sum()) / statistics.n_tokens,
        dead_features=int((~statistics.fired.any(dim=0)).sum()),
        loss_clean=clean_loss(model, batches) if loss_clean is None else loss_clean,
        loss_spliced=_loss(model, batches, partial(spliced, model, dictionary)),
        loss_ablated=_loss(
            model, batches, partial(replaced, model, target, lambda y: constant.to(y.dtype).expand_as(y))
        ),
        ablation=ablation,
        n_tokens=statistics.n_tokens,
    )


def clean_loss(model: Any, batches: Sequence[Int[Tensor, "_batch pos"]]) -> float:
    """Mean cross-entropy of next tokens of the model as it is, in nats per token."""
    return _loss(model, batches, nullcontext)


@dataclass(frozen=True)
class _Statistics:
    """Sums over the tokens of each batch, those of real numbers in float64."""

    total: Float[Tensor, "n_batches d_out"]
    square: Float[Tensor, " n_batches"]
    error: Float[Tensor, " n_batches"]
    active: Int[Tensor, " n_batches"]
    tokens: Int[Tensor, " n_batches"]
    fired: Bool[Tensor, "n_batches n_feat"]

    @classmethod
    def of(cls, dictionary: Dictionary, x: Tensor, y: Tensor) -> _Statistics:
        """The sums of one batch, at its activations x and those that are reconstructed, y."""
        code = dictionary.encode(x) != 0
        y = y.double()
        columns = (
            y.flatten(0, -2).sum(0),
            y.pow(2).sum(),
            (y - dictionary(x)).pow(2).sum(),
            code.sum(),
            torch.tensor(y.shape[:-1].numel(), device=y.device),
            code.flatten(0, -2).any(0),
        )
        return cls(*(column.unsqueeze(0) for column in columns))

    @property
    def n_tokens(self) -> int:
        return int(self.tokens.sum())

    @property
    def mean(self) -> Float[Tensor, " d_out"]:
        return self.total.sum(0) / self.n_tokens

    def fvu(self, target: Site) -> float:
        variance = (self.square.sum() - self.n_tokens * self.mean.pow(2).sum()).item()
        if variance <= 0:
            raise InputError(
                f"the activations at {target} are the same at all tokens; expected some that vary, to "
                "measure a dictionary of them"
            )
        return self.error.sum().item() / variance


def _loss(
    model: Any, batches: Sequence[Tensor], altered: Callable[[], AbstractContextManager[None]]
) -> float:
    """Mean cross-entropy of next tokens with the model altered."""

    def of_batch(some: Sequence[Tensor]) -> Tensor:
        return torch.tensor([float(next_token_loss(model, ids)) for ids in some], dtype=torch.float64)

    with altered():
        totals = divided(batches, of_batch)
    return sum(totals.tolist()) / sum(ids[:, 1:].numel() for ids in batches)


@contextmanager
def spliced(model: nn.Module, dictionary: Dictionary) -> Iterator[None]:
    """Lets the model go on with a dictionary's reconstruction at its site, while open.

    A transcoder reads its site and replaces its target. To be used without gradients.
    """
    site = dictionary.site
    if site is None:
        raise InputError("a dictionary without a site; load it with site=Site(layer, point) to splice it in")
    if dictionary.target in (None, site):
        with replaced(model, site, dictionary):
            yield
    else:
        seen: dict[Site, Tensor] = {}
        with (
            observed(model, site, seen),
            replaced(model, dictionary.target, lambda _: dictionary(seen[site])),
        ):
            yield
