"""Mazes in which a mouse looks for cheese, of our own in numpy and ProcGen's, and policies that play them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bilinear_lm.first_use import names_on_first_use

if TYPE_CHECKING:
    from bilinear_lm.environments.environment import Environment, EnvironmentName, make_environment
    from bilinear_lm.environments.episodes import Episodes, play_episodes
    from bilinear_lm.environments.maze import ACTIONS, CHANNELS, Mazes, MazeSettings, MazeStates
    from bilinear_lm.environments.policy_folder import Policy, load_policy, save_policy, shipped_policies

__all__ = [
    "ACTIONS",
    "CHANNELS",
    "Environment",
    "EnvironmentName",
    "Episodes",
    "MazeSettings",
    "MazeStates",
    "Mazes",
    "Policy",
    "load_policy",
    "make_environment",
    "play_episodes",
    "save_policy",
    "shipped_policies",
]

_ON_FIRST_USE = {
    "ACTIONS": "bilinear_lm.environments.maze",
    "CHANNELS": "bilinear_lm.environments.maze",
    "Environment": "bilinear_lm.environments.environment",
    "EnvironmentName": "bilinear_lm.environments.environment",
    "Episodes": "bilinear_lm.environments.episodes",
    "MazeSettings": "bilinear_lm.environments.maze",
    "MazeStates": "bilinear_lm.environments.maze",
    "Mazes": "bilinear_lm.environments.maze",
    "Policy": "bilinear_lm.environments.policy_folder",
    "load_policy": "bilinear_lm.environments.policy_folder",
    "make_environment": "bilinear_lm.environments.environment",
    "play_episodes": "bilinear_lm.environments.episodes",
    "save_policy": "bilinear_lm.environments.policy_folder",
    "shipped_policies": "bilinear_lm.environments.policy_folder",
}

__getattr__ = names_on_first_use(__name__, _ON_FIRST_USE, light=set(_ON_FIRST_USE.values()))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
