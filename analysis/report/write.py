"""`report`: one page that shows what a bilinear language model computes, read from its weights."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.features.dictionaries import read_dictionaries
from analysis.graphs.graph import Graph
from analysis.polynomials.quadratic_model import QuadraticModel
from analysis.report.collect import collect
from analysis.report.options import FeatureSource, ReportOptions
from analysis.report.page import render

__all__ = ["FeatureSource", "ReportOptions", "read_dictionaries", "report"]


def report(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    options: ReportOptions | None = None,
    features: FeatureSource | None = None,
    graphs: Sequence[Graph] = (),
    progress: bool = True,
    quadratic: QuadraticModel | None = None,
) -> str:
    """A self-contained HTML page about a bilinear language model, or a gated one read through `quadratic`.

    For each layer it shows the spectra and effective ranks of the interaction matrices of the strongest
    and the asked-for output directions, their eigenvectors in tokens, directly and through attention
    heads, and where they act on a text; and the loss and a sample of the model. With `features` also what
    the features of dictionaries are, and which pairs of them the layers combine; `graphs` (of `trace`,
    `attribute` or `static_circuit`) can be looked through. `quadratic` (of `quadratic_model`) is what a model
    that is not bilinear is read through; the page begins with how much of the model that explains, and its
    graphs are those of `quadratic.model`.

    >>> options = ReportOptions(tokens=(" swim - run, fly",))
    >>> features = FeatureSource(read_dictionaries(folder, model), text)  # doctest: +SKIP
    >>> page = report(model, tokenizer, "stories", options, features)  # doctest: +SKIP
    """
    options = options or ReportOptions()
    return render(collect(model, tokenizer, name, options, features, progress, graphs, quadratic))
