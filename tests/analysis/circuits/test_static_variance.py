"""The variance that products of a static circuit can carry, against least squares on dense matrices."""

import numpy as np
import pytest

from analysis import static_circuit, summary
from analysis.circuits.targets import DirectionTarget, FeatureTarget
from analysis.circuits.weights.model import static_model
from bilinear_lm.sites import Site

from .random_dictionaries import MODELS, SMALL, dictionaries
from .test_slopes import U

TARGET = FeatureTarget(Site(1, "mlp-out"), 3)


@pytest.fixture(scope="module", params=["grouped queries", "biases"])
def model(family_model, request):
    return family_model(**SMALL | MODELS[request.param]).double()


@pytest.mark.parametrize("point", ["mlp-in", "resid-mid"])
@pytest.mark.parametrize("beam", [3, 20])
def test_pairs(model, point, beam):
    given = dictionaries((point, "mlp-out"))
    graph = static_circuit(model, TARGET, given, beam=beam, share=1.0)
    layer = static_model(model, given).layers[1]
    tensor, dictionary = layer.block.folded, given[Site(1, point)].to("cpu", layer.block.factor.dtype)
    factor = layer.block.factor if point == "mlp-in" else 1.0

    def read(node):
        constant = float(
            dictionary.b_enc[node.index]
            - (dictionary.b_dec_to_input * dictionary.b_dec) @ dictionary.encoder[:, node.index]
        )
        return np.append((dictionary.encoder[:, node.index] * factor).numpy(), [constant] * tensor.constant)

    products = []
    for edge in graph.into(graph.target):
        if graph.node(edge.source).kind == "interaction":
            ends = [read(graph.node(inner.source)) for inner in graph.into(edge.source)]
            outer = np.outer(ends[0], ends[-1])
            products.append(((outer + outer.T) / 2).flatten())
    Q = tensor.interaction_matrix(given[Site(1, "mlp-out")].encoder[:, 3].double()).numpy().flatten()
    span = np.stack(products, axis=1)
    rest = Q - span @ np.linalg.lstsq(span, Q, rcond=1e-10)[0]
    assert graph.settings["variance"][graph.target] == pytest.approx(1 - rest @ rest / (Q @ Q), abs=1e-6)
    assert f"{graph.settings['variance'][graph.target]:.1%} in layer 1" in summary(graph)


def test_eigenvectors_carry_their_squares(model):
    graph = static_circuit(model, DirectionTarget(Site(1, "mlp-out"), U), beam=3)
    shown = graph.settings["shown"][graph.target]["eigenvectors"]
    assert graph.settings["variance"][graph.target] == pytest.approx(shown, abs=1e-9)
    assert 0 < shown < 1
    whole = static_circuit(model, DirectionTarget(Site(1, "mlp-out"), U), beam=99, share=1.0)
    assert whole.settings["variance"][whole.target] == pytest.approx(1.0)
    kept = [node.id for node in graph.nodes if node.kind not in ("interaction", "eigenvector")]
    assert "variance" not in graph.subgraph(kept).graph.settings
