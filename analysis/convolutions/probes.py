"""Linear probes for a concept, and which terms of the layer below them they rest on.

A probe reads a concept that holds or does not, w · h + b, from what a layer computes. Accuracy alone says
little where the concept is rare, so precision, recall, F1 and the area under the ROC curve (AUC) stand beside
the base rate. A probe's weights are a vector of interest: `decompose_terms` makes its score a sum of terms,
and dropping terms, each replaced by its mean, shows which of them carry the concept. AUC is what to judge by:
it does not depend on a threshold, which dropping moves for any term. A concept that is linear in the input is
read at any depth, so a probe for it shows nothing about the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from analysis.convolutions.terms import TermValues
from bilinear_lm.arguments import checked
from bilinear_lm.checks import (
    require_choice,
    require_count,
    require_finite_numbers,
    require_number,
    require_seed,
)
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.ridge import solve_ridge
from bilinear_lm.shown import Words, shown

ProbeMethod = Literal["logistic", "ridge"]


@shown
@dataclass(frozen=True)
class ProbeScores:
    """How well a score above 0 tells whether a concept holds."""

    n: int
    base_rate: float
    """The share of states in which the concept holds."""
    accuracy: float
    precision: float
    """The share of those said to hold that do; 0 where none is said to."""
    recall: float
    """The share of those that hold that are said to."""
    f1: float
    """The harmonic mean of precision and recall."""
    auc: float
    """The chance that a state in which it holds scores above one in which it does not; .5 for no relation."""


@shown
@dataclass(frozen=True)
class Probe:
    """A linear probe, score = weights · features + bias, above 0 where it says that the concept holds."""

    weights: Float[Tensor, "*shape"]
    """In the shape of one state's features: for a feature map [c, h, w], a vector of interest."""
    bias: float
    train: ProbeScores
    test: ProbeScores
    """On states that the fit did not see."""
    test_states: Int[Tensor, " n_test"]
    """The indices of those states."""

    def __call__(self, features: Float[Tensor, "n *shape"]) -> Float[Tensor, " n"]:
        """The scores of states."""
        if features.shape[1:] != self.weights.shape:
            raise InputError(
                f"features {list(features.shape)}; expected [n, {', '.join(map(str, self.weights.shape))}]"
            )
        return features.flatten(1) @ self.weights.flatten() + self.bias


@checked
def fit_probe(
    features: Float[Tensor, "n *shape"],
    labels: Bool[Tensor, " n"],
    *,
    method: ProbeMethod = "logistic",
    ridge: float = 1e-3,
    test_share: float = 0.3,
    seed: int = 0,
) -> Probe:
    """The linear probe for a concept from a layer's features in n states, fitted on some, tested on others.

    Features are standardised; weights [*shape] are given for the features as they are. "logistic" minimises
    the mean cross-entropy + ½ ridge ‖w‖² by L-BFGS; "ridge" is the regression on ±1 in closed form. Computed
    in float64.

    >>> x = torch.randn(400, 3, 4, 4)
    >>> probe = fit_probe(x, x[:, 0, 1, 1] > 1)
    >>> probe.weights.shape, probe.test.auc > 0.95
    (torch.Size([3, 4, 4]), True)

    InputError for a concept that holds in all states or in none, also among those of the fit or the test.
    """
    require_finite_numbers(features, "features of a probe")
    require_labels(labels, len(features))
    require_choice(method, get_args(ProbeMethod), "method")
    require_number(ridge, f"ridge {ridge!r}", "at least 1e-12", least=1e-12)
    require_number(test_share, f"test_share {test_share!r}", "a share between 0 and 1", least=0, most=1)
    require_seed(seed)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).to(features.device)
    n_test = round(test_share * len(features))
    test, train = order[:n_test].sort().values, order[n_test:]
    for name, rows in (("test", test), ("fit", train)):
        require_labels(labels[rows], len(rows), f"the concept in the {len(rows)} states of the {name}")
    x = features.flatten(1).double()
    mean, scale = x[train].mean(0), x[train].std(0, correction=0)
    scale = torch.where(scale == 0, 1.0, scale)
    standard, aims = (x[train] - mean) / scale, labels[train].double()
    fitted = _logistic(standard, aims, ridge) if method == "logistic" else _least(standard, aims, ridge)
    weights, bias = fitted[:-1] / scale, fitted[-1] - (fitted[:-1] * mean / scale).sum()
    scores = x @ weights + bias
    return Probe(
        weights.to(features.dtype).view(features.shape[1:]),
        float(bias),
        probe_scores(scores[train], labels[train]),
        probe_scores(scores[test], labels[test]),
        test,
    )


@checked
def probe_scores(scores: Float[Tensor, " n"], labels: Bool[Tensor, " n"]) -> ProbeScores:
    """Accuracy, precision, recall, F1 and AUC of scores, which are above 0 where the concept is said to hold.

    InputError for a concept that holds in all states or in none.
    """
    require_labels(labels, len(scores))
    said = scores > 0
    right = int((said & labels).sum())
    precision, recall = right / max(1, int(said.sum())), right / int(labels.sum())
    return ProbeScores(
        len(labels),
        float(labels.double().mean()),
        float((said == labels).double().mean()),
        precision,
        recall,
        2 * precision * recall / (precision + recall) if right else 0.0,
        float(area_under_curve(scores, labels)),
    )


@checked
def area_under_curve(scores: Float[Tensor, "*axes n"], labels: Bool[Tensor, " n"]) -> Float[Tensor, "*axes"]:
    """The AUC of scores, in float64: how often a state in which a concept holds scores above one without.

    Equal scores count half (the Mann-Whitney statistic, by ranks).

    >>> area_under_curve(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))
    tensor(0.7500, dtype=torch.float64)
    """
    require_finite_numbers(scores, "scores")
    require_labels(labels, scores.shape[-1] if scores.ndim else 0)
    values, order = scores.sort(dim=-1)
    values = values.contiguous()
    below = torch.searchsorted(values, values)  # how many are smaller
    upto = torch.searchsorted(values, values, right=True)  # and how many are not larger
    ranks = (below + upto + 1).double() / 2
    n_true = int(labels.sum())
    held = (ranks * labels[order]).sum(-1)
    return (held - n_true * (n_true + 1) / 2) / (n_true * (len(labels) - n_true))


@shown
@dataclass(frozen=True)
class TermCurve:
    """AUC of a probe against how many terms are dropped, or kept; beside control terms."""

    counts: Int[Tensor, " m"]
    auc: Float[Tensor, " m"]
    control: Float[Tensor, "n_controls m"]
    """AUC with control terms dropped or kept in the places of the terms, a row a control."""
    whole: float
    """AUC of all terms and what is direct."""
    direct: float
    """AUC of what is direct alone."""
    kept: bool
    """Whether terms are kept; else they are dropped."""

    def _told(self) -> dict[str, Any]:
        kind = "kept" if self.kept else "dropped"
        pairs = zip(self.counts.tolist(), self.auc.tolist(), strict=True)
        auc = Words(", ".join(f"{count}: {area:.3f}" for count, area in pairs))
        return {"whole": self.whole, kind: auc, "direct": self.direct, "controls": len(self.control)}


@checked
def dropping(
    values: TermValues,
    labels: Bool[Tensor, " n"],
    order: Int[Tensor, " n_terms"],
    *,
    counts: Sequence[int] = (0, 1, 2, 4, 8, 16),
    controls: Sequence[TermValues] = (),
) -> TermCurve:
    """AUC of a probe's score as its terms are dropped in an order, each replaced by its mean.

    `values` are the terms on n states, `order` their indices, first those that are dropped first. `controls`
    are values of other terms on the same states, such as those of `random_terms`: their first entries of the
    order are taken from the whole instead. Controls that are the same terms in another order are given by
    calling again with that order.

    >>> layer, x = BilinearConv2d(3, 8, 3), torch.rand(200, 3, 6, 6)
    >>> terms = decompose_terms(layer, torch.randn(8, 4, 4))
    >>> curve = dropping(terms.on(x), terms.on(x).total > 0, terms.by_weight, counts=(0, 4, 8))
    >>> curve.auc.shape
    torch.Size([3])
    """
    return _curve(values, labels, order, counts, controls, kept=False)


@checked
def keeping(
    values: TermValues,
    labels: Bool[Tensor, " n"],
    order: Int[Tensor, " n_terms"],
    *,
    counts: Sequence[int] = (0, 1, 2, 4, 8, 16, 32),
    controls: Sequence[TermValues] = (),
) -> TermCurve:
    """AUC of what is direct and the first terms of an order, every other term replaced by its mean.

    Arguments as of `dropping`; `controls` are kept in the places of the terms. Terms cancel each other: to
    keep few, order by variance over data (`TermMoments.by_variance`).
    """
    return _curve(values, labels, order, counts, controls, kept=True)


def require_labels(labels: Tensor, n: int, what: str = "the concept") -> None:
    """Raises InputError unless labels are n truth values of which some are True and some are not."""
    if labels.dtype != torch.bool or labels.shape != (n,):
        raise InputError(
            f"labels {labels.dtype} {list(labels.shape)}; expected truth values, one for each of {n} states"
        )
    n_true = int(labels.sum())
    if n_true in (0, n):
        raise InputError(
            f"{what} holds in {n_true} of {n} states; expected some in which it does and some in which it "
            "does not"
        )


def _curve(
    values: TermValues,
    labels: Tensor,
    order: Tensor,
    counts: Sequence[int],
    controls: Sequence[TermValues],
    kept: bool,
) -> TermCurve:
    for count in counts:
        require_count(
            count, f"{count} terms of an order of {len(order)}", "no more", least=0, most=len(order)
        )
    if any(control.values.shape != values.values.shape for control in controls):
        raise InputError(
            f"control terms of another shape than {list(values.values.shape)}; expected the same"
        )

    def area(of: TermValues, count: int) -> Tensor:
        first = order[:count]
        return area_under_curve(of.keep(first) if kept else values.drop(first, control=of), labels)

    areas = [torch.stack([area(each, count) for count in counts]) for each in (values, *controls)]
    return TermCurve(
        torch.tensor(list(counts)),
        areas[0],
        torch.stack(areas[1:]) if controls else areas[0].new_zeros(0, len(counts)),
        float(area_under_curve(values.total, labels)),
        float(area_under_curve(values.direct, labels)),
        kept,
    )


def _least(x: Tensor, aims: Tensor, ridge: float) -> Tensor:
    """Weights and bias of the regression on ±1, [d + 1]; x is centred, so the bias is the mean."""
    y = 2 * aims - 1
    weights = solve_ridge(x.T @ x, (x.T @ (y - y.mean())).unsqueeze(1), ridge)
    return torch.cat([weights.squeeze(1), y.mean().unsqueeze(0)])


def _logistic(x: Tensor, aims: Tensor, ridge: float, steps: int = 200) -> Tensor:
    """Weights and bias of the logistic regression, [d + 1]."""
    fitted = x.new_zeros(x.shape[1] + 1).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [fitted],
        max_iter=steps,
        tolerance_grad=1e-8,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = x @ fitted[:-1] + fitted[-1]
        value = F.binary_cross_entropy_with_logits(logits, aims) + ridge / 2 * fitted[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return fitted.detach()
