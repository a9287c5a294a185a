"""Coactivations of pairs in static circuits, against counting them one position at a time."""

import pytest
import torch

from analysis import coactivations, static_circuit
from analysis.circuits.attribution import attribute
from analysis.circuits.prompt.prompt import open_prompt
from analysis.circuits.targets import FeatureTarget, LogitTarget
from bilinear_lm import InputError
from bilinear_lm.sites import Site, site_activations

from .random_dictionaries import SMALL, dictionaries

WINDOWS = [[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8], [9, 7, 9]]


@pytest.fixture(scope="module")
def model(family_model):
    return family_model(**SMALL)


@pytest.mark.parametrize("skip", [0, 1])
def test_counts(model, skip):
    given = dictionaries(("mlp-in", "mlp-out"), k=3)
    graph = static_circuit(model, FeatureTarget(Site(1, "mlp-out"), 3), given, beam=8)
    found = coactivations(model, graph, given, WINDOWS, skip=skip)
    assert len(found) > 8
    assert [abs(each.weight) for each in found] == sorted((abs(each.weight) for each in found), reverse=True)
    positions = {}
    for site in (Site(0, "mlp-in"), Site(1, "mlp-in")):
        codes = []
        for window in WINDOWS:
            (seen,) = site_activations(model, [torch.tensor([window])], [site])
            codes += list(given[site].encode(seen[site][0, skip:]))
        positions[site] = codes
    n = sum(len(window) - skip for window in WINDOWS)
    for each in found:
        ends = [(positions[Site.parse(node.site)], node.index) for node in (each.left, each.right)]
        active = [{at for at, code in enumerate(codes) if code[index] != 0} for codes, index in ends]
        assert (each.n_left, each.n_right, each.n_both) == (
            len(active[0]),
            len(active[1]),
            len(active[0] & active[1]),
        )
        assert each.expected == pytest.approx(len(active[0]) * len(active[1]) / n)
        assert each.never_together == (bool(active[0]) and bool(active[1]) and not active[0] & active[1])
        assert graph.into(each.interaction.id)[0].weight == each.weight
    assert {each.never_together for each in found} == {True, False}


def test_refusals(model):
    given = dictionaries(("mlp-in", "mlp-out"))
    without = static_circuit(model, LogitTarget(7))
    with pytest.raises(InputError, match="no interactions of two features"):
        coactivations(model, without, given, WINDOWS)
    with pytest.raises(InputError, match="of a prompt; expected one from weights alone"):
        coactivations(model, attribute(open_prompt(model, [3, 1]), LogitTarget(7)).graph, given, WINDOWS)
    graph = static_circuit(model, FeatureTarget(Site(1, "mlp-out"), 3), given)
    with pytest.raises(InputError, match="is in none of the dictionaries"):
        coactivations(model, graph, dictionaries(("mlp-out",)), WINDOWS)
    with pytest.raises(InputError, match="an empty list of windows"):
        coactivations(model, graph, given, [])
