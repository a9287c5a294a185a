"""Drawings as HTML and SVG: spectra, and bars with labels."""

import re
from math import log

import pytest
import torch

from analysis.report.drawing import HEIGHT, WIDTH, Row, compared, spectrum

SPECTRUM = torch.tensor([3.0, -2.5, -1.0, 0.5, 0.25])


def dots(drawn, kind):
    """Rank and eigenvalue of the dots of a sign, as their titles tell them."""
    titles = re.findall(rf'class="{kind} dot"[^>]*><title>(\d+): λ = ([^<]*)</title>', drawn)
    return [(int(rank), float(value.replace("−", "-"))) for rank, value in titles]


def place(rank, longest):
    """The place of a rank on the axis, in parts of a hundred."""
    return 2 + (WIDTH - 4) * log(rank) / log(longest)


def test_a_spectrum_holds_every_eigenvalue_on_its_side():
    drawn = spectrum(SPECTRUM, 0, "says")
    assert dots(drawn, "p") == [(1, 3.0), (2, 0.5), (3, 0.25)]
    assert dots(drawn, "n") == [(1, -2.5), (2, -1.0)]
    zero = HEIGHT * 3 / 5.5
    for kind, values in (("p", (3.0, 0.5, 0.25)), ("n", (-2.5, -1.0))):
        line = re.search(rf'class="{kind} line" d="M([^"]*)"', drawn)[1]
        points = [tuple(map(float, point.split())) for point in line.split("L")]
        assert [x for x, _ in points] == pytest.approx(
            [place(rank, 3) for rank in range(1, len(values) + 1)], abs=0.01
        )
        assert [y for _, y in points] == pytest.approx(
            [zero - HEIGHT * value / 5.5 for value in values], abs=0.01
        )


def test_a_spectrum_does_not_depend_on_the_order():
    assert spectrum(SPECTRUM.flip(0), 3, "says") == spectrum(SPECTRUM, 3, "says")


def test_marks_stand_on_the_largest_eigenvalues_by_magnitude():
    marks = re.findall(
        r'<span class="mark" style="left:([\d.]+)%;top:([\d.]+)%">(\d)</span>', spectrum(SPECTRUM, 4, "says")
    )
    assert [text for *_, text in marks] == ["1", "2", "3", "4"]
    assert [float(x) for x, *_ in marks] == pytest.approx([place(rank, 3) for rank in (1, 1, 2, 2)], abs=0.06)
    assert [float(y) for _, y, _ in marks] == pytest.approx(
        [100 * (3 - value) / 5.5 for value in (3.0, -2.5, -1.0, 0.5)], abs=0.06
    )


def test_a_spectrum_of_one_sign_or_none():
    drawn = spectrum(torch.tensor([2.0, 1.0]), 0, "says")
    assert dots(drawn, "p") == [(1, 2.0), (2, 1.0)]
    assert dots(drawn, "n") == []
    nothing = spectrum(torch.zeros(3), 0, "says")
    assert "<path" not in nothing
    assert "nan" not in nothing


def test_bars_keep_order_and_tokens_of_one_text_apart():
    drawn = compared([Row("␣a", 3.0, "3"), Row("a", 2.0, "2"), Row("a", 1.0, "1")])
    assert re.findall(r"<dt>(.*?)</dt>", drawn) == ["␣a", "a", "a"]
    lengths = [float(length) for length in re.findall(r"--length:([\d.]+)%", drawn)]
    assert lengths == pytest.approx([100, 100 * 2 / 3, 100 / 3], abs=0.06)


def test_labels_of_bars_are_escaped():
    drawn = compared([Row('<a href="x">&', 1.0, "<b>")])
    assert "<dt>&lt;a href=&quot;x&quot;&gt;&amp;</dt>" in drawn
    assert "&lt;b&gt;" in drawn
