"""Playing: one episode in each of many mazes, by a policy or by chance.

Averages over the first so many episodes that end would favour short ones, which are those that were won; so
every maze is played once, to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilinear_lm.checks import require_seed
from bilinear_lm.environments.environment import Environment
from bilinear_lm.environments.maze import ACTIONS
from bilinear_lm.errors import InputError
from bilinear_lm.networks.policy import PolicyNetwork
from bilinear_lm.shown import shown

Logits = Callable[[Float[Tensor, "n channels height width"]], Float[Tensor, "n n_actions"]]
"""Gives the logits of actions for images of numbers from 0 to 1."""


@shown
@dataclass(frozen=True)
class Episodes:
    """One episode in each of n mazes."""

    returns: Float[np.ndarray, " n"]
    """Reward of each episode."""
    lengths: Int[np.ndarray, " n"]
    """Its steps."""
    actions: Int[np.ndarray, "n n_actions"]
    """How often it took each action."""

    @property
    def mean_return(self) -> float:
        """Mean reward of an episode."""
        return float(self.returns.mean())

    @property
    def mean_length(self) -> float:
        """Mean number of steps."""
        return float(self.lengths.mean())

    @property
    def won(self) -> float:
        """Share of the episodes that end at the cheese."""
        return float((self.returns > 0).mean())

    def share(self, action: str) -> float:
        """Share of all steps that take an action, such as `right`."""
        if action not in ACTIONS:
            raise InputError(f"action {action!r}; expected one of {', '.join(ACTIONS)}")
        return float(self.actions[:, ACTIONS.index(action)].sum() / self.actions.sum())

    def _told(self) -> dict[str, Any]:
        return {"n": len(self.returns), "mean_return": self.mean_return, "mean_length": self.mean_length}


def play_episodes(
    environment: Environment,
    policy: PolicyNetwork | Logits | None = None,
    *,
    pixels: Callable[[np.ndarray], Tensor] | None = None,
    greedy: bool = False,
    seed: int = 0,
) -> Episodes:
    """One episode in each maze of an environment, which begins anew: no level depends on the policy.

    Actions are drawn from the policy's probabilities with `seed`, or `greedy` the likeliest; without a policy
    all are equally likely. A function that gives logits needs `pixels` of its network, by which images become
    its input.

    >>> from bilinear_lm.environments import Mazes
    >>> play_episodes(Mazes(64), PolicyNetwork()).returns.shape
    (64,)
    """
    require_seed(seed)
    if isinstance(policy, PolicyNetwork):
        network, pixels = policy, policy.pixels
        policy = lambda x: network(x).logits  # noqa: E731
    elif policy is not None and pixels is None:
        raise InputError("a function of logits without pixels; expected those of its network, policy.pixels")
    generator = np.random.default_rng(seed)
    images = environment.reset()
    n, n_actions = environment.n, len(ACTIONS)
    returns, lengths = np.zeros(n), np.zeros(n, dtype=np.int64)
    taken = np.zeros((n, n_actions), dtype=np.int64)
    going = np.ones(n, dtype=bool)
    while going.any():
        if policy is None:
            actions = generator.integers(0, n_actions, n)
        else:
            assert pixels is not None
            with torch.no_grad():
                actions = choose(policy(pixels(images)), None if greedy else generator)
        images, rewards, terminated, truncated = environment.step(actions)
        returns += np.where(going, rewards, 0.0)
        lengths += going
        taken[np.arange(n)[going], actions[going]] += 1
        going &= ~(terminated | truncated)
    return Episodes(returns, lengths, taken)


def choose(logits: Float[Tensor, "n n_actions"], generator: np.random.Generator | None) -> np.ndarray:
    """Actions drawn by their probabilities; the likeliest without a generator.

    The draw is by Gumbel noise in float64 from numpy, so it is the same on every device.
    """
    if logits.ndim != 2 or logits.shape[1] != len(ACTIONS):
        raise InputError(f"logits {list(logits.shape)}; expected [n, {len(ACTIONS)}]")
    scores = logits.detach().double().cpu().numpy()
    if generator is not None:
        scores = scores + generator.gumbel(size=scores.shape)
    return scores.argmax(axis=1)
