"""Nothing stays behind on the CPU when tensors, models and dictionaries are somewhere else."""

import copy
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from torch import Tensor

import analysis
from analysis import FeatureLayer
from analysis.features.patterns import Pattern
from bilinear_lm import (
    BilinearTensor,
    Dictionary,
    FactoredCovariance,
    GLUWeights,
    Site,
    approximate_glu,
    approximate_mlp,
    attention_weights,
    bilinear_approximation,
    explained_variance,
    fit_polynomial,
    hook,
    mlp_tensor,
    text_loss,
    unembedding,
    unhook,
)
from finetune import Edit, convert, edit
from finetune.choices import Method
from finetune.conversion.glu_fit import FitSettings

from .compare import numbers, same
from .stand_in import AROUND_NORMS, other_device

D, D_MLP, N_FEAT = 16, 24, 20
WINDOWS = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 3, 7, 1, 2, 2, 8, 5], [4, 4, 1]]
TEXT = "a cat and a dog ran to the park. They saw a big red ball. " * 4


@dataclass(frozen=True)
class Things:
    """What analyses read, all of it on one device."""

    device: torch.device
    model: torch.nn.Module
    shallow: torch.nn.Module
    """One layer without norms."""
    gated: torch.nn.Module
    """With SiLU."""
    tokenizer: object
    tensor: BilinearTensor
    other: BilinearTensor
    u: Tensor
    inputs: Dictionary
    outputs: Dictionary

    @classmethod
    def on(cls, device, model, shallow, gated, tokenizer):
        torch.manual_seed(0)
        factors = [torch.randn(shape) for shape in 2 * ((D, D_MLP), (D, D_MLP), (D_MLP, D))]
        moved = [factor.to(device) for factor in factors]
        made = [torch.randn(shape) for shape in 2 * ((D, N_FEAT), (N_FEAT, D))]
        inputs, outputs = (
            Dictionary(*made[i : i + 2], activation="topk", k=4, site=Site(1, point)).to(device)
            for i, point in ((0, "mlp-in"), (2, "mlp-out"))
        )
        return cls(
            device,
            model.to(device),
            shallow.to(device),
            gated.to(device),
            tokenizer,
            BilinearTensor(*moved[:3]),
            BilinearTensor(*moved[3:]),
            torch.randn(3, D).to(device),
            inputs,
            outputs,
        )

    @property
    def features(self) -> FeatureLayer:
        return analysis.feature_layer(self.model, 1, self.inputs, self.outputs)

    @property
    def dictionaries(self) -> dict[Site, Dictionary]:
        return {self.inputs.site: self.inputs, self.outputs.site: self.outputs}

    @property
    def attention(self) -> list[analysis.attention.AttentionLayer]:
        return [analysis.attention_layer(self.model, layer) for layer in (0, 1)]


def tensor_methods(x: Things):
    t, points = x.tensor, x.u
    with_biases = BilinearTensor.from_layer(t.W_gate, t.W_in, t.W_out, b_in=t.W_in[0], b_out=points[0])
    return [
        t(points),
        t(points, points.flip(0)),
        t.interaction_matrix(points),
        t.matvec(points, points),
        t.pairwise(points, points),
        t.change_basis(points, points).dense(),
        t.cosine(x.other),
        with_biases(points),
        with_biases.norm(),
    ]


def closed_forms(x: Things):
    t, b = x.tensor, x.u[0].repeat(2)[:D_MLP]
    mean, cov = x.u[:2], torch.stack([torch.eye(D, device=x.device)] * 2)
    return [
        approximate_mlp(t.W_gate, t.W_out, "relu", b, x.u[1], degree=2),
        approximate_mlp(t.W_gate, t.W_out, "gelu", b, x.u[1], degree=2, mean=mean, cov=cov),
        approximate_glu(t.W_gate, t.W_in, t.W_out, "silu", degree=2, mean=mean[0], cov=cov[0]),
        bilinear_approximation(t.W_gate, t.W_in, t.W_out, "silu"),
    ]


def polynomials(x: Things):
    t, mean = x.tensor, x.u[0]
    labels, attack = torch.zeros(len(x.u), dtype=torch.long, device=x.device), {"norm": 1.0, "k": 2}
    layer = GLUWeights(t.W_gate, t.W_in, t.W_out)
    P = approximate_glu(t.W_gate, t.W_in, t.W_out, "silu", degree=4, mean=mean)
    return [
        P(x.u),
        P.jacobian(x.u),
        P.around(x.u[0])(x.u),
        P.term(3)(x.u),
        explained_variance(layer, "silu", cov=FactoredCovariance(x.u[:2], mean.square())).by_degree,
        fit_polynomial([(x.inputs.decoder, x.inputs.decoder.square())], 1).polynomial(x.u),
        analysis.svd_attack(P, x.u, labels, **attack).images,
        analysis.eigen_attack(P, x.u, labels, **attack).images,
    ]


def decompositions(x: Things):
    found = analysis.hosvd(x.tensor)
    few = analysis.cp_decompose(x.tensor, 3, rounds=2)
    return [
        analysis.eigendecompose(x.tensor, x.u, method="dense").values,
        found.spectrum,
        analysis.hosvd(x.tensor, leg="input").spectrum,
        analysis.truncate(x.tensor, found, 3).norm(),
        analysis.singular_eigenvectors(x.tensor, found, 2).values,
        analysis.truncate_eigenvectors(x.tensor, 3).norm(),
        analysis.as_squares(x.tensor).norm(),
        few.tensor.norm(),
        analysis.cp_decompose(x.tensor, 3, rounds=2, tied=True, restarts=1).tensor.norm(),
    ]


def block_method(x: Things):
    torch.manual_seed(0)
    wide = BilinearTensor(torch.randn(48, 60), torch.randn(48, 60), torch.randn(60, 8)).to(x.device)
    return analysis.eigendecompose(wide, x.u[:, :8], 3, method="block")


def similarities(x: Things):
    return [
        analysis.pairwise_cosine([x.tensor, x.other]),
        analysis.direction_similarity(x.tensor, x.other, x.u),
        analysis.gaussian_similarity(x.tensor, x.other, x.u[0], torch.eye(D, device=x.device)),
        analysis.match_vectors(x.u, x.inputs.decoder[:5]),
    ]


def guarantees(x: Things):
    torch.manual_seed(0)
    factors = torch.randn(30, 40), torch.randn(30, 40), torch.randn(40, 5)
    wide = BilinearTensor.from_layer(*factors, b_in=torch.randn(40), b_out=torch.randn(5)).to(x.device)
    u, mean, cov = x.u[:, :5], x.u[0], torch.eye(D, device=x.device)
    ranges = [analysis.certify(wide, u, method=method) for method in ("dense", "krylov")]
    subspace = analysis.inputs_where(x.u, x.u[:, 0])
    return [
        *(number for found in ranges for number in (found.low, found.high)),
        analysis.certify(x.tensor, x.u, over="ball", subspace=analysis.inputs_where(x.u)).high,
        analysis.certify(x.tensor, x.u[0], radius=20.0, subspace=subspace).high,
        analysis.certify_features(x.model, x.outputs).high,
        analysis.certify_logits(x.model, 1, [3, 4]).low,
        analysis.verify(x.tensor, x.u, x.other, mean=mean, cov=cov, points=x.u),
        analysis.verify(x.tensor, x.u, analysis.eigendecompose(x.tensor, x.u, 3)).worst,
        analysis.eigenvectors_needed(x.tensor, x.u, 0.1, free_constant=True),
        analysis.certified_margins(x.tensor.change_basis(outputs=x.u), x.u, 0.5),
    ]


def differences(x: Things):
    changed = copy.deepcopy(x.model)
    changed.model.layers[0].mlp.down_proj.weight.data *= 1.5
    null = analysis.null_changes(x.model, [changed])
    found = analysis.diff(x.model, changed, null=null, k=2)
    largest = analysis.largest_change(analysis.difference(x.tensor, x.other))
    return [
        *(sizes.change for sizes in found.sizes.values()),
        found.layers[0].largest.direction,
        torch.tensor([largest.low, largest.high], device=x.device),
    ]


def edits(x: Things):
    model = copy.deepcopy(x.model)
    report = edit(model, [Edit(0, x.u[0], (x.u[1], x.u[2]), 0.3), Edit(0, x.u[1], (x.u[0], x.u[0]), 0.2)])
    bounds = [[done.after, done.low, done.high] for done in report.interactions]
    return [mlp_tensor(model, 0)(x.u), torch.tensor(bounds, device=x.device)]


def interactions(x: Things):
    strongest = analysis.strongest_interactions(x.features, k=6)
    return [
        strongest,
        analysis.features.split_strongest_interactions(x.features, k=6),
        analysis.interaction_statistics(x.features, top=3),
        analysis.interaction_index(x.features, 3, 3),
        analysis.strongest_submatrix(x.features, 2, 5),
        analysis.interventions.random_interactions(x.features, strongest),
        [analysis.strongest_patterns(x.features, pattern, k=4) for pattern in get_args(Pattern)],
        analysis.opposing_features(x.features, x.outputs.decoder, 4, below=-0.1),
    ]


def on_text(x: Things):
    strongest = analysis.strongest_interactions(x.features, k=6)
    points = [torch.randn(9, D, generator=torch.Generator().manual_seed(i)).to(x.device) for i in range(2)]
    return [
        analysis.top_contexts(x.model, x.inputs, WINDOWS, k=2, width=2, skip=1),
        analysis.explained_on_text(x.model, 1, x.outputs, WINDOWS, k=3),
        analysis.features.explained_by_eigenvectors(x.tensor, x.outputs, points, k=3),
        analysis.ablation_control(x.model, 1, x.inputs, x.outputs, strongest, WINDOWS, range(2)),
        analysis.truncation_costs(x.model, 1, [1, 4], WINDOWS),
        analysis.text.window_losses(x.model, WINDOWS),
        text_loss(x.model, x.tokenizer, TEXT),
    ]


def attention(x: Things):
    first, second = x.attention
    outputs = analysis.feature_outputs(first, x.inputs.decoder, x.u)
    scores = analysis.feature_scores(first, x.inputs.decoder)
    return [
        analysis.strongest_outputs(outputs, 5),
        analysis.strongest_scores(scores, 5, offsets=(0, 1)),
        analysis.strongest_scores(scores, 5, offsets=None),
        analysis.composition_scores(first, second),
        analysis.composition_through(first, second, x.u),
        attention_weights(x.model, 0).W_O,
    ]


def one_layer_paths(x: Things):
    measured = analysis.measure(x.shallow, WINDOWS[0])
    paths = analysis.token_paths(x.shallow, tokens=range(9))
    return [
        measured.logits,
        analysis.paths.expand_along(
            measured, mlp_tensor(x.shallow, 0), unembedding(x.shallow)[:, :4].T
        ).total,
        analysis.expand_logits(x.shallow, WINDOWS[0], [3, 4]).total,
        analysis.strongest_token_interactions(paths, k=4),
        analysis.paths.read_along(paths, x.u).features.outputs,
    ]


def hooked(x: Things):
    ids = torch.tensor(WINDOWS[:2], device=x.device)  # all text, whatever they begin with
    bridge = hook(x.model, x.tokenizer)
    logits, cache = bridge.run_with_cache(ids, padding_side="right")
    values = [logits, cache["blocks.1.mlp.hook_out"], mlp_tensor(bridge, 0).norm()]
    x_model = unhook(bridge)
    return [*values, next(x_model.parameters()).sum()]


def on_a_prompt(x: Things):
    targets = [
        analysis.LogitTarget(3),
        analysis.FeatureTarget(x.outputs.site, 4, position=3),
        analysis.ScoreTarget(1, 2, 7),
        analysis.DirectionTarget(Site(1, "mlp-out"), x.u[0]),
        analysis.EigenvectorTarget(1, x.u[0]),
    ]
    traced = [
        analysis.attribute(analysis.open_prompt(x.model, WINDOWS[0], x.dictionaries), target, max_nodes=40)
        for target in targets
    ]
    return [
        [numbers_of(found.graph) for found in traced],
        analysis.causal_check(x.model, traced[0], n=4),
    ]


def by_weights(x: Things):
    target = analysis.FeatureTarget(x.outputs.site, 4)
    return numbers_of(analysis.static_circuit(x.model, target, x.dictionaries, max_nodes=20))


def numbers_of(graph: analysis.Graph):
    return [sorted(node.id for node in graph.nodes), sorted(edge.weight for edge in graph.edges)]


def conversions(x: Things):
    windows = torch.tensor(WINDOWS[:2] * 40)
    settings = FitSettings(steps=3, batch_size=64)
    losses = []
    for method in get_args(Method):
        model = copy.deepcopy(x.gated)
        report = convert(model, method, windows, fit=settings)
        losses.append([report.loss_after, *(layer.r_squared for layer in report.layers)])
        losses.append(mlp_tensor(model, 1)(x.u))
    return losses


CASES = [
    tensor_methods,
    closed_forms,
    polynomials,
    decompositions,
    block_method,
    similarities,
    guarantees,
    differences,
    edits,
    interactions,
    on_text,
    attention,
    one_layer_paths,
    hooked,
    on_a_prompt,
    by_weights,
    conversions,
]


@AROUND_NORMS
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_same_on_another_device(case, make_model, tiny_tokenizer):
    def things(device):
        n = len(tiny_tokenizer)
        deep, gated = (make_model(d_vocab=n, gate=gate) for gate in ("linear", "silu"))
        shallow = make_model(d_vocab=n, n_layers=1, norms=False)
        return Things.on(device, deep, shallow, gated, tiny_tokenizer)

    expected = numbers(case(things(torch.device("cpu"))))
    with other_device() as device:
        found = numbers(case(things(device)))
    same(found, expected)
