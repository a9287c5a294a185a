"""Mazes in which a mouse looks for cheese, of our own in numpy and ProcGen's, and policies that play them."""

from __future__ import annotations

from bilinear_lm.environments.environment import Environment, EnvironmentName, make_environment
from bilinear_lm.environments.episodes import Episodes, play_episodes
from bilinear_lm.environments.maze import ACTIONS, CHANNELS, Mazes, MazeSettings, MazeStates

__all__ = [
    "ACTIONS",
    "CHANNELS",
    "Environment",
    "EnvironmentName",
    "Episodes",
    "MazeSettings",
    "MazeStates",
    "Mazes",
    "make_environment",
    "play_episodes",
]
