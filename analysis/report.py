"""`report`: one page that shows what a bilinear language model computes, read from its weights."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.page import render
from analysis.report_data import collect
from analysis.report_options import ReportOptions

__all__ = ["ReportOptions", "report"]


def report(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    options: ReportOptions | None = None,
    progress: bool = True,
) -> str:
    """A self-contained HTML page about a bilinear language model.

    For each layer it shows the spectra and effective ranks of the interaction matrices of the strongest
    and the asked-for output directions, their eigenvectors in tokens, directly and through attention
    heads, and where they act on a text; and the loss and a sample of the model.

    >>> options = ReportOptions(tokens=(" swim - run, fly",))
    >>> page = report(model, tokenizer, "stories", options)  # doctest: +SKIP
    """
    return render(collect(model, tokenizer, name, options or ReportOptions(), progress))
