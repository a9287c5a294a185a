"""Answers of a policy to edits of the state: how far its probabilities move, and where to.

An edit of the state is the cleanest intervention there is: the cheese moved or removed, everything else left
as it was. Beside it stands one of a part that should not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.policies.states import state_images
from bilinear_lm.arguments import checked
from bilinear_lm.environments.maze import MOVES, MazeStates
from bilinear_lm.environments.policy_folder import Policy
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class EditEffect:
    """The change of a policy by an edit of n states."""

    n: int
    total_variation: float
    """Mean of ½ Σ |p(action) − p'(action)|: 0 for no change, 1 for other actions altogether."""
    argmax_changed: float
    """Share of the states in which another action is the likeliest."""
    toward_before: float | None
    """Share of the original states in which the likeliest action leads nearer to the cheese of the edited
    ones; None where these have none."""
    toward_after: float | None
    """The same share of the edited states."""


@checked
def edit_effect(policy: Policy, states: MazeStates, edited: MazeStates) -> EditEffect:
    """The effect of an edit of states on the policy's probabilities, and on its likeliest action.

    An action leads nearer where the square it leads to is closer to the edited cheese by the shortest way.

    >>> policy = load_policy("maze")
    >>> states = policy.mazes(100).states
    >>> effect = edit_effect(policy, states, moved_cheese(states))
    """
    if len(states) != len(edited):
        raise InputError(f"{len(states)} states, {len(edited)} edited ones; expected as many")
    before, after = (probabilities(policy, each) for each in (states, edited))
    toward = [_toward(edited, each.argmax(1).cpu().numpy()) for each in (before, after)]
    return EditEffect(
        len(states),
        float((before - after).abs().sum(1).mean()) / 2,
        float((before.argmax(1) != after.argmax(1)).double().mean()),
        *toward,
    )


def probabilities(policy: Policy, states: MazeStates) -> Float[Tensor, "n n_actions"]:
    """The policy's probabilities of the actions in states."""
    with torch.no_grad():
        return policy.network(state_images(policy, states)).logits.softmax(1)


def _toward(states: MazeStates, actions: np.ndarray) -> float | None:
    """Share of the states in which an action leads nearer to the cheese; None where there is none."""
    distances = np.pad(states.distances(), ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    rows, target = np.arange(len(states)), states.mouse + MOVES[actions] + 1
    here = distances[rows, *(states.mouse + 1).T]
    there = distances[rows, *target.T]
    known = here >= 0
    return float(((there >= 0) & (there < here))[known].mean()) if known.any() else None
