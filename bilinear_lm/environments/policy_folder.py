"""Policies on disk: a network's folder, and environment.json about the mazes that it was trained in."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bilinear_lm.arguments import checked
from bilinear_lm.environments.environment import (
    Environment,
    EnvironmentName,
    environment_settings,
    make_environment,
)
from bilinear_lm.environments.levels import Part
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json, reading, write_json
from bilinear_lm.networks.folder import load_network, save_network
from bilinear_lm.networks.policy import PolicyNetwork
from bilinear_lm.shipped import SHIPPED
from bilinear_lm.shown import shown

ENVIRONMENT = "environment.json"

_SHIPPED = SHIPPED / "policies"


@shown
@dataclass(frozen=True)
class Policy:
    """A policy and the environment that it was trained in."""

    network: PolicyNetwork
    environment: EnvironmentName = "maze"
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the environment, fields of `MazeSettings` or `ProcgenSettings`."""

    def mazes(self, n: int, *, seed: int = 0, part: Part = "test", **changes: Any) -> Environment:
        """n mazes as in training, by default of levels that training never shows."""
        own = self.settings if part == "train" else self.settings | {"n_levels": None}
        return make_environment(self.environment, n, seed, **own | {"part": part} | changes)

    def _told(self) -> dict[str, Any]:
        return {"environment": self.environment, "kind": self.network.settings.kind}


def shipped_policies() -> list[str]:
    """The names of the policies that ship with the package."""
    return sorted(path.parent.name for path in _SHIPPED.glob(f"*/{ENVIRONMENT}"))


@checked
def save_policy(policy: Policy, folder: str | os.PathLike[str]) -> None:
    """Writes a policy into a new folder: network.json, network.safetensors and environment.json."""
    settings = dataclasses.asdict(environment_settings(policy.environment, policy.settings))
    save_network(policy.network, folder)
    write_json(Path(folder) / ENVIRONMENT, {"environment": policy.environment, "settings": settings})


@checked
def load_policy(name: str | os.PathLike[str], *, device: torch.device | str | None = None) -> Policy:
    """The policy in a folder that `save_policy` wrote, or one that ships, by its name.

    InputError for a folder without one, a network that is no policy, and settings of another environment.

    >>> load_policy("maze").network.settings.image_shape
    (3, 8, 8)
    """
    folder = Path(name).expanduser()
    with reading(folder):
        if not folder.exists() and str(name) in shipped_policies():
            folder = _SHIPPED / str(name)
        if not folder.is_dir():
            known = ", ".join(shipped_policies()) or "none"
            raise InputError(f"{name}: no policy there; expected its folder, or one that ships: {known}")
    network = load_network(folder, device=device)
    if not isinstance(network, PolicyNetwork):
        raise InputError(
            f"{folder}: holds a network of class {type(network).__name__}; expected a PolicyNetwork, as "
            "bilinear-lm policy train writes it"
        )
    about = read_json(folder / ENVIRONMENT)
    if set(about) != {"environment", "settings"} or not isinstance(about["settings"], dict):
        raise InputError(
            f"{folder / ENVIRONMENT}: holds {', '.join(sorted(about)) or 'nothing'}; expected environment "
            "and settings, as save_policy writes them"
        )
    try:
        settings = environment_settings(about["environment"], about["settings"])
    except InputError as error:
        raise InputError(f"{folder / ENVIRONMENT}: {error}") from error
    expected = settings.image_shape
    if network.settings.image_shape != expected:
        raise InputError(
            f"{folder}: a network that sees {list(network.settings.image_shape)} in an environment of images "
            f"{list(expected)}; expected one of these, train it again"
        )
    return Policy(network.requires_grad_(False), about["environment"], dataclasses.asdict(settings))
