"""States of mazes to test a policy on: met while it plays, or set so that a concept holds in half of them.

A concept here is that the cheese is the mouse's neighbour in one direction: a product of two places, so no
linear function of the image tells it, other than where the cheese is. In states that are met it is rare.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice, require_count, require_seed
from bilinear_lm.environments.episodes import choose
from bilinear_lm.environments.maze import ACTIONS, MOVES, NOWHERE, MazeStates
from bilinear_lm.environments.policy_folder import Policy
from bilinear_lm.errors import InputError

Concept = Literal["cheese-left", "cheese-right", "cheese-up", "cheese-down"]
"""The cheese is the mouse's neighbour in that direction."""


@checked
def holds(states: MazeStates, concept: Concept) -> Bool[Tensor, " n"]:
    """Whether the cheese is the mouse's neighbour in a direction, in each state."""
    return torch.from_numpy((states.cheese == states.mouse + _move(concept)).all(axis=1))


@checked
def visited_states(policy: Policy, n: int, seed: int = 0) -> MazeStates:
    """n states that the policy meets, each at a random step of an episode of its own on an unseen level."""
    require_count(n, f"{n} states")
    require_seed(seed)
    mazes, generator = policy.mazes(n, seed=seed), np.random.default_rng(seed)
    images, going, step = mazes.reset(), np.ones(n, dtype=bool), 0
    kept = mazes.states
    while going.any():
        step += 1
        here = going & (generator.random(n) < 1 / step)  # so that every step is as likely
        _put(kept, mazes.states, here)
        with torch.no_grad():
            actions = choose(policy.network(policy.network.pixels(images)).logits, generator)
        images, _, terminated, truncated = mazes.step(actions)
        going &= ~(terminated | truncated)
    return kept


@checked
def balanced_states(states: MazeStates, concept: Concept, seed: int = 0) -> MazeStates:
    """The same mazes with mouse and cheese set so that a concept holds in every other state.

    The mouse is put on a random square whose neighbour in the direction is free; the cheese on that
    neighbour, or on any other free square.
    """
    require_seed(seed)
    generator, move = np.random.default_rng(seed), _move(concept)
    free = ~states.walls
    beside = np.zeros_like(free)
    padded = np.pad(free, ((0, 0), (1, 1), (1, 1)))
    board = states.walls.shape[1]
    beside[:] = padded[:, 1 + move[0] : 1 + move[0] + board, 1 + move[1] : 1 + move[1] + board]
    mouse = _draw(free & beside, generator, f"a free square with a free neighbour for {concept}")
    neighbour = mouse + move
    elsewhere = _without(_without(free, mouse), neighbour)
    cheese = _draw(elsewhere, generator, "a free square for the cheese")
    cheese[::2] = neighbour[::2]
    return replace(states, mouse=mouse, cheese=cheese)


@checked
def moved_cheese(states: MazeStates, seed: int = 0) -> MazeStates:
    """The same states with the cheese on another free square, drawn at random."""
    require_seed(seed)
    there = states.cheese[:, 0] != NOWHERE
    free = _without(~states.walls, states.mouse)
    free[there] = _without(free[there], states.cheese[there])
    cheese = _draw(free, np.random.default_rng(seed), "a free square for the cheese")
    return replace(states, cheese=cheese)


@checked
def opened_walls(states: MazeStates, seed: int = 0) -> MazeStates:
    """The same states with one wall opened that leads nowhere: as small a change of the image, as a control.

    The wall is drawn from squares none of whose neighbours is free.
    """
    require_seed(seed)
    near = np.pad(~states.walls, ((0, 0), (1, 1), (1, 1)))
    touched = near[:, 1:-1, 1:-1].copy()
    for row, column in MOVES:
        touched |= np.roll(near, (row, column), axis=(1, 2))[:, 1:-1, 1:-1]
    place = _draw(~touched, np.random.default_rng(seed), "a wall without a free neighbour")
    walls = states.walls.copy()
    walls[np.arange(len(states)), place[:, 0], place[:, 1]] = False
    return replace(states, walls=walls)


@checked
def state_images(policy: Policy, states: MazeStates) -> Float[Tensor, "n c h w"]:
    """Images of states as the policy reads them. ProcGen's mazes are drawn in the looks of new levels."""
    mazes = policy.mazes(len(states))
    mazes.states = states
    return policy.network.pixels(mazes.images())


def _move(concept: str) -> Int[np.ndarray, " 2"]:
    require_choice(concept, get_args(Concept), "concept")
    return MOVES[ACTIONS.index(concept.removeprefix("cheese-"))]


def _draw(there: Bool[np.ndarray, "n h w"], generator: np.random.Generator, what: str) -> np.ndarray:
    """A random place of each maze among those that are there."""
    if not (some := there.any(axis=(1, 2))).all():
        raise InputError(
            f"maze {int(np.flatnonzero(~some)[0])} has no room for {what}; expected mazes that do"
        )
    weights = np.where(there, generator.random(there.shape), -1.0).reshape(len(there), -1)
    return np.stack(np.unravel_index(weights.argmax(axis=1), there.shape[1:]), axis=1)


def _without(there: Bool[np.ndarray, "n h w"], places: Int[np.ndarray, "n 2"]) -> np.ndarray:
    there = there.copy()
    there[np.arange(len(there)), places[:, 0], places[:, 1]] = False
    return there


def _put(into: MazeStates, states: MazeStates, where: Bool[np.ndarray, " n"]) -> None:
    for name, part in vars(into).items():
        part[where] = getattr(states, name)[where]
