"""Training of policies: it learns, goes on to the same weights after a kill, and refuses what cannot be."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune.networks.policy as training
from bilinear_lm import InputError
from bilinear_lm.cli import main
from bilinear_lm.environments import Mazes, MazeSettings, load_policy
from bilinear_lm.networks import PolicyNetwork
from finetune.networks.policy import train_policy
from finetune.networks.policy_config import PolicyConfig

QUICK = {
    "steps": 900,
    "mazes": 6,
    "rollout": 25,
    "batch_size": 75,
    "checkpoint_rollouts": 2,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def few_levels(monkeypatch):
    monkeypatch.setattr(training, "UNSEEN_LEVELS", 8)


def weights(folder):
    return load_policy(folder).network.state_dict()


def test_a_killed_run_goes_on_to_the_same_policy(tmp_path, monkeypatch):
    whole = train_policy(PolicyConfig(tmp_path / "whole", **QUICK))
    keep = training._Course._keep

    def kept_then_killed(course, steps):
        keep(course, steps)
        if len(course.entries) >= 4:
            raise KeyboardInterrupt

    interrupted = PolicyConfig(tmp_path / "interrupted", **QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(training._Course, "_keep", kept_then_killed)
        with pytest.raises(KeyboardInterrupt):
            train_policy(interrupted)
    run = tmp_path / "interrupted.run"
    assert [path.name for path in run.glob("checkpoint-*")]
    assert not [path for path in run.rglob("*") if path.suffix in (".pkl", ".pt", ".zip", ".bin")]
    with pytest.raises(InputError, match="add --resume"):
        train_policy(interrupted)
    with pytest.raises(InputError, match="resumed with other settings"):
        train_policy(dataclasses.replace(interrupted, gamma=0.9, resume=True))
    np.random.seed(99)
    torch.manual_seed(99)
    resumed = train_policy(dataclasses.replace(interrupted, resume=True))
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "interrupted")
    assert all(torch.equal(one[name], other[name]) for name in one)
    curves = [json.loads((tmp_path / name / "curve.json").read_text()) for name in ("whole", "interrupted")]
    without = [[{**entry, "seconds": 0} for entry in curve["curve"]] for curve in curves]
    assert without[0] == without[1]
    assert whole["unseen_levels"] == resumed["unseen_levels"]
    assert not run.exists()
    assert (tmp_path / "whole" / "curve.png").stat().st_size > 1000


def test_what_the_algorithm_is_told(tmp_path):
    """Images and ends as they are, rewards as parts of the cheese's, returns of whole episodes."""
    from finetune.networks.ppo import PlayedMazes

    settings, generator = MazeSettings(limit=5), np.random.default_rng(0)
    played, mazes = PlayedMazes(Mazes(8, settings, seed=2)), Mazes(8, settings, seed=2)
    assert (played.reset() == mazes.reset()).all()
    returns, lengths, ended = [0.0] * 8, [0] * 8, []
    for _ in range(40):
        actions = generator.integers(0, 4, 8)
        images, rewards, terminated, truncated = mazes.step(actions)
        told = played.step(actions)
        assert (told[0] == images).all()
        assert (told[1] * 10 == rewards).all()
        assert (told[2] == (terminated | truncated)).all()
        for i in range(8):
            returns[i] += rewards[i]
            lengths[i] += 1
            if terminated[i] or truncated[i]:
                ended.append((returns[i], lengths[i]))
                returns[i], lengths[i] = 0.0, 0
    assert played.ended == ended


def test_the_algorithm_asks_the_network_alone():
    """Probabilities, values and entropies are the network's, and there are no more weights."""
    from finetune.networks.ppo import PlayedMazes, make_ppo

    torch.manual_seed(0)
    network, mazes = PolicyNetwork(), Mazes(8, seed=1)
    ppo = make_ppo(network, PlayedMazes(mazes), 0, n_steps=4, batch_size=32)
    assert sum(each.numel() for each in ppo.policy.parameters()) == sum(
        p.numel() for p in network.parameters()
    )
    images = torch.from_numpy(mazes.images())
    logits, value = network(network.pixels(mazes.images()))
    actions = torch.arange(8) % 4
    values, log_probabilities, entropy = ppo.policy.evaluate_actions(images, actions)
    shares = logits.softmax(1)
    assert torch.equal(values[:, 0], value)
    assert torch.allclose(log_probabilities.exp(), shares[torch.arange(8), actions], atol=1e-6)
    assert torch.allclose(entropy, -(shares * shares.log()).sum(1), atol=1e-6)


def test_the_kinds_have_as_many_weights():
    sizes = [
        sum(each.numel() for each in PolicyNetwork(PolicyConfig(Path("x"), kind=kind).network()).parameters())
        for kind in ("bilinear", "relu")
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


BAD = {
    "steps": ({"steps": 0}, "steps is 0"),
    "batch": ({"batch_size": 5000}, "no more than a rollout has"),
    "gamma": ({"gamma": 1.5}, "gamma is 1.5"),
    "seed": ({"seed": -1}, "seed -1"),
    "rate": ({"learning_rate": 0.0}, "learning_rate is 0.0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(tmp_path, name):
    settings, says = BAD[name]
    with pytest.raises(InputError, match=says):
        train_policy(PolicyConfig(tmp_path / "policy", **settings))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_installed_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "procgen_gym", None)
    arguments = ["policy", "train", "-o", str(tmp_path / "policy"), "--environment", "procgen-maze"]
    assert main(arguments) == 2
    assert "bilinear-lm[rl]" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    assert main(["policy", "train", "-o", str(tmp_path / "policy")]) == 2
    assert "bilinear-lm[rl]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_told(tmp_path):
    with pytest.raises(InputError, match="training diverged"):
        train_policy(PolicyConfig(tmp_path / "policy", **QUICK, learning_rate=1e20))
    assert not (tmp_path / "policy").exists()
