"""Terms of a policy: exact sums in float64, whatever is scaled, and controls of equal energy."""

import numpy as np
import pytest
import torch

from analysis.convolutions.terms import decompose_terms
from analysis.policies.concept import concept_report, probe_depths
from analysis.policies.control import action_terms, control, random_action_terms, scaled_logits
from analysis.policies.pixels import pixel_filters
from analysis.policies.states import state_images, visited_states
from analysis.policies.truncation import action_vectors, truncated_logits, truncation_curve
from bilinear_lm import InputError
from bilinear_lm.environments import ACTIONS, Policy
from bilinear_lm.networks import PolicyNetwork, PolicySettings


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    network = PolicyNetwork(PolicySettings(channels=(4, 6), d_hidden=12)).double().requires_grad_(False)
    return Policy(network, "maze", {"limit": 8})


@pytest.fixture(scope="module")
def x(policy):
    return state_images(policy, policy.mazes(40, seed=1).states)


def test_all_eigenvectors_are_the_logits(policy, x):
    network = policy.network
    assert torch.allclose(truncated_logits(network, 96)(x), network(x).logits, atol=1e-10)
    few, vectors = truncated_logits(network, 3)(x), action_vectors(network, 3)
    features = network.trunk(x).flatten(1).numpy()
    for action in range(4):
        read = features @ vectors.vectors[action].flatten(1).numpy().T
        assert few[:, action].numpy() == pytest.approx((vectors.values[action].numpy() * read**2).sum(1))


def test_eigenvectors_of_the_dense_matrix(policy):
    network = policy.network
    gate, up, head = (
        W.detach().numpy() for W in (network.hidden.W_gate, network.hidden.W_in, network.W_head)
    )
    dense = np.einsum("ih,jh,h->ij", gate, up, head[:, 2])
    values = np.linalg.eigvalsh((dense + dense.T) / 2)
    found = action_vectors(network, 5).values[2].numpy()
    assert np.abs(found) == pytest.approx(np.sort(np.abs(values))[::-1][:5])


def test_terms_scaled_by_hand(policy, x):
    """With all terms of all vectors, the reading V · y loses all but what is direct."""
    network = policy.network
    chosen = action_terms(network, "left", k=3, terms=5)
    vectors = chosen.vectors.flatten(1)
    assert torch.allclose(vectors @ vectors.T, torch.eye(3, dtype=x.dtype), atol=1e-10)
    into, y = network.trunk.run(x, to="block2"), network.trunk(x)
    for scale in (0.0, 1.0, -2.5):
        moved = y.clone()
        for vector, terms in zip(chosen.vectors, chosen.terms, strict=True):
            size, sums = terms.parts.sizes[terms.part], torch.zeros(len(x), dtype=x.dtype)
            for index in range(len(terms)):
                laid = torch.nn.functional.conv2d(into, terms.filters[index][None], padding=1)[:, 0]
                spatial = terms.parts.spatial[terms.part[index]]
                sums += size[index] * terms.eigenvalues[index] * (spatial * laid**2).sum((1, 2))
            moved += (scale - 1) * sums[:, None, None, None] * vector
        assert torch.allclose(
            scaled_logits(network, chosen, scale)(x), network.decide(moved).logits, atol=1e-9
        )
    whole = action_terms(
        network, "left", k=3, terms=len(decompose_terms(network.trunk.blocks[3], chosen.vectors[0]))
    )
    left = scaled_logits(network, whole, 0.0)(x)
    quadratic = network.trunk.blocks[3].gain * network.trunk.blocks[3].conv(into)
    removed = y - torch.einsum("kd,nd,ke->ne", vectors, quadratic.flatten(1), vectors).view_as(y)
    assert torch.allclose(left, network.decide(removed).logits, atol=1e-9)


def test_chosen_vectors_raise_their_action(policy, x):
    """Along each, the action's logit above the mean grows with the square."""
    network = policy.network
    for action in ACTIONS:
        for vector in action_terms(network, action, k=2, terms=3).vectors:
            logits = network.decide(vector[None]).logits[0]
            assert logits[ACTIONS.index(action)] > logits.mean()


def test_random_terms_have_the_energy(policy, x):
    network = policy.network
    drawn = random_action_terms(network, k=2, terms=4, seed=5)
    features = drawn.vectors.flatten(1)
    support = torch.cat([network.hidden.W_gate, network.hidden.W_in], 1)
    residual = features.T - support @ torch.linalg.lstsq(support, features.T).solution
    assert residual.abs().max() < 1e-10
    into = network.trunk.run(x, to="block2")
    logits_moved = network.trunk(x) * 0
    for vector, terms in zip(drawn.vectors, drawn.terms, strict=True):
        logits_moved += terms.values(into).sum(1)[:, None, None, None] * vector
    assert drawn.energy(into) == pytest.approx(float(logits_moved.square().sum((1, 2, 3)).mean()))


def test_control_beside_random(policy):
    met = visited_states(policy, 60, seed=1)
    found = control(policy, met, "down", scale=3.0, k=2, terms=4, n_random=2, n=20)
    network, place = policy.network, ACTIONS.index("down")
    images = state_images(policy, met)
    chosen = action_terms(network, "down", k=2, terms=4)
    with torch.no_grad():
        by_hand = scaled_logits(network, chosen, 3.0)(images).softmax(1)[:, place].mean()
    assert found.chosen.probability == pytest.approx(float(by_hand))
    assert found.change == abs(found.chosen.probability - found.before.probability)
    assert found.times_random == found.change / max(
        abs(each.probability - found.before.probability) for each in found.random
    )
    assert len(found.random) == 2


def test_filters_in_pixels(policy, x):
    network = policy.network
    terms = decompose_terms(network.trunk.layers["block0"], torch.randn(4, 8, 8, dtype=x.dtype))
    filters = pixel_filters(network, terms)
    assert torch.allclose(
        torch.nn.functional.conv2d(x, filters, padding=1),
        torch.nn.functional.conv2d(network.trunk.run(x, to="entry0"), terms.filters, padding=1),
        atol=1e-10,
    )


def test_filters_in_pixels_of_patches():
    torch.manual_seed(0)
    network = PolicyNetwork(PolicySettings.small((3, 16, 16), n_outputs=5, patch=2)).double()
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    terms = decompose_terms(network.trunk.layers["block0"], torch.randn(8, 8, 8, dtype=x.dtype))[:4]
    laid = torch.nn.functional.conv2d(x, pixel_filters(network, terms), stride=2, padding=2)
    expected = torch.nn.functional.conv2d(network.trunk.run(x, to="entry0"), terms.filters, padding=1)
    assert torch.allclose(laid, expected, atol=1e-10)


def test_the_report_of_a_concept(policy):
    report = concept_report(policy, "cheese-up", n=200, n_met=500, controls=2)
    assert list(report.depths) == list(policy.network.trunk.layer_names)
    assert all(scores.base_rate == pytest.approx(0.5, abs=0.1) for scores in report.depths.values())
    assert 0 < report.met.base_rate < 0.3
    curve = report.terms.dropped
    assert curve.control.shape == (2, 6)
    terms = report.terms
    for control_curve in (curve.control, terms.turned.control, terms.varied.control, terms.noise.control):
        assert torch.equal(control_curve[:, 0], curve.auc[:1].expand(2))
    assert terms.removed[0] == 0
    assert (terms.removed[1:] > 0).all()
    # The whole is the probe's score on states that its fit did not see.
    assert curve.whole == pytest.approx(report.depths["block1"].auc, abs=1e-9)


def test_the_curve_of_few_eigenvectors(policy):
    curve = truncation_curve(policy, (1, 96), n=20)
    assert curve.returns[1] == curve.whole.mean_return
    assert curve.random.returns.shape == (20,)


def test_refusals(policy, x):
    relu = PolicyNetwork(PolicySettings(kind="relu"))
    biased = PolicyNetwork(PolicySettings(bias=True))
    for network, says in ((relu, "kind 'relu'"), (biased, "with biases")):
        with pytest.raises(InputError, match=says):
            action_vectors(network, 2)
    with pytest.raises(InputError, match="layer 'block9'"):
        concept_report(policy, "cheese-up", layer="block9")
    with pytest.raises(InputError, match="'entry1' is no bilinear block; expected one of block0, block1"):
        concept_report(policy, "cheese-up", layer="entry1")
    with pytest.raises(InputError, match="action 'jump'"):
        action_terms(policy.network, "jump")
    with pytest.raises(InputError, match="terms of a vector"):
        action_terms(policy.network, "up", k=1, terms=10_000)
    with pytest.raises(InputError, match="scale 1 leaves"):
        control(policy, policy.mazes(4).states, "up", scale=1.0)
    with pytest.raises(InputError, match="holds in 0 of"):
        probe_depths(policy.network, x, torch.zeros(len(x), dtype=torch.bool))
    with pytest.raises(InputError, match="terms of filters"):
        pixel_filters(
            policy.network, decompose_terms(policy.network.trunk.blocks[2], torch.randn(6, 4, 4).double())
        )
