"""`report`: one page that shows what a bilinear language model computes, read from its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.features.dictionaries import read_dictionaries
from analysis.graphs.graph import Graph
from analysis.polynomials.quadratic_model import QuadraticModel
from analysis.report.collect import collect
from analysis.report.features import Keeper
from analysis.report.options import FeatureSource, ReportOptions
from analysis.report.page import render
from analysis.report.shards.folder import PAGE, Passing, ReportFolder
from analysis.report.shards.settings import settings_of
from bilinear_lm.distributed import gather_texts, together

__all__ = ["FeatureSource", "ReportOptions", "read_dictionaries", "report", "report_folder"]


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


def report_folder(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    options: ReportOptions | None = None,
    features: FeatureSource | None = None,
    graphs: Sequence[Graph] = (),
    progress: bool = True,
    quadratic: QuadraticModel | None = None,
) -> Path:
    """The page of `report` in a folder, beside data that it reads when needed; returns the page's path.

    For dictionaries of many features, of which one file would be too large to be opened. Layers are written
    one by one: in memory is one of them at a time, beside the peaks of all features and their names. A call
    that was interrupted goes on when it is made again. The processes of a torch.distributed group share the
    features; the first of them writes.

    Raises InputError for a folder with a report of other inputs or settings, or with anything else in it.

    >>> page = report_folder(Path("report"), model, tokenizer, "stories", options, features)  # doctest: +SKIP
    """
    options = options or ReportOptions()
    keeper: Keeper = Passing()
    with together() as worker:
        if not worker.rank:
            bilinear = None if quadratic is None else quadratic.model
            settings = settings_of(model, tokenizer, name, options, features, graphs, bilinear)
            keeper = ReportFolder.open(path, settings)
    finished = isinstance(keeper, ReportFolder) and keeper.is_finished
    if gather_texts(["finished"] if finished else []):
        return path / PAGE
    data = collect(model, tokenizer, name, options, features, progress, graphs, quadratic, keeper)
    with together():
        if isinstance(keeper, ReportFolder):
            keeper.finish(render(data, files_beside=True))
    return path / PAGE
