"""Figures of filters: what they show, and what they refuse."""

import jaxtyping
import pytest
import torch

from analysis.convolutions.figures import activation_plot, filter_plot, term_curve_plot
from analysis.convolutions.filters import activation_maps, eigenfilters
from analysis.convolutions.probes import dropping, keeping
from analysis.convolutions.terms import decompose_terms, random_terms
from analysis.plots import drawn
from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolution import BilinearConv2d


@pytest.fixture
def conv():
    torch.manual_seed(0)
    return BilinearConv2d(3, 4, 3, bias=True)


def test_filters_by_channel():
    filters = torch.randn(2, 20, 3, 3)
    figure = filter_plot(filters, ["first", "second"])
    panels = figure.get_axes()
    assert len(panels) == 2 * 16
    assert panels[0].get_ylabel() == "first"
    torch.testing.assert_close(torch.tensor(panels[17].images[0].get_array()), filters[1, 1])
    assert panels[17].images[0].get_clim() == pytest.approx(
        (-float(filters[1].abs().max()), float(filters[1].abs().max()))
    )
    assert "the first 16 of 20 input channels" in figure.get_suptitle()


def test_filters_of_one_channel_stand_side_by_side():
    filters = torch.randn(10, 1, 3, 3)
    figure = filter_plot(filters)
    panels = figure.get_axes()
    assert drawn(figure, "png")[:4] == b"\x89PNG"
    assert len(panels) == 16
    assert [panel.get_visible() for panel in panels] == [True] * 10 + [False] * 6
    torch.testing.assert_close(torch.tensor(panels[9].images[0].get_array()), filters[9, 0])
    assert panels[9].get_title() == "9"


def test_activation_maps_beside_images(conv):
    eigen, x = eigenfilters(conv, torch.randn(4)), torch.rand(2, 3, 7, 7)
    figure = activation_plot(eigen, x, k=3)
    panels = figure.get_axes()
    assert len(panels) == 2 * 5
    torch.testing.assert_close(torch.tensor(panels[7].images[0].get_array()), activation_maps(eigen, x)[1, 1])
    torch.testing.assert_close(torch.tensor(panels[9].images[0].get_array()), eigen(x)[1])
    assert panels[1].get_title() == f"λ {float(eigen.values[0]):+.3g}"
    assert len(activation_plot(eigen, x - 2, k=1).get_axes()) == 2 * 3


def test_curves_of_terms(conv):
    terms, x = decompose_terms(conv, torch.randn(4, 5, 5)), torch.randn(60, 3, 7, 7)
    on, control = terms.on(x), [random_terms(terms, seed).on(x) for seed in range(2)]
    labels = on.total > on.total.mean()
    curves = {
        "dropped": dropping(on, labels, terms.by_weight, controls=control),
        "kept": keeping(on, labels, terms.by_weight, counts=(0, 4)),
    }
    panels = term_curve_plot(curves).get_axes()
    assert panels[0].lines[0].get_ydata().tolist() == pytest.approx(curves["dropped"].auc.tolist())
    assert [panel.get_xlabel() for panel in panels] == ["terms dropped", "terms kept"]


def test_what_cannot_be_drawn_is_refused(conv, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for a user, without shape checks
    with pytest.raises(InputError, match=r"filters \[3, 3\]; expected \[n, c, kh, kw\]"):
        filter_plot(torch.randn(3, 3))
    with pytest.raises(InputError, match="1 labels for 2 filters"):
        filter_plot(torch.randn(2, 1, 3, 3), ["one"])
    eigen = eigenfilters(conv, 0)
    with pytest.raises(InputError, match="k=3 maps; expected 1 to 2"):
        activation_plot(eigen, torch.rand(1, 3, 7, 7), k=3)
    with pytest.raises(InputError, match=r"eigenvalues of one direction \[2, 8\]"):
        activation_plot(eigenfilters(conv, torch.randn(2, 4)), torch.rand(1, 3, 7, 7))
    with pytest.raises(InputError, match="no curves"):
        term_curve_plot({})
