"""Policies on disk: what was saved is loaded, and what is no policy is refused."""

import json

import pytest
import torch

from bilinear_lm import InputError
from bilinear_lm.environments import Policy, load_policy, play_episodes, save_policy, shipped_policies
from bilinear_lm.environments.film import film_episode
from bilinear_lm.environments.maze import MOVES
from bilinear_lm.networks import ImageClassifier, ImageSettings, PolicyNetwork, PolicySettings, save_network


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return Policy(PolicyNetwork(), "maze", {"limit": 12})


def test_saved_and_loaded(policy, tmp_path):
    save_policy(policy, tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    x = torch.rand(3, 3, 8, 8)
    assert torch.equal(loaded.network(x).logits, policy.network(x).logits)
    assert loaded.mazes(4).settings == policy.mazes(4).settings
    assert loaded.mazes(4).settings.part == "test"
    assert loaded.settings["limit"] == 12


def test_levels_of_training_end_and_unseen_ones_do_not(policy):
    few = Policy(policy.network, "maze", {"n_levels": 2})
    assert few.mazes(4, part="train").settings.n_levels == 2
    assert few.mazes(4).settings.n_levels is None


def test_the_shipped_policy_plays():
    assert shipped_policies() == ["maze"]
    policy = load_policy("maze")
    mazes = policy.mazes(200, seed=4)
    assert play_episodes(mazes, policy.network).mean_return > play_episodes(mazes).mean_return + 3
    assert sum(parameter.numel() for parameter in policy.network.parameters()) * 4 < 300_000


def test_a_film_is_an_episode():
    film = film_episode(load_policy("maze"), seed=1)
    moved = film.states.mouse[1:] - film.states.mouse[:-1]
    for step, action in zip(moved, film.actions, strict=False):
        assert not step.any() or (step == MOVES[action]).all()
    assert (film.states.steps == range(len(film))).all()
    assert film.probabilities.sum(1) == pytest.approx(1)
    end = film.states.mouse[-1] + MOVES[film.actions[-1]]
    assert (film.reward > 0) == (end == film.states.cheese[-1]).all()
    letters = film.told(0).split("\n")[:8]
    assert sum(row.count("m") for row in letters) == sum(row.count("C") for row in letters) == 1
    assert sum(row.count("#") for row in letters) == film.states.walls[0].sum()


def test_what_is_no_policy_is_refused(policy, tmp_path):
    with pytest.raises(InputError, match="no policy there; expected its folder, or one that ships: maze"):
        load_policy(tmp_path / "missing")
    save_network(ImageClassifier(ImageSettings((4, 4), d_model=4, d_mlp=4)), tmp_path / "classifier")
    with pytest.raises(
        InputError, match="holds a network of class ImageClassifier; expected a PolicyNetwork"
    ):
        load_policy(tmp_path / "classifier")


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"environment": "chess", "settings": {}}, "environment 'chess'"),
        ({"environment": "maze", "settings": {"walls": 3}}, "walls is no setting"),
        ({"environment": "maze", "settings": {"board": 9}}, "in an environment of images"),
        ({"environment": "maze", "settings": {"limit": 0}}, "limit 0"),
        ({"environment": "maze"}, "expected environment and settings"),
        ({"environment": "procgen-maze", "settings": {}}, "in an environment of images"),
    ],
)
def test_environments_that_do_not_fit(policy, tmp_path, about, says):
    save_policy(policy, tmp_path / "policy")
    (tmp_path / "policy" / "environment.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=says):
        load_policy(tmp_path / "policy")


def test_settings_of_policies():
    with pytest.raises(InputError, match="n_outputs 2 of a policy"):
        PolicySettings(n_outputs=2)
    network = PolicyNetwork(PolicySettings(bias=True))
    x = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    network.double()
    decision = network(x)
    outputs = network.head_tensor()(network.trunk(x).flatten(1))
    assert torch.allclose(outputs, torch.cat([decision.logits, decision.value[:, None]], 1), atol=1e-12)
