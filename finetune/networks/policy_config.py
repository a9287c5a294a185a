"""Settings of training a policy; the command line is made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bilinear_lm.checks import require_seed
from bilinear_lm.device import DeviceName
from bilinear_lm.environments.names import EnvironmentName
from bilinear_lm.errors import InputError
from finetune.bounds import COUNT, FROM_ZERO, POSITIVE, RATE, Bounds, require_bounds, require_kinds

if TYPE_CHECKING:
    from bilinear_lm.networks.policy import PolicySettings

_COUNTS = ("steps", "limit", "n_levels", "mazes", "rollout", "epochs", "checkpoint_rollouts")

_BOUNDS = {
    **dict.fromkeys(_COUNTS, COUNT),
    "batch_size": Bounds(2, 10**9),
    "learning_rate": RATE,
    "gamma": Bounds(0, 1),
    "gae_lambda": Bounds(0, 1),
    "clip": POSITIVE,
    "entropy": FROM_ZERO,
    "max_grad_norm": POSITIVE,
}


@dataclass(frozen=True)
class PolicyConfig:
    """Settings of training a policy by PPO; on one CPU the same ones give the same policy."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """New folder for the policy, its record and its curve."""
    environment: EnvironmentName = "maze"
    """maze: ours, 8 × 8 pixels; procgen-maze: ProcGen's, 64 × 64, which needs procgen-gym."""
    kind: Literal["bilinear", "relu"] = "bilinear"
    """bilinear: products in the place of nonlinearities; relu: the same network of as many parameters."""
    shape: Literal["small", "impala"] | None = None
    """small: patches, 8 and 16 channels; impala: 16, 32 and 32 channels behind max-pooling. By default small,
    with patches of 4 pixels for larger images."""
    steps: int = 420_000
    """Steps in all mazes together."""
    n_levels: int | None = None
    """Levels to train on; by default there is no end to them."""
    limit: int | None = None
    """Steps after which an episode ends; by default 40, and 500 in ProcGen's."""
    mazes: int = 128
    """Mazes that are played at once."""
    rollout: int = 32
    """Steps in each maze between two updates."""
    batch_size: int = 512
    """Steps of one gradient."""
    epochs: int = 3
    """Passes over each rollout."""
    learning_rate: float = 2e-3
    """Step size of Adam at the start; it falls to 0 in a line."""
    gamma: float = 0.95
    """Discount of rewards, a step."""
    gae_lambda: float = 0.95
    """Discount of differences of values, a step (generalised advantages)."""
    clip: float = 0.2
    """How far a probability may be moved by an update, as a part of itself."""
    entropy: float = 0.01
    """Weight of the entropy of the actions."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm."""
    checkpoint_rollouts: int = 10
    """Rollouts between checkpoints to resume from."""
    seed: int = 0
    """Seeds weights, levels and actions."""
    device: DeviceName = "auto"
    """Where to train."""
    resume: bool = False
    """Go on with an interrupted run of the same settings."""

    def check(self) -> None:
        """Raises InputError where the settings do not fit together."""
        require_kinds(self)
        for name, bounds in _BOUNDS.items():
            require_bounds(self, {name: bounds}, is_="is ")
        require_seed(self.seed)
        if self.batch_size > self.mazes * self.rollout:
            raise InputError(
                f"batch_size is {self.batch_size} with rollouts of {self.mazes} mazes x {self.rollout} "
                "steps; expected no more than a rollout has"
            )
        self.network()

    def maze_settings(self) -> dict[str, int]:
        """Settings of the environment that are not its own defaults."""
        given = {"n_levels": self.n_levels, "limit": self.limit}
        return {name: value for name, value in given.items() if value is not None}

    def network(self) -> PolicySettings:
        """The shape of the policy."""
        from bilinear_lm.environments.environment import environment_settings
        from bilinear_lm.networks.policy import PolicySettings

        image_shape = environment_settings(self.environment, self.maze_settings()).image_shape
        if self.shape == "impala":
            return PolicySettings.impala(image_shape, kind=self.kind, n_outputs=5)  # type: ignore[return-value]
        patch = max(1, image_shape[1] // 16)
        return PolicySettings.small(image_shape, kind=self.kind, n_outputs=5, patch=patch)  # type: ignore[return-value]
