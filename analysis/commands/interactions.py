"""`bilinear-lm interactions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilinear_lm.checks import require_count, require_seed
from bilinear_lm.commands.arguments import DEFAULT_MODEL, Checkpoint, Output
from bilinear_lm.commands.table import table as text_table
from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, require_new, told, versions_of_run, write_json
from bilinear_lm.shipped import shipped_dictionary_names
from bilinear_lm.text.files import read_plain_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from analysis.features.interactions import Interactions
    from analysis.features.peaks import Contexts
    from analysis.features.statistics import InteractionStatistics
    from analysis.features.submatrix import Submatrix
    from analysis.text.vocabulary import Vocabulary
    from bilinear_lm.dictionaries.dictionary import Dictionary
    from bilinear_lm.sites import Point, Site

N_SEEDS = 5
"""Random sets of interactions beside the strongest."""

WORST = 0.1
"""The error, as a share of a feature's largest value over all inputs, that eigenvectors are counted for."""


def interactions(
    checkpoint: Checkpoint = DEFAULT_MODEL,
    /,
    *,
    layer: int,
    inputs: str,
    outputs: str,
    output: Output,
    features: tuple[int, ...] = (),
    k: int = 50,
    contexts: Path | None = None,
    names: Path | None = None,
    device: DeviceName = "auto",
    seed: int = 0,
) -> None:
    """Tabulate and draw which pairs of input features an MLP combines into output features.

    Writes interactions.json (a row for each output feature, with the range that its pre-activation cannot
    leave whatever the text, and the strongest interactions), interactions.safetensors (the same interactions
    and the drawn submatrices) and submatrix-FEATURE.png;
    with a text also correlation.png and ablation.png. Under torchrun the processes share the output features
    and the text.

    Args:
        checkpoint: Folder, hub repository, or name of a shipped model.
        layer: Layer of the MLP, from 0.
        inputs: Dictionary of what the MLP reads, at mlp-in or resid-mid; mlp-in where its file does not tell.
        outputs: Dictionary of what the MLP writes, at mlp-out.
        output: New folder for the results.
        features: Output features to tabulate and draw; by default all are tabulated, the strongest drawn.
        k: How many interactions to list, and how many input features to draw.
        contexts: Text file that features are named by, documents separated by <|endoftext|>, and on which
            eigenvectors and interactions are tested. Without one, features of shipped dictionaries have the
            names that ship, others are named by tokens that they act on by weights alone.
        names: JSON file of your own names for features, as the page of `report` saves it.
        device: Where to compute.
        seed: First seed of the random interactions that the strongest are compared with.
    """
    from analysis.features.chosen_names import chosen_names
    from analysis.features.interactions import split_strongest_interactions
    from analysis.features.layer import feature_layer, require_site
    from analysis.features.names import numbered
    from analysis.features.statistics import interaction_statistics
    from analysis.features.submatrix import strongest_submatrix
    from analysis.plots import save_figure
    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer
    from bilinear_lm.dictionaries.names import load_feature_names
    from bilinear_lm.distributed import process_group

    require_count(k, f"k={k} interactions")
    require_seed(seed)
    require_new(output)
    words = None if contexts is None else _read_words(contexts)
    where = find_device(device)
    with process_group(where) as part:
        shows = not part.rank
        ends = (_load(inputs, layer, "mlp-in", where), _load(outputs, layer, "mlp-out", where))
        require_site(ends[1].site, layer, ("mlp-out",), "output")
        model, tokenizer = load_pretrained(checkpoint, device=where), load_tokenizer(checkpoint)
        between = feature_layer(model, layer, *ends)
        by_site = {end.site: end for end in ends if end.site is not None}
        given = load_feature_names(names, by_site)
        asked = list(dict.fromkeys(features)) or None
        strongest = split_strongest_interactions(between, asked, k, progress=shows)
        table = interaction_statistics(between, asked, progress=shows)
        certified = _certified(model, layer, ends[1], table.outputs.tolist())
        drawn = asked or [int(table.outputs[table.strength.argmax()])]
        submatrices = [strongest_submatrix(between, feature, min(k, between.n_in)) for feature in drawn]
        paths = dict(zip(by_site, (inputs, outputs), strict=True))
        kept = _shipped(checkpoint, paths) if words is None else {}
        chosen = chosen_names(model, tokenizer, by_site, kept, words, given, progress=shows)
        of_inputs, of_outputs = ([*map(numbered, count(), chosen[site])] for site in by_site)
        reading = _Reading(of_inputs, of_outputs)
        if words is not None:
            reading = _read(reading, model, tokenizer, layer, ends, words, strongest, seed, shows)
    if part.rank:
        return
    result = {
        "settings": {
            "checkpoint": told(checkpoint),
            "layer": layer,
            "inputs": told(inputs),
            "outputs": told(outputs),
            "k": k,
            "text": None if contexts is None else told(contexts),
            "names": None if names is None else told(names),
            "seed": seed,
        },
        "versions": versions_of_run(),
        **_summary(strongest, table, certified, reading),
    }
    with new_folder(output) as draft:
        write_json(draft / "interactions.json", result)
        _save_tensors(draft / "interactions.safetensors", strongest, submatrices)
        for name, figure in (reading.figures | _drawings(submatrices, reading)).items():
            save_figure(figure, draft / f"{name}.png")
    rows = [(*item["names"], f"{item['value']:+.3g}") for item in result["interactions"]]
    print(text_table(("output feature", "input feature", "with", "value"), rows, "interactions.json"))
    print(output)


@dataclass(frozen=True)
class _Reading:
    """Names of features, and the additions that a text makes: results for the JSON file, figures by name."""

    inputs: Sequence[str]
    outputs: Sequence[str]
    results: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)


def _shipped(checkpoint: str, paths: Mapping[Site, str]) -> dict[Site, tuple[str, ...]]:
    """The names that ship, of the dictionaries that do."""
    named = {site: shipped_dictionary_names(checkpoint, path) for site, path in paths.items()}
    return {site: names for site, names in named.items() if names}


def _read(
    names: _Reading,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    ends: tuple[Dictionary, Dictionary],
    words: str,
    strongest: Interactions,
    seed: int,
    progress: bool,
) -> _Reading:
    from analysis.features.contexts import top_contexts
    from analysis.features.explained import explained_on_text
    from analysis.interventions.interactions import ablation_control
    from analysis.plots import ablation_plot, correlation_plot
    from analysis.text.vocabulary import Vocabulary
    from analysis.text.windows import document_windows
    from bilinear_lm.weights import embedding

    vocabulary = Vocabulary.of(tokenizer, embedding(model).shape[0])
    windows = document_windows(tokenizer, words, model.config.max_position_embeddings)
    skip = int(tokenizer.bos_token_id is not None)
    peaks = top_contexts(model, ends[1], windows, skip=skip, progress=progress)
    outputs = sorted({item.output for item in strongest})
    explained = explained_on_text(model, layer, ends[1], windows, outputs, skip=skip, progress=progress)
    predicted = [window for window in windows if len(window) > 1]
    control = ablation_control(model, layer, *ends, strongest, predicted, range(seed, seed + N_SEEDS))
    results = {
        "contexts": {str(feature): _passages(peaks, feature, vocabulary) for feature in outputs},
        "correlation": {
            "features": outputs,
            "all_tokens": _without_nan(explained.all_tokens),
            "active_tokens": _without_nan(explained.active_tokens),
            "n_active": explained.n_active.tolist(),
        },
        "ablation": {
            measure: {
                "strongest": float(getattr(control.strongest, measure).mean()),
                "random": [float(getattr(effect, measure).mean()) for effect in control.random],
            }
            for measure in ("loss_change", "activation_change")
        },
    }
    return replace(
        names,
        results=results,
        figures={"correlation": correlation_plot(explained), "ablation": ablation_plot(control)},
    )


def _certified(
    model: PreTrainedModel, layer: int, outputs: Dictionary, features: list[int]
) -> list[dict[str, Any]]:
    """The range of each feature and the eigenvectors needed, or nothing where no norm bounds the layer."""
    from analysis.guarantees.claims import eigenvectors_needed
    from analysis.guarantees.model_ranges import AT_ONCE, certify_features, has_range, normalised_mlp_tensor
    from bilinear_lm.distributed import divided

    if not has_range(model, layer):
        return [{"certified": None} for _ in features]
    ranges = certify_features(model, outputs, features, layer=layer)
    tensor = normalised_mlp_tensor(model, layer)
    u = outputs.to(tensor.device, tensor.dtype).encoder.T[features]

    def needed(some: Sequence[int]) -> tuple[Tensor, ...]:
        own = slice(some[0], some[-1] + 1)
        return tuple(eigenvectors_needed(tensor, u[own], WORST, free_constant=free) for free in (False, True))

    counts = divided(range(len(features)), needed, AT_ONCE)
    columns = (ranges.low, ranges.high, ranges.dead, *counts)
    names = ("low", "high", "dead", "eigenvectors", "eigenvectors_and_constant")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [{"certified": dict(zip(names, row, strict=True))} for row in rows]


def _summary(
    strongest: Interactions,
    table: InteractionStatistics,
    certified: list[dict[str, Any]],
    reading: _Reading,
) -> dict[str, Any]:
    inputs, outputs = reading.inputs, reading.outputs
    features = zip(table.rows(), certified, strict=True)
    return {
        "interactions": [
            asdict(item) | {"names": [outputs[item.output], inputs[item.left], inputs[item.right]]}
            for item in strongest
        ],
        "n_deviations": table.n_deviations,
        "worst_case_error": WORST,
        "features": [row | reach | {"name": outputs[row["output"]]} for row, reach in features],
        **reading.results,
    }


def _drawings(submatrices: list[Submatrix], reading: _Reading) -> dict[str, Figure]:
    from analysis.plots import submatrix_plot

    return {
        f"submatrix-{submatrix.output}": submatrix_plot(
            submatrix,
            [reading.inputs[feature] for feature in submatrix.features.tolist()],
            f"interactions into output feature {reading.outputs[submatrix.output]}",
        )
        for submatrix in submatrices
    }


def _read_words(path: Path) -> str:
    words = read_plain_text(path)
    if not words.strip():
        raise InputError(f"{path}: the text is empty; expected a few pages to name features by")
    return words


def _load(path: str, layer: int, point: Point, where: Any) -> Dictionary:
    from bilinear_lm.dictionaries import load_dictionary
    from bilinear_lm.sites import Site

    dictionary = load_dictionary(path, device=where)
    return dictionary if dictionary.site else replace(dictionary, site=Site(layer, point))


def _passages(contexts: Contexts, feature: int, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    return [
        {
            "tokens": [vocabulary.label(token) for token in context.tokens],
            "activations": list(context.activations),
            "peak": context.peak,
        }
        for context in contexts.of(feature)
    ]


def _without_nan(correlations: Tensor) -> list[list[float | None]]:
    return [[None if value != value else value for value in row] for row in correlations.tolist()]


def _save_tensors(path: Path, strongest: Interactions, submatrices: list[Submatrix]) -> None:
    from safetensors.torch import save_file

    columns = ("outputs", "left", "right", "values")
    tensors = {name: getattr(strongest, name) for name in columns}
    for submatrix in submatrices:
        tensors[f"submatrix.{submatrix.output}.features"] = submatrix.features
        tensors[f"submatrix.{submatrix.output}.matrix"] = submatrix.matrix
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)
