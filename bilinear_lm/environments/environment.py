"""The interface of environments: images of many mazes, four moves, states that can be read and set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from bilinear_lm.checks import require_choice
from bilinear_lm.environments.maze import Mazes, MazeSettings, MazeStates
from bilinear_lm.environments.names import EnvironmentName
from bilinear_lm.environments.procgen import ProcgenMazes, ProcgenSettings
from bilinear_lm.errors import InputError


@runtime_checkable
class Environment(Protocol):
    """Mazes that are played at once; one whose episode ends begins the next level in the same step."""

    n: int
    states: MazeStates

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""

    def reset(self, seed: int | None = None) -> UInt8[np.ndarray, "n channels height width"]:
        """Begins anew, from a seed where one is given; returns the images."""

    def step(
        self, actions: Int[np.ndarray, " n"]
    ) -> tuple[
        UInt8[np.ndarray, "n channels height width"],
        Float[np.ndarray, " n"],
        Bool[np.ndarray, " n"],
        Bool[np.ndarray, " n"],
    ]:
        """Images after an action in each maze, rewards, and whether cheese or limit ended the episode."""

    def images(self) -> UInt8[np.ndarray, "n channels height width"]:
        """Images of the mazes as they are."""

    def saved(self) -> dict[str, Tensor]:
        """Whatever decides what comes next, to be given to `restore` of another environment."""

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Goes on where another environment of the same settings was."""


def environment_settings(name: str, settings: Mapping[str, Any]) -> MazeSettings | ProcgenSettings:
    """The settings of an environment from their fields; InputError for fields that it does not have."""
    require_choice(name, get_args(EnvironmentName), "environment")
    made_of = MazeSettings if name == "maze" else ProcgenSettings
    known = {field.name for field in dataclasses.fields(made_of)}
    if unknown := sorted(set(settings) - known):
        raise InputError(
            f"{unknown[0]} is no setting of the environment {name}; expected {', '.join(sorted(known))}"
        )
    given: dict[str, Any] = {
        field: tuple(value) if isinstance(value, list) else value for field, value in settings.items()
    }
    return MazeSettings(**given) if name == "maze" else ProcgenSettings(**given)


def make_environment(name: str, n: int, seed: int = 0, **settings: Any) -> Environment:
    """An environment of n mazes: `maze`, ours, or `procgen-maze`, which needs the package procgen-gym.

    `settings` are fields of `MazeSettings` or `ProcgenSettings`. Raises InputError for other names, and where
    procgen-gym is not installed.

    >>> make_environment("maze", 4, limit=20).image_shape
    (3, 8, 8)
    """
    made = environment_settings(name, settings)
    return Mazes(n, made, seed) if isinstance(made, MazeSettings) else ProcgenMazes(n, made, seed)
