"""What figures show, read from their artists, and files that are whole or not there."""

import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from matplotlib.colors import to_hex

from analysis import read_tokens
from analysis.features import Explained, Interactions, Submatrix
from analysis.interventions import AblationControl, AblationEffect, TruncationCosts
from analysis.plots import (
    NEGATIVE,
    POSITIVE,
    ablation_plot,
    correlation_plot,
    reach_plot,
    save_figure,
    spectrum_plot,
    submatrix_plot,
    token_plot,
    truncation_plot,
)
from bilinear_lm import InputError


def test_spectrum():
    figure = spectrum_plot(torch.tensor([0.5, -2.5, 3.0, -1.0]))
    positive, negative = figure.axes[0].lines[:2]
    assert (list(positive.get_xdata()), list(positive.get_ydata())) == ([1, 2], [3.0, 0.5])
    assert (list(negative.get_xdata()), list(negative.get_ydata())) == ([1, 2], [-2.5, -1.0])
    figure.draw_without_rendering()
    assert "2" in [text.get_text() for text in figure.axes[0].get_xticklabels()]


def test_what_is_reached_stands_below_what_is_possible():
    figure = reach_plot(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0.5, 1.0, -0.5]))
    possible, reached = figure.axes[0].lines
    assert list(possible.get_ydata()) == [3, 2, 1]
    assert list(reached.get_ydata()) == [1, -0.5, 0.5]
    assert figure.axes[0].get_ylim()[0] == -0.5


def test_tokens_stand_highest_first_with_their_own_labels():
    scores = torch.tensor([0.1, 3.0, -2.0, 0.0, 1.0, -0.5])
    labels = ["zero", "$best$", "worst", "none", "good", "bad"]
    axes = token_plot(read_tokens(scores, k=2), labels).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["$best$", "good", "bad", "worst"]
    assert [bar.get_width() for bar in axes.patches] == [3.0, 1.0, -0.5, -2.0]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [POSITIVE] * 2 + [NEGATIVE] * 2
    assert not any(text.get_parse_math() for text in axes.get_yticklabels())
    with pytest.raises(InputError, match="one direction"):
        token_plot(read_tokens(scores.expand(2, 6), k=2), labels)


def test_submatrix_shows_what_pairs_add_and_is_centred_at_zero():
    matrix = torch.tensor([[1.0, -3.0], [-3.0, 0.5]])
    submatrix = Submatrix(7, torch.tensor([4, 9]), matrix)
    figure = submatrix_plot(submatrix)
    axes = figure.axes[0]
    (image,) = axes.images
    assert image.get_clim() == (-6.0, 6.0)
    shown = torch.tensor([[1.0, -6.0], [-6.0, 0.5]])
    assert torch.equal(torch.tensor(image.get_array().data), shown)
    assert shown.triu().sum() == matrix.sum()
    assert [text.get_text() for text in axes.get_xticklabels()] == ["4", "9"]
    assert figure.get_suptitle() == "interactions into output feature 7"
    named = submatrix_plot(submatrix, ["a", "b"]).axes[0]
    assert [text.get_text() for text in named.get_yticklabels()] == ["a", "b"]
    assert submatrix_plot(Submatrix(0, torch.tensor([1]), torch.zeros(1, 1))).axes[0].images[
        0
    ].get_clim() == (-1, 1)


def test_long_names_in_a_submatrix_are_not_cut():
    names = [f"#{number} ␣scary, ␣blue, ␣yummy" for number in range(12)]
    submatrix = Submatrix(7, torch.arange(12), torch.eye(12))
    figure = submatrix_plot(submatrix, names, "interactions into output feature #7 ␣scary, ␣blue, ␣yummy")
    figure.draw_without_rendering()
    axes, page = figure.axes[0], figure.bbox
    for text in [*axes.get_xticklabels(), *axes.get_yticklabels(), *figure.texts]:
        box = text.get_window_extent()
        assert page.x0 <= box.x0 <= box.x1 <= page.x1
        assert page.y0 <= box.y0 <= box.y1 <= page.y1
    rows = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(rows))


def test_correlations_leave_out_what_is_undefined():
    active = torch.tensor([[0.2, 0.4], [torch.nan, torch.nan], [0.4, 0.8]])
    explained = Explained(torch.arange(3), torch.full((3, 2), 0.9), active, 100, torch.tensor([5, 0, 7]))
    every, where_active = correlation_plot(explained).axes[0].lines
    assert list(every.get_ydata()) == pytest.approx([0.9, 0.9])
    assert list(where_active.get_ydata()) == pytest.approx([0.3, 0.6])
    assert where_active.get_label() == "active tokens (2 features)"
    nothing = Explained(torch.arange(1), active[1:2], active[1:2], 100, torch.tensor([0]))
    assert not correlation_plot(nothing).axes[0].lines


@pytest.mark.parametrize("smallest", [0, 1])
def test_truncation_is_sorted_by_rank(smallest):
    costs = TruncationCosts((16, smallest), torch.tensor([1.5, 2.0]), whole=1.4, without=3.0)
    figure = truncation_plot(costs)
    axes = figure.axes[0]
    assert (list(axes.lines[0].get_xdata()), list(axes.lines[0].get_ydata())) == ([smallest, 16], [2.0, 1.5])
    figure.draw_without_rendering()
    assert {text.get_text() for text in axes.get_xticklabels()} == {str(smallest), "16"}
    assert [line.get_ydata()[0] for line in axes.lines[1:]] == [1.4, 3.0]


def control():
    def effect(size):
        return AblationEffect(size * torch.rand(6).double(), size * torch.rand(6).double())

    pairs = Interactions(*torch.zeros(3, 4, dtype=torch.long), torch.ones(4))
    return AblationControl(pairs, effect(1.0), (effect(0.1), effect(0.2)))


def test_ablation_shows_every_window_of_both_arms():
    found = control()
    left, right = ablation_plot(found).axes
    for axes, measure in ((left, "activation_change"), (right, "loss_change")):
        strongest, others = (dots.get_offsets()[:, 1].tolist() for dots in axes.collections[::2])
        assert strongest == pytest.approx(getattr(found.strongest, measure).tolist())
        assert others == pytest.approx(
            [x for effect in found.random for x in getattr(effect, measure).tolist()]
        )
    ablation_plot(AblationControl(found.interactions, found.strongest, ()))


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("deep/b.svg", b"<?xml")])
def test_saved_figures(tmp_path, name, start):
    save_figure(spectrum_plot(torch.tensor([1.0, -1.0])), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [file.name for file in (tmp_path / name).parent.iterdir()] == [name.split("/")[-1]]


def test_a_figure_that_cannot_be_drawn_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    figure = spectrum_plot(torch.tensor([1.0]))

    def broken(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr(figure, "savefig", broken)
    with pytest.raises(RuntimeError):
        save_figure(figure, path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_path_that_is_no_figure(tmp_path):
    figure = spectrum_plot(torch.tensor([1.0]))
    with pytest.raises(InputError, match=r"as \.png or \.svg"):
        save_figure(figure, tmp_path / "a.pdf")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        save_figure(figure, tmp_path / "folder.png")


def test_plots_load_no_pyplot_and_analysis_no_matplotlib():
    code = (
        "import sys, analysis; print('matplotlib' in sys.modules);"
        "import analysis.plots; print('matplotlib.pyplot' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False", "False"]
