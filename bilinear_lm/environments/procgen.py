"""ProcGen's maze (Cobbe et al., arXiv 1912.01588) by the package procgen-gym, with states read and set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from bilinear_lm.checks import require_choice, require_count, require_seed
from bilinear_lm.environments.levels import Part
from bilinear_lm.environments.maze import NOWHERE, MazeStates, require_actions
from bilinear_lm.environments.procgen_state import CHEESE, FREE, WALL, ProcgenState, parse_state
from bilinear_lm.errors import InputError

_ACTIONS = np.array([1, 7, 5, 3])
"""ProcGen's numbers of left, right, up and down."""

_FIRST_TEST_LEVEL = 2**20


@dataclass(frozen=True)
class ProcgenSettings:
    """Levels and episodes of ProcGen's maze, easy ones of up to 15 × 15 squares."""

    limit: int = 500
    """Steps after which an episode ends."""
    n_levels: int | None = None
    """Levels there are; by default as many as a part has, a million."""
    part: Part = "train"
    """Part of the levels: other numbers, so other levels."""
    backgrounds: bool = False
    """Whether floors have pictures on them."""

    def __post_init__(self):
        require_count(self.limit, f"limit {self.limit}")
        if self.n_levels is not None:
            most = _FIRST_TEST_LEVEL
            require_count(self.n_levels, f"n_levels {self.n_levels}", f"1 to {most:,}", most=most)
        require_choice(self.part, get_args(Part), "part")
        if not isinstance(self.backgrounds, bool):
            raise InputError(f"backgrounds {self.backgrounds!r}; expected True or False")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return (3, 64, 64)


class ProcgenMazes:
    """Mazes of ProcGen that are played at once; one whose episode ends begins the next in the same step.

    Images are [3, 64, 64]. `states` reads the mazes; set, it moves or removes the cheese, moves the mouse and
    changes walls.
    """

    def __init__(self, n: int, settings: ProcgenSettings | None = None, seed: int = 0):
        require_count(n, f"{n} mazes")
        self.n, self.settings = n, settings or ProcgenSettings()
        self.reset(seed)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.settings.image_shape

    def reset(self, seed: int | None = None) -> UInt8[np.ndarray, "n 3 64 64"]:
        """Begins levels anew, from another seed where one is given; returns the images."""
        if seed is not None:
            require_seed(seed)
            self.seed = seed
        self._env = _procgen_env(
            num_envs=self.n,
            env_name="maze",
            distribution_mode="easy",
            use_backgrounds=self.settings.backgrounds,
            num_levels=self.settings.n_levels or _FIRST_TEST_LEVEL,
            start_level=0 if self.settings.part == "train" else _FIRST_TEST_LEVEL,
            rand_seed=self.seed % 2**31,
        )
        self._set([state.changed(timeout=self.settings.limit) for state in self._parsed()])
        return self._images()

    def step(
        self, actions: Int[np.ndarray, " n"]
    ) -> tuple[
        UInt8[np.ndarray, "n 3 64 64"],
        Float[np.ndarray, " n"],
        Bool[np.ndarray, " n"],
        Bool[np.ndarray, " n"],
    ]:
        """Images after an action in each maze, rewards, and whether cheese or limit ended the episode."""
        require_actions(actions, self.n)
        images, rewards, over, _, _ = self._env.step(_ACTIONS[actions])
        won = over & (rewards > 0)
        return _channels_first(images), rewards.astype(np.float64), won, over & ~won

    @property
    def states(self) -> MazeStates:
        """The mazes as they are; setting them keeps everything else, such as the looks."""
        states = self._parsed()
        grids = np.stack([state.grid for state in states])
        cheese = np.full((self.n, 2), NOWHERE)
        for index, grid in enumerate(grids):
            for place in np.argwhere(grid == CHEESE)[:1]:
                cheese[index] = place
        mouse = np.array([state.mouse for state in states])
        return MazeStates(grids == WALL, mouse, cheese, np.array([state.steps for state in states]))

    @states.setter
    def states(self, states: MazeStates) -> None:
        now = self._parsed()
        expected = (self.n, now[0].board, now[0].board)
        if states.walls.shape != expected:
            raise InputError(
                f"states of mazes with walls {list(states.walls.shape)}; expected {list(expected)}"
            )
        grids = np.where(states.walls, WALL, FREE)
        there = np.flatnonzero(states.cheese[:, 0] != NOWHERE)
        grids[there, states.cheese[there, 0], states.cheese[there, 1]] = CHEESE
        mice, steps = states.mouse.tolist(), states.steps.tolist()
        self._set(
            [
                state.changed(grid=grid, mouse=tuple(mouse), steps=step)
                for state, grid, mouse, step in zip(now, grids, mice, steps, strict=True)
            ]
        )

    def images(self) -> UInt8[np.ndarray, "n 3 64 64"]:
        """Images of the mazes as they are."""
        return self._images()

    def saved(self) -> dict[str, Tensor]:
        """The states as bytes, one after the other, and how long each is."""
        states = self._env.get_state()
        joined = np.frombuffer(b"".join(states), dtype=np.uint8).copy()
        return {"bytes": torch.from_numpy(joined), "lengths": torch.tensor([len(state) for state in states])}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Goes on where another environment of the same settings was."""
        joined, ends = saved["bytes"].numpy().tobytes(), saved["lengths"].cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        self._set([joined[start:end] for start, end in zip(starts, ends, strict=True)])

    def _parsed(self) -> list[ProcgenState]:
        return [parse_state(data) for data in self._env.get_state()]

    def _set(self, states: list[bytes]) -> None:
        self._env.set_state(states)

    def _images(self) -> UInt8[np.ndarray, "n 3 64 64"]:
        return _channels_first(self._env.reset()[0])  # it observes and begins nothing anew


def _channels_first(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _procgen_env(**options: Any) -> Any:
    try:
        from procgen_gym import ProcgenVecEnv
    except ImportError as error:
        raise InputError(
            f"the environment procgen-maze needs procgen-gym ({error}); install it with pip install "
            "'bilinear-lm[rl]' in Python 3.13 or later, or take the environment maze"
        ) from error
    return ProcgenVecEnv(**options)
