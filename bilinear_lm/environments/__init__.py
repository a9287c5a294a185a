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

__getattr__ = names_on_first_use(__name__, light="all")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
