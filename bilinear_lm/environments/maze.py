"""A mouse that looks for cheese in mazes: any number of them at once, in numpy.

The agent sees an image with a pixel a square and three channels, `floor`, `mouse` and `cheese`, each 0 or
255. It moves left, right, up or down; walls stop it. The cheese is worth 10 and ends an episode, as does the
limit of steps. States can be read and set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from bilinear_lm.checks import require_choice, require_count, require_seed
from bilinear_lm.environments.levels import Part, make_levels, stream_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

CHANNELS = ("floor", "mouse", "cheese")
"""Channels of an image."""

ACTIONS = ("left", "right", "up", "down")
"""Actions by their numbers."""

MOVES = np.array([(0, -1), (0, 1), (-1, 0), (1, 0)])
"""The step of each action, in rows and columns."""

REWARD = 10.0
"""Worth of the cheese."""

NOWHERE = -1
"""Row and column of a cheese that was removed."""

_MADE_AHEAD = 1024


@dataclass(frozen=True)
class MazeSettings:
    """Mazes and episodes."""

    board: int = 8
    """Height and width of the image."""
    sizes: tuple[int, ...] = (3, 5, 7)
    """Heights of mazes, odd; each level has one of them."""
    limit: int = 40
    """Steps after which an episode ends."""
    n_levels: int | None = None
    """Levels there are; by default there is no end to them."""
    part: Part = "train"
    """Part of the levels: no board of one is in the other."""

    def __post_init__(self):
        if not isinstance(self.sizes, tuple | list):
            raise InputError(f"sizes {self.sizes!r}; expected odd numbers, such as (3, 5, 7)")
        object.__setattr__(self, "sizes", tuple(self.sizes))
        require_count(self.board, f"board {self.board}", "3 to 64", least=3, most=64)
        if not self.sizes:
            raise InputError("no sizes of mazes; expected odd numbers, such as (3, 5, 7)")
        for size in self.sizes:
            expected = f"odd numbers from 3 to the board's {self.board}"
            require_count(size, f"sizes {self.sizes}", expected, least=3, most=self.board)
            if size % 2 == 0:
                raise InputError(f"sizes {self.sizes}; expected {expected}")
        require_count(self.limit, f"limit {self.limit}")
        if self.n_levels is not None:
            require_count(self.n_levels, f"n_levels {self.n_levels}")
        require_choice(self.part, get_args(Part), "part")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the agent sees."""
        return (len(CHANNELS), self.board, self.board)


@shown
@dataclass(frozen=True)
class MazeStates:
    """Mazes in the middle of episodes; places are [row, column], row 0 at the top."""

    walls: Bool[np.ndarray, "n board board"]
    mouse: Int[np.ndarray, "n 2"]
    cheese: Int[np.ndarray, "n 2"]
    """[−1, −1] where there is none."""
    steps: Int[np.ndarray, " n"]
    """Steps of the episode so far."""

    def __post_init__(self):
        n, *board = self.walls.shape if self.walls.ndim == 3 else (0, 0, 1)
        shapes = {name: getattr(self, name).shape for name in ("mouse", "cheese", "steps")}
        if board != [board[0]] * 2 or shapes != {"mouse": (n, 2), "cheese": (n, 2), "steps": (n,)}:
            got = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise InputError(
                f"states of mazes: walls {list(self.walls.shape)}, {got}; expected [n, board, board], [n, 2] "
                "twice and [n]"
            )
        for name in ("mouse", "cheese"):
            places = getattr(self, name)
            there = ~(places == NOWHERE).all(axis=1) if name == "cheese" else np.ones(n, dtype=bool)
            inside = ((places >= 0) & (places < board[0])).all(axis=1)
            free = inside & ~self.walls[np.arange(n), *np.where(inside[:, None], places, 0).T]
            if (wrong := np.flatnonzero(there & ~free)).size:
                raise InputError(
                    f"{name} of maze {wrong[0]} at {places[wrong[0]].tolist()}, which is no free square; "
                    "expected [row, column] of one"
                )

    def __len__(self) -> int:
        return len(self.steps)

    def _told(self) -> dict[str, Any]:
        return {"n": len(self), "board": self.walls.shape[1]}

    def at(self, index: Any) -> MazeStates:
        """Some of the mazes, by a slice, a mask or numbers."""
        parts = (self.walls, self.mouse, self.cheese, self.steps)
        return MazeStates(*(part[index] for part in parts))

    def without_cheese(self) -> MazeStates:
        """The same mazes with the cheese removed."""
        return replace(self, cheese=np.full_like(self.cheese, NOWHERE))

    def images(self) -> UInt8[np.ndarray, "n 3 board board"]:
        """Images of the mazes, 0 or 255 in each of the channels `floor`, `mouse` and `cheese`."""
        rows = np.arange(len(self))
        images = np.zeros((len(self), len(CHANNELS), *self.walls.shape[1:]), dtype=np.uint8)
        images[:, 0] = ~self.walls * np.uint8(255)
        images[rows, 1, self.mouse[:, 0], self.mouse[:, 1]] = 255
        there = self.cheese[:, 0] != NOWHERE
        images[rows[there], 2, self.cheese[there, 0], self.cheese[there, 1]] = 255
        return images

    def distances(self) -> Int[np.ndarray, "n board board"]:
        """Steps from each square to the cheese by the shortest way; −1 where there is none."""
        n, board = len(self), self.walls.shape[1]
        distance = np.full((n, board + 2, board + 2), -1)
        free = np.pad(~self.walls, ((0, 0), (1, 1), (1, 1)))
        front = np.zeros_like(free)
        there = np.flatnonzero(self.cheese[:, 0] != NOWHERE)
        front[there, self.cheese[there, 0] + 1, self.cheese[there, 1] + 1] = True
        step = 0
        while front.any():
            distance[front] = step
            near = np.zeros_like(front)
            for row, column in MOVES:
                near |= np.roll(front, (row, column), axis=(1, 2))
            front, step = near & free & (distance < 0), step + 1
        return distance[:, 1:-1, 1:-1]


class Mazes:
    """Mazes that are played at once; one whose episode ends begins the next level in the same step.

    Levels follow each other in a stream that `seed` decides, so everything is a function of the settings, the
    seed and the actions.

    >>> mazes = Mazes(16, MazeSettings(), seed=0)
    >>> images = mazes.reset()
    >>> images, rewards, terminated, truncated = mazes.step(np.zeros(16, dtype=int))
    >>> images.shape, rewards.shape
    ((16, 3, 8, 8), (16,))
    """

    def __init__(self, n: int, settings: MazeSettings | None = None, seed: int = 0):
        require_count(n, f"{n} mazes")
        require_seed(seed)
        self.n, self.settings, self.seed = n, settings or MazeSettings(), seed
        self.begun = 0
        """Levels of the stream that were begun."""
        self._pool: MazeStates | None = None
        self._pool_start = 0
        self.reset()

    def reset(self, seed: int | None = None) -> UInt8[np.ndarray, "n 3 board board"]:
        """Begins the stream of levels anew, of another seed where one is given; returns the images."""
        if seed is not None:
            require_seed(seed)
            self.seed = seed
        self.begun, self._pool = 0, None
        self._states = self._next_levels(self.n)
        return self._states.images()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.settings.image_shape

    @property
    def states(self) -> MazeStates:
        """The mazes as they are, a copy; to set them, they must be as many on boards of this size."""
        return replace(self._states, **{name: part.copy() for name, part in vars(self._states).items()})

    @states.setter
    def states(self, states: MazeStates) -> None:
        expected = (self.n, self.settings.board, self.settings.board)
        if states.walls.shape != expected:
            raise InputError(
                f"states of mazes with walls {list(states.walls.shape)}; expected {list(expected)}"
            )
        self._states = replace(states, **{name: np.array(part) for name, part in vars(states).items()})

    def images(self) -> UInt8[np.ndarray, "n 3 board board"]:
        """Images of the mazes as they are."""
        return self._states.images()

    def saved(self) -> dict[str, Tensor]:
        """Whatever decides what comes next, to be given to `restore` of other mazes."""
        parts = {name: torch.from_numpy(part.copy()) for name, part in vars(self._states).items()}
        return parts | {"begun": torch.tensor(self.begun), "seed": torch.tensor(self.seed)}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Goes on where other mazes of the same settings were."""
        self.begun, self.seed, self._pool = int(saved["begun"]), int(saved["seed"]), None
        names = ("walls", "mouse", "cheese", "steps")
        self.states = MazeStates(*(saved[name].numpy() for name in names))

    def step(
        self, actions: Int[np.ndarray, " n"]
    ) -> tuple[
        UInt8[np.ndarray, "n 3 board board"],
        Float[np.ndarray, " n"],
        Bool[np.ndarray, " n"],
        Bool[np.ndarray, " n"],
    ]:
        """Images after an action in each maze, rewards, and whether cheese or limit ended the episode.

        Where an episode ended, the image is the first of the next.
        """
        require_actions(actions, self.n)
        states = self._states
        rows, target = np.arange(self.n), states.mouse + MOVES[actions]
        inside = ((target >= 0) & (target < self.settings.board)).all(axis=1)
        free = inside & ~states.walls[rows, *np.where(inside[:, None], target, 0).T]
        states.mouse[free] = target[free]
        states.steps[:] += 1
        terminated = (states.mouse == states.cheese).all(axis=1)
        truncated = ~terminated & (states.steps >= self.settings.limit)
        if (over := np.flatnonzero(terminated | truncated)).size:
            begun = self._next_levels(len(over))
            for name, part in vars(states).items():
                part[over] = getattr(begun, name)
        return states.images(), np.where(terminated, REWARD, 0.0), terminated, truncated

    def _next_levels(self, count: int) -> MazeStates:
        """The next levels of the stream, which are made many at once."""
        start = self.begun
        if self._pool is None or not 0 <= start - self._pool_start <= len(self._pool) - count:
            made = max(_MADE_AHEAD, 4 * count)
            numbers = stream_numbers(self.seed, start, made, self.settings.n_levels)
            levels = make_levels(numbers, self.settings.part, self.settings.board, self.settings.sizes)
            self._pool, self._pool_start = MazeStates(*levels, np.zeros(made, dtype=np.int64)), start
        self.begun += count
        first = start - self._pool_start
        taken = self._pool.at(slice(first, first + count))
        return replace(taken, **{name: part.copy() for name, part in vars(taken).items()})


def require_actions(actions: Int[np.ndarray, " n"], n: int) -> None:
    """Raises InputError unless there is an action for each of n mazes."""
    actions = np.asarray(actions)
    if actions.shape != (n,) or not np.isin(actions, range(len(ACTIONS))).all():
        shown = actions.tolist() if actions.size < 9 else f"[{', '.join(map(str, actions.shape))}]"
        raise InputError(f"actions {shown}; expected {n} numbers from 0 to {len(ACTIONS) - 1}")
