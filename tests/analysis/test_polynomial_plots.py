"""Figures of polynomials show the numbers they are given, whatever these are."""

import math

import pytest
import torch

from analysis.plots import drawn
from analysis.polynomial_plots import polynomial_plot, training_plot
from analysis.polynomials import LayerPolynomials, ReplacementLosses, TrainingPolynomials

N_LAYERS = 3


def numbers(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def found():
    none = ((),) * N_LAYERS
    on_text = numbers(N_LAYERS, 2)
    on_text[0] = torch.tensor([-math.inf, -7.0])  # an output that does not vary, a constant that is nearer
    return LayerPolynomials(
        (0, 1, 2), (1, 2), none, numbers(N_LAYERS, 2), on_text, (1,), none, numbers(N_LAYERS, 1), 100
    )


def test_layers(found):
    ways = ("degree 1", "degree 2", "fit, degree 1", "nothing")
    losses = {name: ReplacementLosses((0, 1, 2), 1.5, 2 + numbers(N_LAYERS), 4.0) for name in ways}
    figure = polynomial_plot(found, losses)
    left, right = figure.axes
    assert left.lines[0].get_ydata() == pytest.approx(found.on_text[:, 0].tolist())
    assert left.lines[1].get_ydata() == pytest.approx(found.gaussian[:, 0].tolist())
    assert left.get_ylim()[0] > -1
    assert [label.get_text() for label in right.get_xticklabels()] == ["0", "1", "2", "all"]
    points = [line for line in right.lines if line.get_label() in ways]
    assert [line.get_label() for line in points] == list(ways)
    assert points[3].get_ydata() == pytest.approx([*losses["nothing"].one.tolist(), 4.0])
    assert drawn(figure, "png")[1:4] == b"PNG"


@pytest.mark.parametrize("steps", [(0,), (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 324)])
def test_training(steps):
    n = len(steps)
    course = TrainingPolynomials(
        steps, (0, 1, 2), (1, 2), numbers(n, N_LAYERS, 2), numbers(n, N_LAYERS, 2) - 0.5, numbers(n)
    )
    figure = training_plot(course)
    assert [axes.get_title() for axes in figure.axes] == ["degree 1", "degree 2"]
    for index, axes in enumerate(figure.axes):
        assert axes.lines[0].get_xdata() == pytest.approx(list(steps))
        assert axes.lines[0].get_ydata() == pytest.approx(course.on_text[:, 0, index].tolist())
        ticks = [label.get_text() for label in axes.get_xticklabels()]
        assert ticks[-1] == str(steps[-1])
        assert len(ticks) <= 7
    assert drawn(figure, "png")[1:4] == b"PNG"
