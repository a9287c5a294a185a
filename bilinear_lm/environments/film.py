"""One episode, frame by frame: what the policy saw, its probabilities, and what it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_seed
from bilinear_lm.environments.episodes import choose
from bilinear_lm.environments.maze import ACTIONS, MazeStates
from bilinear_lm.environments.policy_folder import Policy
from bilinear_lm.shown import shown

COLOURS = {"wall": (43, 48, 56), "floor": (240, 236, 226), "mouse": (59, 125, 216), "cheese": (240, 176, 32)}
"""Colours of the maze as people see it, by what stands on a square."""

LETTERS = {"wall": "#", "floor": ".", "mouse": "m", "cheese": "C"}
"""The same in letters."""


@shown
@dataclass(frozen=True)
class Film:
    """An episode of a policy: a frame a step, and the last one behind it."""

    states: MazeStates
    """The maze before each step."""
    images: UInt8[np.ndarray, "n c h w"]
    """The images that the policy saw."""
    probabilities: Float[np.ndarray, "n n_actions"]
    values: Float[np.ndarray, " n"]
    """The discounted reward that it expected, in the scale of training."""
    actions: Int[np.ndarray, " n"]
    reward: float
    """Reward of the episode."""

    def __len__(self) -> int:
        return len(self.actions)

    def told(self, frame: int) -> str:
        """A frame in letters, with the action and the probabilities below."""
        shares = ", ".join(
            f"{name} {share:.2f}" for name, share in zip(ACTIONS, self.probabilities[frame], strict=True)
        )
        rows = "\n".join("".join(LETTERS[name] for name in row) for row in squares(self.states, frame))
        return f"{rows}\n{frame + 1}: {ACTIONS[self.actions[frame]]} ({shares})"

    def _told(self) -> dict[str, Any]:
        return {"steps": len(self), "reward": self.reward}


@checked
def film_episode(policy: Policy, *, seed: int = 0, greedy: bool = False, candidates: int = 15) -> Film:
    """One episode on an unseen level: of `candidates`, that whose way to the cheese is the median.

    Levels and actions follow from `seed`; `greedy` takes the likeliest action each time.

    >>> film = film_episode(load_policy("maze"), seed=3)
    >>> print(film.told(0))  # doctest: +SKIP
    """
    require_seed(seed)
    require_count(candidates, f"candidates {candidates}")
    mazes, generator = policy.mazes(candidates, seed=seed), np.random.default_rng(seed)
    images, states = mazes.reset(), mazes.states
    way = states.distances()[np.arange(candidates), *states.mouse.T]
    index = int(way.argsort(kind="stable")[candidates // 2])
    frames: list[tuple[Any, ...]] = []
    over, reward = False, 0.0
    while not over:
        with torch.no_grad():
            decision = policy.network(policy.network.pixels(images))
        actions = choose(decision.logits, None if greedy else generator)
        shares = decision.logits[index].softmax(0).double().cpu().numpy()
        state = mazes.states.at(slice(index, index + 1))
        frames.append((state, images[index], shares, float(decision.value[index]), actions[index]))
        images, rewards, terminated, truncated = mazes.step(actions)
        reward += float(rewards[index])
        over = bool(terminated[index] | truncated[index])
    states_of, *rest = zip(*frames, strict=True)
    parts = (np.concatenate([getattr(each, name) for each in states_of]) for name in vars(states_of[0]))
    seen, shares, values, taken = (np.array(each) for each in rest)
    return Film(MazeStates(*parts), seen, shares, values, taken, reward)


def squares(states: MazeStates, index: int) -> list[list[str]]:
    """Names of what stands on each square of a maze, a row of them a row."""
    board = np.where(states.walls[index], "wall", "floor").astype(object)
    for name in ("cheese", "mouse"):
        row, column = getattr(states, name)[index]
        if row >= 0:
            board[row, column] = name
    return board.tolist()


def maze_picture(states: MazeStates, index: int) -> UInt8[np.ndarray, "board board 3"]:
    """A maze as people see it, a pixel a square."""
    return np.array([[COLOURS[name] for name in row] for row in squares(states, index)], dtype=np.uint8)
