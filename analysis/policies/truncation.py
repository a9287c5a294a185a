"""A policy whose logits are a few eigenvectors each: what it still earns.

The logit of an action is a quadratic form of the features, of a rank of at most twice the hidden units:

    logit_a = Σ_i λ_ai ⟨V_ai, features⟩²,     V_ai vectors of interest [c, h, w]

(arXiv 2412.00944). The first k of each action by |λ| are a smaller policy, which is played.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.convolutions.interest import InterestVectors, interest_vectors
from analysis.spectra.eigen import effective_rank
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.environments.episodes import Episodes, play_episodes
from bilinear_lm.environments.policy_folder import Policy
from bilinear_lm.errors import InputError
from bilinear_lm.networks.policy import PolicyNetwork
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class TruncationCurve:
    """Return of a policy by how many eigenvectors each logit has."""

    counts: tuple[int, ...]
    episodes: tuple[Episodes, ...]
    """On the same levels for each count."""
    whole: Episodes
    """The same of the policy as it is."""
    random: Episodes
    """By chance."""
    effective_ranks: Float[Tensor, " n_actions"]
    """(Σ|λ|)² / Σλ² of each action."""

    @property
    def returns(self) -> list[float]:
        """Mean return for each count."""
        return [each.mean_return for each in self.episodes]

    def _told(self) -> dict[str, Any]:
        returns = dict(zip(self.counts, self.returns, strict=True))
        return {"returns": returns, "whole": self.whole.mean_return, "random": self.random.mean_return}


@checked
def action_vectors(network: PolicyNetwork, k: int | None = None) -> InterestVectors:
    """Eigenvalues [n_actions, k] and vectors of interest [n_actions, k, c, h, w] of the logits.

    InputError for the ReLU arm, which has none, and for more than there are.

    >>> action_vectors(PolicyNetwork(), k=3).vectors.shape
    torch.Size([4, 3, 16, 4, 4])
    """
    require_no_bias(network)
    directions = torch.eye(network.settings.n_outputs).to(network.W_head)[:-1]
    return interest_vectors(network.head_tensor(), directions, network.settings.feature_shape, k)


@checked
def truncated_logits(
    network: PolicyNetwork, k: int
) -> Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n n_actions"]]:
    """A function of images: the policy's logits from the k eigenvectors of each of largest |λ|."""
    kept = action_vectors(network, k)

    def logits(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n n_actions"]:
        read = torch.einsum("nchw,akchw->nak", network.trunk(x), kept.vectors)
        return (kept.values * read.square()).sum(-1)

    return logits


@checked
def truncation_curve(
    policy: Policy, counts: Sequence[int] = (1, 2, 4, 8, 16, 32), n: int = 512, seed: int = 0
) -> TruncationCurve:
    """Returns on n unseen levels, one episode each, of logits from k eigenvectors, for each k of `counts`."""
    require_count(n, f"{n} levels")
    if not counts:
        raise InputError("no counts of eigenvectors; expected one or more, such as (4, 16)")
    mazes, network = policy.mazes(n, seed=seed), policy.network
    played = [
        play_episodes(mazes, truncated_logits(network, k), pixels=network.pixels, seed=seed) for k in counts
    ]
    whole, chance = play_episodes(mazes, network, seed=seed), play_episodes(mazes, seed=seed)
    return TruncationCurve(
        tuple(counts), tuple(played), whole, chance, effective_rank(action_vectors(network).values)
    )


def require_no_bias(network: PolicyNetwork) -> None:
    """Raises InputError for a policy that is not bilinear, or whose hidden layer has biases."""
    if network.settings.kind != "bilinear" or network.settings.bias:
        raise InputError(
            f"a policy of kind {network.settings.kind!r}{' with biases' if network.settings.bias else ''}; "
            "expected a bilinear one without biases, whose logits are quadratic forms"
        )
