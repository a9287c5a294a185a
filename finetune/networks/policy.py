"""Training a policy by PPO (Schulman et al., arXiv 1707.06347), with stable-baselines3, the extra `rl`.

The record and the curve tell the return beside that of chance: in ProcGen's default maze a policy that acts
at random gets 5 of 10. Both are measured by one episode on each of many levels that training never shows.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from bilinear_lm.arguments import checked
from bilinear_lm.device import find_device
from bilinear_lm.environments.environment import environment_settings, make_environment
from bilinear_lm.environments.episodes import Episodes, play_episodes
from bilinear_lm.environments.policy_folder import Policy, save_policy
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json, read_tensors, versions_of_run, write_json, write_tensors, write_text
from bilinear_lm.networks.policy import PolicyNetwork
from finetune.networks.policy_config import PolicyConfig
from finetune.runs.folder import (
    MAKE_ROOM,
    Diverged,
    as_json,
    checkpoint_to_resume,
    checkpoints,
    finishing,
    is_finished,
    open_run,
    preparing,
    training,
    writing,
)
from finetune.runs.manifest import write_manifest

if TYPE_CHECKING:
    from stable_baselines3 import PPO

    from finetune.networks.ppo import PlayedMazes

RECORD, CURVE = "train.json", "curve.json"

UNSEEN_LEVELS = 512
"""Levels that a finished policy is measured on, one episode each."""

_STATE = "state.safetensors"


@checked
def train_policy(config: PolicyConfig) -> dict[str, Any]:
    """Trains a policy and writes it to `config.output`; returns what train.json records.

    The folder has the policy (network.json, network.safetensors, environment.json), train.json (settings, and
    returns on unseen levels beside chance), curve.json (a line a rollout) and curve.png. While it runs,
    checkpoints lie in `<output>.run`; `resume=True` goes on from there after an interruption.

    Raises InputError for bad settings, without stable-baselines3 or the environment, and for training that
    diverges.
    """
    config.check()
    _require_stable_baselines()
    settings = _settings(config)
    if is_finished(config.output, settings, config.resume, RECORD):
        return read_json(config.output / RECORD)
    with preparing(config.output) as run:
        environment = make_environment(
            config.environment, config.mazes, config.seed, **config.maze_settings()
        )
        open_run(config.output, settings, config.resume)
    with training(run):
        network, curve = _train(config, run, environment)
    policy = Policy(network, config.environment, _environment(config))
    record: dict[str, Any] = {
        "settings": settings,
        "steps": curve[-1]["steps"] if curve else 0,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "seconds": curve[-1]["seconds"] if curve else 0.0,
        "unseen_levels": _measured(policy),
        "versions": versions_of_run("stable-baselines3", "gymnasium", "numpy"),
    }
    with finishing(run, config.output) as folder, writing(config.output, MAKE_ROOM):
        save_policy(policy, folder)
        write_json(folder / RECORD, record)
        write_json(folder / CURVE, {"random": record["unseen_levels"]["random"]["return"], "curve": curve})
        _draw(curve, record, folder / "curve.png")
    return record


def _settings(config: PolicyConfig) -> dict[str, Any]:
    """The settings that decide what the policy becomes."""
    return as_json(config, leave_out=("output", "device", "resume", "checkpoint_rollouts"))


def _environment(config: PolicyConfig) -> dict[str, Any]:
    return dataclasses.asdict(environment_settings(config.environment, config.maze_settings()))


def _train(config: PolicyConfig, run: Path, environment: Any) -> tuple[PolicyNetwork, list[dict[str, Any]]]:
    """The trained network and the entries of its curve."""
    from finetune.networks.ppo import EachRollout, PlayedMazes, make_ppo, restore_ppo

    torch.manual_seed(config.seed)
    network = PolicyNetwork(config.network()).to(find_device(config.device))
    played = PlayedMazes(environment)
    rate = config.learning_rate
    ppo = make_ppo(
        network,
        played,
        config.seed,
        learning_rate=lambda left: rate * left,
        n_steps=config.rollout,
        batch_size=config.batch_size,
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip,
        ent_coef=config.entropy,
        max_grad_norm=config.max_grad_norm,
    )
    course = _Course(config, run, ppo, played)
    resumed = checkpoint_to_resume(run)
    if resumed is not None:
        restore_ppo(ppo, played, read_tensors(resumed / _STATE))
        course.take_up(resumed)
    with course.bar:
        left = config.steps - ppo.num_timesteps
        if left > 0:
            course.learn(left, EachRollout(course.between), resumed is None)
            course.between()
    return network, course.entries


class _Course:
    """The curve, the bar and the checkpoints of a run, taken between rollouts."""

    def __init__(self, config: PolicyConfig, run: Path, ppo: PPO, played: PlayedMazes):
        self.config, self.run, self.ppo, self.played = config, run, ppo, played
        self.entries: list[dict[str, Any]] = []
        self.before, self.begun = 0.0, time.process_time()
        self.bar = tqdm(total=config.steps, desc="train", unit=" steps")
        self.kept = 0

    def take_up(self, checkpoint: Path) -> None:
        """Goes on from the entries that a checkpoint keeps."""
        self.entries = read_json(checkpoint / CURVE)["curve"]
        self.before = self.entries[-1]["seconds"] if self.entries else 0.0
        self.kept = self.ppo.num_timesteps
        self.bar.update(min(self.kept, self.config.steps))

    def learn(self, steps: int, callback: Any, begins: bool) -> None:
        """Runs the algorithm; weights that are not finite are told as such, whatever they lead to."""
        try:
            self.ppo.learn(steps, callback, log_interval=10**9, reset_num_timesteps=begins)
        except ValueError:  # torch's, of probabilities that are none
            self._require_finite(self.ppo.num_timesteps)
            raise

    def between(self) -> None:
        """An entry for the last rollout, and a checkpoint where one is due."""
        from finetune.networks.ppo import ended_since

        steps = self.ppo.num_timesteps
        if steps == (self.entries[-1]["steps"] if self.entries else 0):
            return
        self._require_finite(steps)
        ended = ended_since(self.played)
        entry = {
            "steps": steps,
            "episodes": len(ended),
            "return": float(np.mean([each for each, _ in ended])) if ended else None,
            "length": float(np.mean([length for _, length in ended])) if ended else None,
            "seconds": round(self.before + time.process_time() - self.begun, 2),
        }
        self.entries.append(entry)
        self.bar.update(min(steps, self.config.steps) - self.bar.n)
        if ended:
            self.bar.set_postfix({"return": f"{entry['return']:.2f}", "length": f"{entry['length']:.1f}"})
        rollout = self.config.mazes * self.config.rollout
        if steps - self.kept >= self.config.checkpoint_rollouts * rollout:
            self._keep(steps)

    def _keep(self, steps: int) -> None:
        """Writes a checkpoint, the manifest last, and removes all but the two newest."""
        from finetune.networks.ppo import saved_ppo

        folder = self.run / f"checkpoint-{steps}"
        shutil.rmtree(folder, ignore_errors=True)
        with writing(folder, MAKE_ROOM):
            folder.mkdir()
            write_tensors(folder / _STATE, saved_ppo(self.ppo, self.played))
            write_json(folder / CURVE, {"curve": self.entries})
            write_manifest(folder)
        write_text(self.run / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in self.entries))
        for old in checkpoints(self.run)[2:]:
            shutil.rmtree(old)
        self.kept = steps

    def _require_finite(self, steps: int) -> None:
        network: Any = self.ppo.policy.network
        with torch.no_grad():
            decided = network(network.pixels(np.asarray(self.ppo._last_obs)))
        if not all(bool(torch.isfinite(part).all()) for part in decided):
            raise Diverged(
                f"training diverged before step {steps}: what the policy puts out is not finite, at a "
                f"learning rate of {self.config.learning_rate:g}; give a smaller one and start anew"
            )


def _measured(policy: Policy) -> dict[str, Any]:
    """One episode on each of many unseen levels: sampled, greedy and by chance."""
    unseen = policy.mazes(UNSEEN_LEVELS, seed=1)
    played = {
        "sampled": play_episodes(unseen, policy.network),
        "greedy": play_episodes(unseen, policy.network, greedy=True),
        "random": play_episodes(unseen),
    }
    return {"levels": UNSEEN_LEVELS} | {name: _told(each) for name, each in played.items()}


def _told(episodes: Episodes) -> dict[str, float]:
    return {"return": episodes.mean_return, "length": episodes.mean_length, "won": episodes.won}


def _draw(curve: Sequence[dict[str, Any]], record: dict[str, Any], path: Path) -> None:
    """The return against steps, beside chance and the finished policy's on unseen levels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    known = [entry for entry in curve if entry["return"] is not None]
    steps = [entry["steps"] / 1e3 for entry in known]
    axes.plot(steps, [entry["return"] for entry in known], color="#3b7dd8", linewidth=1.2, label="training")
    unseen = record["unseen_levels"]
    for name, label, style in (("sampled", "unseen levels, at the end", "--"), ("random", "chance", ":")):
        axes.axhline(unseen[name]["return"], color="#606060", linewidth=1.0, linestyle=style, label=label)
    axes.set(xlabel="thousand steps", ylabel="return of an episode")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def _require_stable_baselines() -> None:
    try:
        import stable_baselines3  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"training a policy needs stable-baselines3 ({error}); install it with pip install "
            "'bilinear-lm[rl]'"
        ) from error
