"""Mazes in which a mouse looks for cheese, of our own in numpy and ProcGen's, and policies that play them."""

from __future__ import annotations

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
