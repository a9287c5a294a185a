"""PPO of stable-baselines3 around a policy network: its environments, its policy, and runs that go on.

Of stable-baselines3 the algorithm alone is used. Its policies put layers of their own behind a network, and
its files hold pickles; here the network is the policy, and everything that decides what comes next is written
as tensors: weights, Adam's moments, the state of every maze, and the generators of torch and numpy. A run
that was killed goes on from the end of a rollout, on one device to the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from bilinear_lm.environments.environment import Environment
from bilinear_lm.environments.maze import ACTIONS, REWARD
from bilinear_lm.errors import InputError
from bilinear_lm.networks.policy import Decision, PolicyNetwork


class PlayedMazes(VecEnv):
    """An environment as stable-baselines3 plays it; rewards are divided by that of the cheese.

    The limit of steps ends an episode like the cheese does: what would come after it counts nothing.
    """

    def __init__(self, environment: Environment):
        self.environment = environment
        self.render_mode = None
        images = spaces.Box(0, 255, environment.image_shape, dtype=np.uint8)
        super().__init__(environment.n, images, spaces.Discrete(len(ACTIONS)))
        self.returns = np.zeros(environment.n)
        self.lengths = np.zeros(environment.n, dtype=np.int64)
        self.ended: list[tuple[float, int]] = []
        """Return and length of the episodes that ended since the list was emptied."""

    def reset(self) -> np.ndarray:
        """The first images."""
        self.returns[:], self.lengths[:] = 0.0, 0
        return self.environment.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        """Images, rewards, whether episodes ended, and nothing else."""
        images, rewards, terminated, truncated = self.environment.step(self._actions)
        over = terminated | truncated
        self.returns += rewards
        self.lengths += 1
        self.ended += zip(self.returns[over].tolist(), self.lengths[over].tolist(), strict=True)
        self.returns[over], self.lengths[over] = 0.0, 0
        return images, (rewards / REWARD).astype(np.float32), over, [{} for _ in range(self.num_envs)]

    def close(self) -> None:
        """Does nothing: mazes are memory."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute, the same for every maze."""
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: mazes have no attributes of their own to set."""
        raise InputError(f"attribute {attr_name!r} of a maze to set; expected none")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Refused: mazes have no methods of their own to call."""
        raise InputError(f"method {method_name!r} of a maze to call; expected none, all mazes step together")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Mazes are in no wrapper."""
        return [False] * self.num_envs


class NetworkPolicy(ActorCriticPolicy):
    """A policy network as stable-baselines3 asks it; it has no layers besides."""

    def __init__(self, *args: Any, network: PolicyNetwork, **rest: Any):
        self._given = (network,)  # torch takes no module before its own initialisation
        super().__init__(*args, **rest | {"net_arch": [], "ortho_init": False})

    def _build(self, lr_schedule: Any) -> None:
        (self.network,) = self._given
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr_schedule(1), eps=1e-5)

    def _decided(self, images: Tensor) -> tuple[Distribution, Tensor]:
        decision: Decision = self.network(images.to(self.network.W_head.dtype) / 255)
        distribution = self.action_dist.proba_distribution(action_logits=decision.logits)
        return distribution, decision.value[:, None]

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, values and the logarithms of the actions' probabilities."""
        distribution, values = self._decided(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values, distribution.log_prob(actions)

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # type: ignore[override]
        """Values, the logarithms of the actions' probabilities, and entropies."""
        distribution, values = self._decided(obs)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Tensor) -> Distribution:  # type: ignore[override]
        """Probabilities of the actions."""
        return self._decided(obs)[0]

    def predict_values(self, obs: Tensor) -> Tensor:  # type: ignore[override]
        """Values of images."""
        return self._decided(obs)[1]


class EachRollout(BaseCallback):
    """Calls a function before each rollout, when everything of the last one has been learnt."""

    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def _on_rollout_start(self) -> None:
        self.function()

    def _on_step(self) -> bool:
        return True


def make_ppo(network: PolicyNetwork, played: PlayedMazes, seed: int, **settings: Any) -> PPO:
    """The algorithm around a network; it seeds torch and numpy, and logs nowhere."""
    ppo = PPO(
        NetworkPolicy,
        played,
        policy_kwargs={"network": network},
        device=network.W_head.device,
        seed=seed,
        **settings,
    )
    ppo.set_logger(Logger(folder=None, output_formats=[]))
    return ppo


def saved_ppo(ppo: PPO, played: PlayedMazes) -> dict[str, Tensor]:
    """Everything that decides how a run goes on, as tensors by name; taken between rollouts."""
    policy: NetworkPolicy = ppo.policy  # type: ignore[assignment]
    tensors = {f"weights.{name}": value for name, value in policy.network.state_dict().items()}
    for index, moments in policy.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in moments.items()}
    tensors |= {f"mazes.{name}": value for name, value in played.environment.saved().items()}
    state: Any = np.random.get_state()
    keys, place = state[1:3]
    tensors |= {
        "steps": torch.tensor(ppo.num_timesteps),
        "images": torch.from_numpy(np.array(ppo._last_obs)),
        "starts": torch.from_numpy(np.array(ppo._last_episode_starts)),
        "returns": torch.from_numpy(played.returns.copy()),
        "lengths": torch.from_numpy(played.lengths.copy()),
        "random.torch": torch.get_rng_state(),
        "random.numpy": torch.from_numpy(keys.astype(np.int64)),
        "random.numpy.place": torch.tensor(place),
    }
    if ppo.device.type != "cpu":
        tensors["random.device"] = torch.get_device_module(ppo.device).get_rng_state(ppo.device)
    return tensors


def restore_ppo(ppo: PPO, played: PlayedMazes, tensors: dict[str, Tensor]) -> None:
    """Puts an algorithm where `saved_ppo` found another of the same settings."""
    policy: NetworkPolicy = ppo.policy  # type: ignore[assignment]
    parts = {name: _part(tensors, name) for name in ("weights", "adam", "mazes")}
    policy.network.load_state_dict(parts["weights"])
    state = policy.optimizer.state_dict()
    state["state"] = {}
    for name, value in parts["adam"].items():
        index, _, moment = name.partition(".")
        state["state"].setdefault(int(index), {})[moment] = value
    policy.optimizer.load_state_dict(state)
    played.environment.restore(parts["mazes"])
    played.returns[:], played.lengths[:] = tensors["returns"].numpy(), tensors["lengths"].numpy()
    ppo.num_timesteps = int(tensors["steps"])
    ppo._last_obs, ppo._last_episode_starts = tensors["images"].numpy(), tensors["starts"].numpy()
    torch.set_rng_state(tensors["random.torch"])
    keys = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(tensors["random.numpy.place"]), 0, 0.0))
    if "random.device" in tensors and ppo.device.type != "cpu":
        torch.get_device_module(ppo.device).set_rng_state(tensors["random.device"], ppo.device)


def ended_since(played: PlayedMazes) -> Sequence[tuple[float, int]]:
    """Return and length of the episodes that ended since this was asked last."""
    ended, played.ended = played.ended, []
    return ended


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }
