"""States that are set: what holds in half of them, what moved, and nothing else."""

import numpy as np
import pytest
import torch

from analysis.policies.edits import edit_effect, probabilities
from analysis.policies.states import (
    balanced_states,
    holds,
    moved_cheese,
    opened_walls,
    state_images,
    visited_states,
)
from bilinear_lm import InputError
from bilinear_lm.environments import Mazes, MazeSettings, MazeStates, Policy
from bilinear_lm.environments.maze import MOVES
from bilinear_lm.networks import PolicyNetwork

CONCEPTS = ("cheese-left", "cheese-right", "cheese-up", "cheese-down")


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(1)
    network = PolicyNetwork()
    with torch.no_grad():
        network.W_head *= 20  # so that probabilities differ
    return Policy(network, "maze", {"limit": 12})


@pytest.fixture(scope="module")
def states():
    return Mazes(120, MazeSettings(part="test"), seed=2).states


@pytest.mark.parametrize("concept", CONCEPTS)
def test_half_of_the_states(states, concept):
    made = balanced_states(states, concept, seed=3)
    row, column = MOVES[CONCEPTS.index(concept)]
    there = [
        (int(made.mouse[i, 0]) + row, int(made.mouse[i, 1]) + column) == tuple(made.cheese[i].tolist())
        for i in range(len(made))
    ]
    assert holds(made, concept).tolist() == there == [True, False] * 60
    assert (made.walls == states.walls).all()
    # The neighbour is free where the concept does not hold, too.
    assert not made.walls[np.arange(120), *(made.mouse + np.array([row, column])).T].any()


def test_edits_change_one_thing(states):
    moved, opened = moved_cheese(states, 1), opened_walls(states, 1)
    assert (moved.mouse == states.mouse).all()
    assert (moved.walls == states.walls).all()
    assert (moved.cheese != states.cheese).any(axis=1).all()
    assert (moved.cheese != states.mouse).any(axis=1).all()
    changed = opened.walls != states.walls
    assert (changed.sum(axis=(1, 2)) == 1).all()
    for walls, place in zip(states.walls, np.argwhere(changed)[:, 1:], strict=True):
        near = [tuple(place + move) for move in MOVES]
        assert all(walls[spot] for spot in near if min(spot) >= 0 and max(spot) < 8)


def test_visited_states_are_met_at_any_step(policy):
    met = visited_states(policy, 600, seed=0)
    assert met.steps.max() < 12
    assert set(met.steps.tolist()) == set(range(12))
    again = visited_states(policy, 600, seed=0)
    assert (again.mouse == met.mouse).all()


def test_the_effect_of_an_edit(policy, states):
    edited = moved_cheese(states, 4)
    effect = edit_effect(policy, states, edited)
    before, after = (
        policy.network(torch.from_numpy(each.images()).float() / 255).logits.double().softmax(1)
        for each in (states, edited)
    )
    assert effect.total_variation == pytest.approx(float((before - after).abs().sum(1).mean() / 2), abs=1e-6)
    assert effect.argmax_changed == float((before.argmax(1) != after.argmax(1)).double().mean())
    toward = []
    for i, action in enumerate(after.argmax(1).tolist()):
        distance = edited.at(slice(i, i + 1)).distances()[0]
        row, column = edited.mouse[i] + MOVES[action]
        inside = 0 <= row < 8 and 0 <= column < 8 and distance[row, column] >= 0
        toward.append(inside and distance[row, column] < distance[tuple(edited.mouse[i])])
    assert effect.toward_after == pytest.approx(np.mean(toward))
    assert edit_effect(policy, states, states).total_variation == 0
    assert edit_effect(policy, states, states.without_cheese()).toward_after is None
    assert torch.allclose(probabilities(policy, states).double(), before, atol=1e-6)


def test_states_that_cannot_be(states, policy):
    walls = np.broadcast_to(np.arange(8)[:, None] > 0, (1, 8, 8))  # one row is free
    standing = MazeStates(walls, np.array([[0, 0]]), np.array([[0, 5]]), np.array([0]))
    with pytest.raises(InputError, match="maze 0 has no room for a free square with a free neighbour"):
        balanced_states(standing, "cheese-up")
    with pytest.raises(InputError, match="120 states, 1 edited ones"):
        edit_effect(policy, states, standing)
    with pytest.raises(InputError, match="0 states"):
        visited_states(policy, 0)
    assert state_images(policy, states).shape == (120, 3, 8, 8)
