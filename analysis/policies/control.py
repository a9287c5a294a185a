"""Control of a policy by terms of its weights: eigenfilter terms scaled or removed while it acts.

An action's logit is a quadratic form of what the last block puts out, and its eigenvectors of positive
eigenvalue are vectors of interest V_i whose squares raise it. Each ⟨V_i, y⟩ is an exact sum of terms, spatial
parts times squares of eigenfilters (`analysis.convolutions.terms`). Chosen terms T_i are scaled by c:

    y' = y + (c − 1) Σ_i V_i T_i,      V_i orthonormal, T_i the sum of the chosen terms of ⟨V_i, y⟩

so each reading ⟨V_i, y⟩ has its chosen terms c times over, and whatever is orthogonal to the V_i stays. At
c = 0 they are removed. Beside them stand random terms of the same energy: the same number of terms, of random
orthonormal vectors in the space that the head reads, scaled so that the mean of ‖y' − y‖² is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.convolutions.interest import interest_vectors
from analysis.convolutions.terms import Terms, decompose_terms
from analysis.policies.states import holds, state_images
from analysis.policies.truncation import require_no_bias
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice, require_count, require_number, require_seed
from bilinear_lm.environments.episodes import Episodes, play_episodes
from bilinear_lm.environments.maze import ACTIONS, MazeStates
from bilinear_lm.environments.policy_folder import Policy
from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolution import BilinearBlock
from bilinear_lm.networks.policy import PolicyNetwork
from bilinear_lm.shown import shown

Logits = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n n_actions"]]


@shown
@dataclass(frozen=True)
class ChosenTerms:
    """Terms of a policy's last block, of orthonormal vectors of interest."""

    vectors: Float[Tensor, "k c h w"]
    """V_i."""
    terms: tuple[Terms, ...]
    """The chosen terms of each ⟨V_i, y⟩."""

    def readings(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, "n k"]:
        """T_i at inputs x of the block."""
        return torch.stack([each.values(x).sum(1) for each in self.terms], dim=1)

    def energy(self, x: Float[Tensor, "n c_in h w"]) -> float:
        """The mean of Σ_i T_i² over inputs of the block."""
        return float(self.readings(x).square().sum(1).mean())

    def _told(self) -> dict[str, Any]:
        return {"vectors": len(self.vectors), "terms": sum(map(len, self.terms))}


@shown
@dataclass(frozen=True)
class Behaviour:
    """A policy's behaviour as far as an action is concerned."""

    probability: float
    """Mean probability of the action in states that were met."""
    share: float
    """Share of its steps on unseen levels that take the action."""
    beside: float | None
    """Mean probability of the action where the cheese lies on that side; None without such states."""
    episodes: Episodes

    def change(self, other: Behaviour) -> float:
        """How much the mean probability of the action differs."""
        return abs(self.probability - other.probability)


@shown
@dataclass(frozen=True)
class Control:
    """A policy's behaviour with chosen terms scaled, beside random ones of equal energy."""

    action: str
    scale: float
    energy_share: float
    """E‖y' − y‖² as a part of E‖y‖², y what the last block puts out; the same for the random ones."""
    before: Behaviour
    chosen: Behaviour
    random: tuple[Behaviour, ...]
    """With random terms, one for each seed."""

    @property
    def change(self) -> float:
        """Change of the action's mean probability by the chosen terms."""
        return self.chosen.change(self.before)

    @property
    def random_change(self) -> float:
        """The largest change by random terms of equal energy."""
        return max(each.change(self.before) for each in self.random)

    @property
    def times_random(self) -> float:
        """The change by chosen terms as a multiple of the largest by random ones."""
        return self.change / max(self.random_change, torch.finfo(torch.float64).tiny)

    def _told(self) -> dict[str, Any]:
        return {
            "action": self.action,
            "scale": self.scale,
            "before": self.before.probability,
            "chosen": self.chosen.probability,
            "random": [each.probability for each in self.random],
        }


@checked
def action_terms(network: PolicyNetwork, action: str, k: int = 8, terms: int = 32) -> ChosenTerms:
    """The terms of largest weight, `terms` of each, of the k vectors of interest that raise an action most.

    The vectors are eigenvectors of the largest eigenvalues of (the action's logit − the mean of all).
    InputError for a policy that is not bilinear, an action that does not exist, and fewer vectors than k.

    >>> action_terms(PolicyNetwork(), "right", k=2, terms=4)
    ChosenTerms(vectors=2, terms=8)
    """
    require_no_bias(network)
    require_choice(action, ACTIONS, "action")
    direction = torch.zeros(network.settings.n_outputs).to(network.W_head)
    direction[:-1] = -1 / network.settings.n_actions
    direction[ACTIONS.index(action)] += 1
    eigen = interest_vectors(network.head_tensor(), direction, network.settings.feature_shape)
    raising = (eigen.values > 0).nonzero().squeeze(1)
    require_count(k, f"k={k} vectors of interest", f"1 to {len(raising)}", most=len(raising))
    return _strongest(network, eigen.vectors[raising[:k]], terms)


@checked
def random_action_terms(network: PolicyNetwork, k: int = 8, terms: int = 32, seed: int = 0) -> ChosenTerms:
    """The terms of largest weight, `terms` of each, of k random orthonormal vectors that the head reads."""
    require_no_bias(network)
    require_seed(seed)
    hidden, shape = network.hidden, network.settings.feature_shape
    assert hidden.W_in is not None
    support = torch.linalg.qr(torch.cat([hidden.W_gate, hidden.W_in], dim=1).detach()).Q
    require_count(k, f"k={k} vectors of interest", f"1 to {support.shape[1]}", most=support.shape[1])
    draws = torch.randn(support.shape[1], k, generator=torch.Generator().manual_seed(seed)).to(support)
    vectors = torch.linalg.qr(support @ draws).Q.T.reshape(k, *shape)
    return _strongest(network, vectors, terms)


@checked
def scaled_logits(network: PolicyNetwork, chosen: ChosenTerms, scale: float) -> Logits:
    """A function of images: the policy's logits with chosen terms scaled, removed at 0.

    >>> network = PolicyNetwork()
    >>> logits = scaled_logits(network, action_terms(network, "right", k=2, terms=4), 1.0)
    >>> x = torch.rand(5, 3, 8, 8)
    >>> torch.allclose(logits(x), network(x).logits, atol=1e-5)
    True
    """
    require_number(scale, f"scale {scale!r}", "a finite number")
    *_, before, last = network.trunk.layer_names

    def logits(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n n_actions"]:
        into = network.trunk.run(x, to=before)
        moved = torch.einsum("nk,kchw->nchw", chosen.readings(into), chosen.vectors)
        y = network.trunk.run(into, after=before, to=last) + (scale - 1) * moved
        return network.decide(y).logits

    return logits


@checked
def control(
    policy: Policy,
    states: MazeStates,
    action: str,
    *,
    scale: float = 0.0,
    k: int = 8,
    terms: int = 32,
    n_random: int = 5,
    n: int = 512,
    seed: int = 0,
) -> Control:
    """Behaviour with the terms of an action scaled, beside random terms of the same energy on `states`.

    `states` are such as `visited_states` gives. n unseen levels are played once by each.

    >>> policy = load_policy("maze")
    >>> found = control(policy, visited_states(policy, 500), "right", scale=4.0)
    >>> found.change > 3 * found.random_change
    True
    """
    require_number(scale, f"scale {scale!r}", "a finite number other than 1")
    if scale == 1:
        raise InputError("scale 1 leaves every term as it is; expected another, 0 to remove them")
    for name, count in {"n_random": n_random, "n": n}.items():
        require_count(count, f"{name} {count}")
    network = policy.network
    chosen = action_terms(network, action, k, terms)
    images = state_images(policy, states)
    *_, before, last = network.trunk.layer_names
    with torch.no_grad():
        into = network.trunk.run(images, to=before)
        whole = float(network.trunk.run(into, after=before, to=last).square().flatten(1).sum(1).mean())
        energy = chosen.energy(into)
    beside = _beside(states, images, action)

    def behaviour(logits: Logits) -> Behaviour:
        return _behaviour(policy, logits, images, beside, action, n, seed)

    others = []
    for number in range(n_random):
        drawn = random_action_terms(network, k, terms, seed + number)
        as_much = (energy / drawn.energy(into)) ** 0.5
        others.append(behaviour(scaled_logits(network, drawn, 1 + (scale - 1) * as_much)))
    return Control(
        action,
        scale,
        (scale - 1) ** 2 * energy / whole,
        behaviour(lambda x: network(x).logits),
        behaviour(scaled_logits(network, chosen, scale)),
        tuple(others),
    )


def _strongest(network: PolicyNetwork, vectors: Tensor, terms: int) -> ChosenTerms:
    """The terms of largest weight of each vector."""
    block = network.trunk.layers[network.trunk.layer_names[-1]]
    if not isinstance(block, BilinearBlock):
        raise InputError("a policy without blocks behind its last entry; expected one or more, n_blocks 2")
    chosen = []
    for vector in vectors:
        made = decompose_terms(block, vector)
        require_count(terms, f"{terms} terms of a vector", f"1 to {len(made)}", most=len(made))
        chosen.append(made[made.by_weight[:terms]])
    return ChosenTerms(vectors, tuple(chosen))


def _beside(states: MazeStates, images: Tensor, action: str) -> Tensor | None:
    """The images of states in which the cheese lies on the side that an action leads to; None without any."""
    there = holds(states, f"cheese-{action}")  # type: ignore[arg-type]
    return images[there.to(images.device)] if there.any() else None


def _behaviour(
    policy: Policy, logits: Logits, images: Tensor, beside: Tensor | None, action: str, n: int, seed: int
) -> Behaviour:
    place = ACTIONS.index(action)
    with torch.no_grad():
        probability, near = (
            None if x is None else float(logits(x).softmax(1)[:, place].mean()) for x in (images, beside)
        )
    assert probability is not None
    played = play_episodes(policy.mazes(n, seed=seed), logits, pixels=policy.network.pixels, seed=seed)
    return Behaviour(probability, played.share(action), near, played)
