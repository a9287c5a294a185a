"""`bilinear-lm report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bilinear_lm.checks import require_seed
from bilinear_lm.commands.arguments import DEFAULT_MODEL, Checkpoint, Output
from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.errors import InputError
from bilinear_lm.files import require_writable, told, write_text
from bilinear_lm.shipped import shipped_names, shipped_scope
from bilinear_lm.text.files import read_plain_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from analysis.graphs.graph import Graph
    from analysis.polynomials.quadratic_model import QuadraticModel
    from analysis.report.options import FeatureSource

SHOWN_FIRST = (3, 540)
"""Layer and output feature with which the page about the default model opens."""

PROMPT = "Lily was sad because her toy was broken. Her mom gave her a big"
"""The prompt of the graph on the page about the default model."""

CALIBRATION_TOKENS = 50_000
"""Tokens of the text that quadratics are measured and checked on, at most."""

PAGES = (".html", ".htm")
"""Suffixes of a page in one file."""


def report(
    checkpoint: Checkpoint = DEFAULT_MODEL,
    /,
    output: Output = Path("report.html"),
    tokens: tuple[str, ...] = (),
    layers: tuple[int, ...] = (),
    directions: int = 3,
    eigenvectors: int = 2,
    text: str | None = None,
    validation: Path | None = None,
    dictionaries: Path | None = None,
    contexts: Path | None = None,
    names: Path | None = None,
    features: int = 1000,
    prompt: str | None = None,
    calibration: Path | None = None,
    device: DeviceName = "auto",
    seed: int = 0,
) -> None:
    """Write a self-contained page about what the MLPs of a bilinear language model compute.

    A model whose gates have an activation (SiLU, GELU) is read through the quadratics nearest to its MLPs,
    which --calibration gives a text for; the page says at its top how much of the model they explain. Under
    torchrun the processes share the features.

    Args:
        checkpoint: Folder, hub repository, or name of a shipped model.
        output: The page to write, by a name that ends in .html; any other name is a folder, in which the page
            is index.html and reads the features when needed: for dictionaries of many. A call that was
            interrupted goes on when it is made again.
        tokens: Output directions to show beside the strongest ones: "swim" (a token against the mean of
            all), or "swim - run, climb" (against the mean of others).
        layers: Layers to show; all of them by default.
        directions: How many of the strongest output directions to show for each layer.
        eigenvectors: How many eigenvectors to show for each direction.
        text: Short text to show where eigenvectors fire; a small story by default.
        validation: Text file to measure the loss on; the text above by default.
        dictionaries: Folder of dictionaries at mlp-in (or resid-mid) and mlp-out, whose features are shown;
            a shipped model has its own.
        contexts: Text file that features are named by, documents separated by <|endoftext|>; a shipped model
            has its own.
        names: JSON file of your own names for features, as the page of `report` saves it.
        features: How many features of each dictionary to show, the most active; 0: no features.
        prompt: A few words; the graph of the likeliest next token is shown. The default model has one.
        calibration: Text file for a model that is not bilinear, documents separated by <|endoftext|>: the
            quadratics are measured on four fifths of its first 50,000 tokens, and checked on the rest.
        device: Where to compute.
        seed: Seeds the sampled text.
    """
    from analysis.features.dictionaries import layers_by_site, read_dictionaries
    from analysis.report.options import STORY, FeatureSource, ReportOptions
    from analysis.report.shards.folder import require_folder
    from analysis.report.write import report as render
    from analysis.report.write import report_folder
    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer
    from bilinear_lm.dictionaries.names import load_feature_names
    from bilinear_lm.distributed import process_group

    require_seed(seed)
    one_file = output.suffix.lower() in PAGES
    require_writable(output) if one_file else require_folder(output)
    options = ReportOptions(
        tokens=tokens,
        layers=layers,
        n_directions=directions,
        n_eigenvectors=eigenvectors,
        evaluation_text=None if validation is None else read_plain_text(validation),
        seed=seed,
        text=STORY if text is None else text,
    )
    files = _feature_files(checkpoint, dictionaries, contexts, features)
    if names is not None and files is None:
        raise InputError(f"report: --names {names} without features that they name")
    words = None if files is None else read_plain_text(files[1])
    measured = None if calibration is None else read_plain_text(calibration)
    where = find_device(device)
    with process_group(where) as part:
        model = load_pretrained(checkpoint, device=where)
        tokenizer = load_tokenizer(checkpoint)
        quadratic = _quadratic(model, tokenizer, measured, checkpoint)
        source = None
        if files is not None and words is not None:
            around = read_dictionaries(files[0], model)
            source = FeatureSource(
                around,
                words,
                n_features=features,
                first=SHOWN_FIRST if checkpoint == DEFAULT_MODEL else None,
                names={} if dictionaries or contexts else shipped_names(checkpoint),
                given=load_feature_names(names, layers_by_site(around)),
            )
        if checkpoint == DEFAULT_MODEL and prompt is None:
            prompt = PROMPT
        bilinear = model if quadratic is None else quadratic.model
        graphs = _graphs(bilinear, tokenizer, prompt, source)
        name = Path(checkpoint).name
        read = model, tokenizer, name, options, source, graphs, not part.rank, quadratic
        page = render(*read) if one_file else report_folder(output, *read)
    if part.rank:
        return
    if isinstance(page, str):
        write_text(output, page)
        page = output
    print(page)


def _quadratic(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, calibration: str | None, checkpoint: str
) -> QuadraticModel | None:
    """The quadratics that a model is read through; None for a bilinear one."""
    from analysis.polynomials.quadratic_model import is_bilinear, quadratic_model
    from analysis.text.held_out import split_text

    if is_bilinear(model):
        if calibration is not None:
            raise InputError(
                f"report: --calibration for {told(checkpoint)}, which is bilinear; it is for models whose "
                "gates have an activation, leave it out"
            )
        return None
    if calibration is None:
        raise InputError(
            f"report: {told(checkpoint)} is not bilinear; give a text by --calibration FILE to read it "
            "through the quadratics nearest to its MLPs, or convert it: `bilinear-lm convert MODEL -o DIR`"
        )
    text = split_text(model, tokenizer, calibration, CALIBRATION_TOKENS)
    return quadratic_model(model, text.windows, text.held_out)


def _graphs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | None,
    source: FeatureSource | None,
) -> list[Graph]:
    """The graph of a prompt, and the static circuit of the feature that the page opens with."""
    from analysis.circuits.trace import trace
    from analysis.features.dictionaries import layers_by_site

    dictionaries = {} if source is None else layers_by_site(source.dictionaries)
    graphs = []
    if prompt is not None:
        graphs.append(trace(model, tokenizer, prompt, dictionaries=dictionaries, check=True))
    if source is not None and source.first is not None:
        layer, feature = source.first
        graphs.append(
            trace(model, tokenizer, feature=f"{layer}-mlp-out-{feature}", dictionaries=dictionaries)
        )
    return graphs


def _feature_files(
    checkpoint: str, dictionaries: Path | None, contexts: Path | None, features: int
) -> tuple[Path, Path] | None:
    """Where the dictionaries and the text of the features part lie; None where there is to be none."""
    if features < 0:
        raise InputError(f"report: --features {features}; expected 0 or more")
    if not features:
        return None
    folder, text = shipped_scope(checkpoint)
    dictionaries, contexts = dictionaries or folder, contexts or text
    if dictionaries is None and contexts is None:
        return None
    if contexts is None:
        raise InputError(
            f"report: --dictionaries {dictionaries} without --contexts; features are named by passages of a "
            "text, give the file of one"
        )
    if dictionaries is None:
        raise InputError(
            f"report: --contexts {contexts} without --dictionaries; give the folder of the dictionaries "
            "whose features it is to name"
        )
    return dictionaries, contexts
