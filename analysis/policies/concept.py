"""A concept in a policy, layer by layer: probes, the terms that carry it, and what dropping them does.

A probe at each depth says where the concept becomes linear; at the first entry, which is linear in the image,
it says what the image alone tells. The first bilinear block makes it out of products, and the probe's weights
behind that block are a vector of interest whose terms are that product. Terms are dropped by S|λ|, each
replaced by its mean, and the AUC is held beside controls: other terms of the same sum, terms of the
same support and spectrum with their filters turned, and the same with each term's variance kept too. Strong
terms cancel each other, so a few of them vary as much as the whole score, and taking away anything of that
size costs AUC; how much is told by noise of the variance of what is dropped.

A probe behind a block has hundreds of weights: from 3,000 states it learns some of them by heart, and its
accuracy on others is lower by up to .05 than from the default number, where fit and test are .01 apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.convolutions.probes import (
    Probe,
    ProbeScores,
    TermCurve,
    area_under_curve,
    dropping,
    fit_probe,
    keeping,
)
from analysis.convolutions.terms import Terms, TermValues, decompose_terms, random_terms
from analysis.policies.states import Concept, balanced_states, holds, state_images, visited_states
from analysis.policies.truncation import require_no_bias
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.environments.policy_folder import Policy
from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolution import BilinearBlock
from bilinear_lm.networks.policy import PolicyNetwork
from bilinear_lm.shown import shown

COUNTS = (0, 1, 2, 4, 8, 16)
"""Terms dropped."""

KEPT = (0, 8, 16, 32, 64)
"""Terms kept."""

RIDGE = 1e-4
"""Penalty of probes: at the default number of states 1e-5 to 1e-3 give the same accuracy on others, ±.02."""


@shown
@dataclass(frozen=True)
class ConceptTerms:
    """A concept's probe behind one block, and its terms."""

    layer: str
    probe: Probe
    terms: Terms
    dropped: TermCurve
    """By weight; `control` are other terms of the same sum, drawn at random, a row a draw."""
    turned: TermCurve
    """The same; `control` are terms of the same support and spectrum, their filters turned at random."""
    varied: TermCurve
    """The same; `control` are turned terms, each with the variance of the one in whose place it stands."""
    noise: TermCurve
    """By weight; `control` is noise of the variance of the dropped terms' sum, added to the whole."""
    removed: Float[Tensor, " m"]
    """The standard deviation of the sum of the terms dropped by weight, over that of the whole."""
    kept: TermCurve
    """By variance; `control` are other terms of the same sum."""

    def _told(self) -> dict[str, Any]:
        return {"layer": self.layer, "auc": self.dropped.whole, "terms": len(self.terms)}


@shown
@dataclass(frozen=True)
class ConceptReport:
    """A concept in a policy."""

    concept: str
    depths: dict[str, ProbeScores]
    """Scores of a probe behind each layer, in states set so that it holds in half of them."""
    terms: ConceptTerms
    met: ProbeScores
    """Scores of that layer's probe, fitted anew, in states that the policy meets, where it is rare."""

    def _told(self) -> dict[str, Any]:
        accuracy = {name: round(scores.accuracy, 3) for name, scores in self.depths.items()}
        return {"concept": self.concept, "accuracy": accuracy, "f1_met": round(self.met.f1, 3)}


@checked
def probe_depths(
    network: PolicyNetwork, x: Float[Tensor, "n c h w"], labels: Bool[Tensor, " n"], seed: int = 0
) -> dict[str, Probe]:
    """A linear probe for a concept behind each layer of the trunk, by its name.

    >>> x = torch.rand(200, 3, 8, 8)
    >>> list(probe_depths(PolicyNetwork(), x, x[:, 0, 0, 0] > 0.5))[:2]
    ['entry0', 'block0']
    """
    with torch.no_grad():
        computed = network.trunk.activations(x)
    return {name: fit_probe(features, labels, ridge=RIDGE, seed=seed) for name, features in computed.items()}


@checked
def concept_report(
    policy: Policy,
    concept: Concept,
    *,
    layer: str = "block1",
    n: int = 24_000,
    n_met: int = 10_000,
    controls: int = 5,
    seed: int = 0,
) -> ConceptReport:
    """Probes for a concept at every depth of a policy, and the terms that carry it behind one block.

    n states are set so that the concept holds in half of them; in `n_met` that the policy meets it is rare,
    so that precision, recall and F1 mean something. InputError for a layer that is no bilinear block.
    """
    require_count(controls, f"{controls} controls")
    network = policy.network
    bilinear_block(network, layer)
    states = balanced_states(policy.mazes(n, seed=seed).states, concept, seed)
    images, labels = state_images(policy, states), holds(states, concept)
    labels = labels.to(images.device)
    probes = probe_depths(network, images, labels, seed)
    terms = concept_terms(network, layer, probes[layer], images, labels, controls=controls, seed=seed)
    met = visited_states(policy, n_met, seed)
    with torch.no_grad():
        features = network.trunk.run(state_images(policy, met), to=layer)
    there = holds(met, concept).to(features.device)
    return ConceptReport(
        concept,
        {name: probe.test for name, probe in probes.items()},
        terms,
        fit_probe(features, there, seed=seed).test,
    )


@checked
def concept_terms(
    network: PolicyNetwork,
    layer: str,
    probe: Probe,
    x: Float[Tensor, "n c h w"],
    labels: Bool[Tensor, " n"],
    *,
    counts: Sequence[int] = COUNTS,
    controls: int = 5,
    seed: int = 0,
) -> ConceptTerms:
    """The terms of a probe behind a block, dropped and kept on the states that its fit did not see.

    The sum of all terms and what is direct is the probe's score but for its bias, exactly.
    """
    block = bilinear_block(network, layer)
    test = probe.test_states
    with torch.no_grad():
        into = network.trunk.run(x[test], to=_before(network, layer))
    terms, truth = decompose_terms(block, probe.weights), labels[test]
    values, order = terms.on(into), terms.by_weight
    counts = [count for count in counts if count <= len(terms)]
    drawn = [_shuffled(len(terms), seed + number).to(order.device) for number in range(controls)]
    others = torch.stack([dropping(values, truth, each, counts=counts).auc for each in drawn])
    seeds = range(seed, seed + controls)
    turned = [random_terms(terms, each).on(into) for each in seeds]
    varied = [random_terms(terms, each, energy="variance", x=into).on(into) for each in seeds]
    keep = [count for count in KEPT if count <= len(terms)]
    by_variance = terms.moments([into]).by_variance
    beside = torch.stack([keeping(values, truth, each, counts=keep).auc for each in drawn])
    curve = dropping(values, truth, order, counts=counts)
    kept = keeping(values, truth, by_variance, counts=keep)
    removed = torch.stack([values.values[:, order[:count]].sum(1).std() for count in counts])
    return ConceptTerms(
        layer,
        probe,
        terms,
        _beside(curve, others),
        dropping(values, truth, order, counts=counts, controls=turned),
        dropping(values, truth, order, counts=counts, controls=varied),
        _beside(curve, torch.stack([_noised(values, truth, removed, each) for each in seeds])),
        removed / values.total.std(),
        _beside(kept, beside),
    )


def _beside(curve: TermCurve, control: Tensor) -> TermCurve:
    return TermCurve(curve.counts, curve.auc, control, curve.whole, curve.direct, curve.kept)


def _noised(values: TermValues, truth: Tensor, removed: Float[Tensor, " m"], seed: int) -> Tensor:
    """AUC of the whole with normal noise of each standard deviation, [m]."""
    drawn = torch.randn(len(truth), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return area_under_curve(values.total + removed[:, None] * drawn.to(removed), truth)


def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _before(network: PolicyNetwork, layer: str) -> str:
    return network.trunk.layer_names[network.trunk.index(layer) - 1]


def bilinear_block(network: PolicyNetwork, layer: str) -> BilinearBlock:
    """The bilinear block of that name; InputError for another layer or a policy that is not bilinear."""
    require_no_bias(network)
    network.trunk.index(layer)
    block = network.trunk.layers[layer]
    if not isinstance(block, BilinearBlock):
        blocks = ", ".join(name for name in network.trunk.layer_names if name.startswith("block"))
        raise InputError(f"layer {layer!r} is no bilinear block; expected one of {blocks}")
    return block
