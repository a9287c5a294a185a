"""Patterns of pairs on numbers worked out by hand, and against brute force; opposing features likewise."""

import itertools

import pytest
import torch

import analysis.features.layer
import analysis.features.patterns
import bilinear_lm.numerics.memory
from analysis import FeatureLayer
from analysis.features.patterns import PairPatterns, opposing_features, strongest_patterns
from bilinear_lm import BilinearTensor, InputError

PATTERNS = ["and", "and-not", "xor", "saddle"]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(n_in=13, n_out=4, biases=False):
    factors = [draw(6, 10), draw(6, 10, seed=1), draw(10, 5, seed=2)]
    factors += [draw(10, seed=3), draw(10, seed=4), draw(5, seed=5)] if biases else []
    tensor = BilinearTensor.from_layer(*factors)
    return FeatureLayer(tensor, draw(n_in, 6, seed=6), draw(n_out, 5, seed=7))


def pair(a, b, d):
    one = torch.tensor([1])
    columns = [torch.tensor([float(number)]) for number in (a, d, b)]
    return PairPatterns(0 * one, 0 * one, one, *columns)


@pytest.mark.parametrize(
    ("coefficients", "expected"),
    [
        ((0, 1, 0), {"and", "saddle"}),  # c_i c_j
        ((0, -1, 0), {"and", "saddle"}),
        ((1, -2, 1), {"xor"}),  # (c_i - c_j)²
        ((-1, 2, -1), {"xor"}),
        ((1, 2, 1), set()),  # (c_i + c_j)²
        ((1, 0, -1), {"saddle"}),  # c_i² - c_j²
        ((1, -1, 0), {"and-not"}),  # c_i (c_i - c_j); λ = ½ ± ½√2
        ((0, 3, -3), {"and-not"}),
        ((1, 0, 0), set()),
        ((0, 0, 0), set()),
        ((1, 4, 1), {"and"}),  # |b| is exactly twice |a| + |d|; λ = 3, -1
    ],
)
def test_truth_tables(coefficients, expected):
    found = pair(*coefficients)
    assert {pattern for pattern in PATTERNS if bool(found.are(pattern))} == expected
    assert float(found.both) == sum(coefficients)


def test_the_ratio_decides():
    found = pair(1, 4, 1)
    assert found.eigenvalues.tolist() == [[3.0, -1.0]]
    assert bool(found.are("saddle", 3.0))
    assert not bool(found.are("saddle", 2.9))
    assert not bool(found.are("and", 2.1))


def test_eigenvalues_of_the_pair():
    a, b, d = draw(3, 50)
    zero = torch.zeros(50, dtype=torch.long)
    found = PairPatterns(zero, zero, zero + 1, a, d, b)
    matrices = torch.stack([torch.stack([a, b / 2], -1), torch.stack([b / 2, d], -1)], -1)
    assert torch.allclose(found.eigenvalues.flip(-1), torch.linalg.eigvalsh(matrices))


def brute_force(features, pattern, outputs, k, ratio):
    rows = []
    for output in outputs:
        Q = features.matrix(features.outputs[output])
        for i, j in itertools.combinations(range(features.n_in), 2):
            found = pair(float(Q[i, i]), 2 * float(Q[i, j]), float(Q[j, j]))
            if bool(found.are(pattern, ratio)):
                rows.append((output, i, j, 2 * float(Q[i, j])))
    return sorted(rows, key=lambda row: -abs(row[3]))[:k]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("rows", [1, 4, 512])
@pytest.mark.parametrize(("k", "ratio"), [(3, 1.5), (20, 1.2), (1000, 2.0)])
def test_strongest_patterns_against_brute_force(pattern, rows, k, ratio, monkeypatch):
    monkeypatch.setattr(analysis.features.layer, "STRIP_ROWS", rows)
    features = make(biases=True)
    found = strongest_patterns(features, pattern, None, k, ratio)
    expected = brute_force(features, pattern, range(4), k, ratio)
    columns = (found.outputs.tolist(), found.left.tolist(), found.right.tolist())
    assert list(zip(*columns, strict=True)) == [row[:3] for row in expected]
    assert found.cross.tolist() == pytest.approx([row[3] for row in expected])
    assert bool(found.are(pattern, ratio * (1 - 1e-9)).all())
    for place, (output, left, right) in enumerate(zip(*columns, strict=True)):
        Q = features.matrix(features.outputs[output])
        assert float(found.left_alone[place]) == pytest.approx(float(Q[left, left]))
        assert float(found.right_alone[place]) == pytest.approx(float(Q[right, right]))


def test_a_planted_negation():
    """The output x y of two inputs, and its opposite, as two output features among others."""
    eye = torch.eye(3, dtype=torch.float64)
    gate, into = eye[:, :1], eye[:, 1:2]
    tensor = BilinearTensor(gate, into, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    features = FeatureLayer(tensor, eye, outputs)
    (found,) = [strongest_patterns(features, "and", [0], 5)]
    assert (found.left.tolist(), found.right.tolist(), found.cross.tolist()) == ([0], [1], [2.0])
    opposed = opposing_features(features, outputs, 5)
    assert (opposed.left.tolist(), opposed.right.tolist()) == ([0], [2])
    assert opposed.cosines.tolist() == [-1.0]
    assert opposed.similarity.tolist() == pytest.approx([-1.0])
    assert opposed.eigenvalues.flatten().tolist() == pytest.approx([1.0, -1.0, 0.5, -0.5])
    assert opposed.explained.flatten().tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("chunk", [1, 900, 2**28])
@pytest.mark.parametrize("biases", [True, False])
def test_opposing_features_against_brute_force(chunk, biases, monkeypatch):
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", chunk)
    features, decoder = make(n_out=30, biases=biases), draw(30, 5, seed=9)
    found = opposing_features(features, decoder, 12, -0.5)
    rows = torch.nn.functional.normalize(decoder, dim=1)
    pairs = [(float(rows[i] @ rows[j]), i, j) for i, j in itertools.combinations(range(30), 2)]
    expected = [row for row in sorted(pairs) if row[0] <= -0.5][:12]
    assert [(i, j) for _, i, j in expected] == list(
        zip(found.left.tolist(), found.right.tolist(), strict=True)
    )
    assert found.cosines.tolist() == pytest.approx([row[0] for row in expected])
    for place, (_, i, j) in enumerate(expected):
        A, B = features.tensor.interaction_matrix(features.outputs[[i, j]])
        assert float(found.similarity[place]) == pytest.approx(float((A * B).sum() / (A.norm() * B.norm())))
        for side, Q in enumerate((A, B)):
            values = torch.linalg.eigvalsh(Q)
            ends = torch.stack([values[-1].clamp(min=0), values[0].clamp(max=0)])
            assert torch.allclose(found.eigenvalues[place, side], ends)
            explained = float(ends.square().sum() / values.square().sum())
            assert float(found.explained[place, side]) == pytest.approx(explained)


def test_no_feature_is_opposed():
    features = make(n_out=3)
    found = opposing_features(features, torch.ones(3, 5, dtype=torch.float64))
    assert len(found) == 0
    assert found.eigenvalues.shape == (0, 2, 2)
    assert found.similarity.dtype == torch.float64


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda f: analysis.features.patterns._require_pattern("nand", 2.0),
            "pattern 'nand'; expected one of and,",
        ),
        (lambda f: strongest_patterns(f, "and", ratio=0.5), "ratio=0.5; expected 1 or more"),
        (lambda f: strongest_patterns(f, "and", k=0), "k=0 pairs"),
        (lambda f: strongest_patterns(f, "and", [9]), "output feature 9 does not exist"),
        (lambda f: opposing_features(f, draw(4, 6)), r"got \[4, 6\]; expected \[4, 5\]"),
        (lambda f: opposing_features(f, draw(4, 5), below=0.1), "below=0.1"),
    ],
)
def test_bad_input(act, message):
    with pytest.raises(InputError, match=message):
        act(make())
