"""An environment as gymnasium's `VectorEnv`, for whatever learns from those; gymnasium is of the extra `rl`.

A maze whose episode ends begins the next level in the same step (`AutoresetMode.SAME_STEP`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bilinear_lm.environments.environment import Environment, EnvironmentName, make_environment
from bilinear_lm.environments.maze import ACTIONS
from bilinear_lm.errors import InputError

try:
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise InputError(
        f"the vector interface of mazes needs gymnasium ({error}); install it with pip install "
        "'bilinear-lm[rl]', or take Mazes, which need numpy alone"
    ) from error


class MazeVectorEnv(VectorEnv):
    """Mazes by gymnasium's interface: images of bytes [3, h, w], four actions, rewards of 10.

    `environment` is what is played; its `states` can be read and set.

    >>> env = MazeVectorEnv("maze", 8, limit=20)
    >>> images, _ = env.reset(seed=3)
    >>> images, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
    >>> images.shape
    (8, 3, 8, 8)
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, name: EnvironmentName = "maze", n: int = 16, seed: int = 0, **settings: Any):
        self.environment: Environment = make_environment(name, n, seed, **settings)
        self.num_envs = n
        self.render_mode = None
        self.single_observation_space = spaces.Box(0, 255, self.environment.image_shape, dtype=np.uint8)
        self.single_action_space = spaces.Discrete(len(ACTIONS))
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The first images, of the levels of a seed where one is given."""
        if seed is not None and not isinstance(seed, int):
            raise InputError(f"seed {seed!r}; expected one number, by which the levels of all mazes follow")
        return self.environment.reset(seed), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Images, rewards, and whether the cheese or the limit ended the episode."""
        return *self.environment.step(np.asarray(actions)), {}
