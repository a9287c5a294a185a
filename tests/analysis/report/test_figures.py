import torch

from analysis.report.figures import NEGATIVE, POSITIVE, spectrum_figure, strength_figure

SPECTRUM = torch.tensor([3.0, -2.5, -1.0, 0.5, 0.25])


def test_spectrum_figure_holds_every_eigenvalue_on_its_side():
    positive, negative = spectrum_figure(SPECTRUM).data
    assert (positive.x, positive.y) == ((1, 2, 3), (3.0, 0.5, 0.25))
    assert (negative.x, negative.y) == ((1, 2), (-2.5, -1.0))
    assert positive.line.color == POSITIVE
    assert negative.line.color == NEGATIVE


def test_spectrum_figure_does_not_depend_on_the_order():
    assert spectrum_figure(SPECTRUM.flip(0), marked=3) == spectrum_figure(SPECTRUM, marked=3)


def test_marks_stand_on_the_largest_eigenvalues_by_magnitude():
    marks = spectrum_figure(SPECTRUM, marked=4).data[2]
    assert marks.text == ("1", "2", "3", "4")
    assert (marks.x, marks.y) == ((1, 1, 2, 2), (3.0, -2.5, -1.0, 0.5))


def test_spectrum_of_one_sign_or_none():
    positive, negative = spectrum_figure(torch.tensor([2.0, 1.0])).data
    assert positive.y == (2.0, 1.0)
    assert negative.y == ()
    assert all(trace.y == () for trace in spectrum_figure(torch.zeros(3)).data)


def test_strength_figure_keeps_order_and_tokens_of_one_text_apart():
    bars = strength_figure(["␣a", "a", "a"], torch.tensor([3.0, 2.0, 1.0]))
    assert bars.data[0].x == (3.0, 2.0, 1.0)
    assert bars.data[0].y == (0, 1, 2)
    assert bars.layout.yaxis.ticktext == ("␣a", "a", "a")


def test_strength_figure_escapes_what_plotly_would_read_as_markup():
    bars = strength_figure(['<a href="x">&'], torch.tensor([1.0]))
    assert bars.layout.yaxis.ticktext == ('&lt;a href="x"&gt;&amp;',)


def test_backgrounds_are_transparent():
    layout = spectrum_figure(SPECTRUM).layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0, 0, 0, 0)"
