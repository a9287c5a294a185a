"""`bilinear-lm eigen`: the strongest eigenvectors of a layer for many output directions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bilinear_lm.checks import require_count, require_index, require_number, require_seed
from bilinear_lm.commands.arguments import DEFAULT_MODEL, Checkpoint, Output
from bilinear_lm.commands.table import PRINTED, table
from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.errors import InputError
from bilinear_lm.files import told

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

FIGURES = 16
"""Spectra are drawn for up to so many directions."""


def eigen(
    checkpoint: Checkpoint = DEFAULT_MODEL,
    /,
    *,
    layer: int,
    output: Output,
    tokens: tuple[str, ...] = (),
    all_tokens: bool = False,
    dictionary: str | None = None,
    features: tuple[int, ...] = (),
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 16,
    method: Literal["auto", "dense", "block", "lanczos"] = "auto",
    tolerance: float | None = None,
    device: DeviceName = "auto",
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Decompose the interaction matrices of an MLP, for tokens or for features of a dictionary.

    Writes settings.json (what was computed, with the names of the directions) and part-00000.safetensors
    and on (values, vectors, residuals, gap); `analysis.load_decomposition` reads the folder. For a few
    directions also spectrum-00000.png and on. A run that was killed is finished with --resume. Under torchrun
    the processes share the parts; any number of them finishes a run.

    Args:
        checkpoint: Folder, hub repository, or name of a shipped model.
        layer: Layer of the MLP; negative numbers count from the end.
        output: New folder for the results.
        tokens: Output directions: "swim" (a token against the mean of all), or "swim - run, climb" (against
            the mean of others).
        all_tokens: Every token of the vocabulary, against the mean of all, in the order of their ids.
        dictionary: Dictionary of what the MLP writes; the directions are those its features read.
        features: Features of the dictionary; all of them by default.
        k: How many eigenvectors of each direction, from both ends of the spectrum by magnitude.
        method: All eigenvectors of each matrix (dense), only the k (block, lanczos), or the fastest (auto).
        tolerance: Largest residual where only k are computed, relative to the largest eigenvalue.
        device: Where to compute.
        seed: Seeds the rows that block and lanczos start from.
        resume: Finish what a killed run left in the folder.
    """
    import torch

    from analysis.spectra.eigen_run import eigendecompose_to_folder, require_unbegun
    from bilinear_lm import mlp_tensor
    from bilinear_lm.checkpoints import load_pretrained
    from bilinear_lm.distributed import process_group, together

    require_seed(seed)
    _require_one_choice(tokens, all_tokens, dictionary, features)
    require_count(k, f"k={k} eigenvectors")
    if tolerance is not None:
        require_number(tolerance, f"tolerance {tolerance:g}", "more than 0, below 1", least=5e-324, most=1)
    where = find_device(device)
    with process_group(where) as part:
        with together():
            if not resume and not part.rank:
                require_unbegun(output)
        model = load_pretrained(checkpoint, device=where)
        tensor = mlp_tensor(model, layer).to(torch.float32)
        if dictionary is None:
            u, names = _token_directions(model, checkpoint, tokens)
        else:
            n_layers = model.config.num_hidden_layers
            u, names = _feature_directions(dictionary, layer % n_layers, features, where)
        eigendecompose_to_folder(
            tensor,
            u.to(torch.float32),
            output,
            k,
            method=method,
            tolerance=tolerance,
            seed=seed,
            resume=resume,
            about={
                "checkpoint": told(checkpoint),
                "layer": layer,
                "dictionary": None if dictionary is None else told(dictionary),
                "directions": names,
            },
        )
    if part.rank:
        return
    if len(names) <= FIGURES:
        try:
            _draw(output, names)
        except InputError as error:  # a disk that is full
            raise InputError(f"{error}, or draw them by --resume: the numbers are in {output}") from error
    print(_table(output, names, checkpoint, model))
    print(output)


def _table(folder: Path, names: list[str], checkpoint: str, model: PreTrainedModel) -> str:
    """Each direction's largest eigenvalues, and the tokens at both ends of the largest eigenvector."""
    from analysis.spectra.eigen_folder import part_path
    from analysis.text.tokens import direct_scores, read_tokens
    from analysis.text.vocabulary import Vocabulary
    from bilinear_lm import embedding
    from bilinear_lm.checkpoints import load_tokenizer
    from bilinear_lm.files import read_tensors

    W_E, part = embedding(model).float(), read_tensors(part_path(folder, 0), ("values", "vectors"))
    vocabulary = Vocabulary.of(load_tokenizer(checkpoint), len(W_E))
    found = part["values"][:PRINTED]
    first = part["vectors"][:PRINTED, 0, : W_E.shape[1]].to(W_E.device)
    ends = read_tokens(direct_scores(first, W_E), min(4, len(W_E)))
    rows = [
        (
            name,
            *(f"{value:+.3g}" for value in values[:2]),
            *(" ".join(map(vocabulary.label, side)) for side in sides),
        )
        for name, values, *sides in zip(
            names[: len(found)], found.tolist(), ends.top.tolist(), ends.bottom.tolist(), strict=True
        )
    ]
    columns = ("direction", *(f"λ{at + 1}" for at in range(min(2, found.shape[1]))))
    return table((*columns, "first eigenvector reads", "and"), rows, folder, len(names))


def _require_one_choice(
    tokens: tuple[str, ...], all_tokens: bool, dictionary: str | None, features: tuple[int, ...]
) -> None:
    given = {"--tokens": bool(tokens), "--all-tokens": all_tokens, "--dictionary": dictionary is not None}
    chosen = [name for name, there in given.items() if there]
    if len(chosen) != 1:
        raise InputError(
            f"output directions by {' and '.join(chosen) or 'nothing'}; expected one of {', '.join(given)}"
        )
    if features and dictionary is None:
        raise InputError("--features without --dictionary; expected the dictionary that has them")


def _token_directions(
    model: PreTrainedModel, checkpoint: str, tokens: tuple[str, ...]
) -> tuple[Tensor, list[str]]:
    """The logits of the tokens asked for, against others; without any, of every token against the mean."""
    import torch

    from analysis.text.tokens import parse_direction
    from analysis.text.vocabulary import Vocabulary
    from bilinear_lm import unembedding
    from bilinear_lm.checkpoints import load_tokenizer

    W_U = unembedding(model)
    vocabulary = Vocabulary.of(load_tokenizer(checkpoint), W_U.shape[1])
    if tokens:
        return torch.stack([parse_direction(text, vocabulary).vector(W_U) for text in tokens]), list(tokens)
    return (W_U - W_U.mean(dim=1, keepdim=True)).T, [vocabulary.label(token) for token in range(W_U.shape[1])]


def _feature_directions(
    path: str, layer: int, features: tuple[int, ...], where: Any
) -> tuple[Tensor, list[str]]:
    """The encoder's columns for the features asked for; without any, for all."""
    from bilinear_lm.dictionaries import load_dictionary

    dictionary = load_dictionary(path, device=where)
    if dictionary.nonlinear is not None:
        raise InputError(f"{path}: {dictionary.nonlinear}, whose features read no one direction")
    if dictionary.site and (
        dictionary.site.layer != layer or dictionary.site.point not in ("mlp-out", "resid-post")
    ):
        raise InputError(
            f"{path}: is a dictionary of {dictionary.site}; expected one of {layer}-mlp-out or "
            f"{layer}-resid-post"
        )
    chosen = list(features or range(dictionary.n_feat))
    for feature in chosen:
        require_index(feature, dictionary.n_feat, f"{path}: feature")
    return dictionary.encoder[:, chosen].T, [f"feature {feature}" for feature in chosen]


def _draw(folder: Path, names: list[str]) -> None:
    from analysis.plots import save_figure, spectrum_plot
    from analysis.spectra.eigen_folder import load_decomposition

    values = load_decomposition(folder).values
    for index, name in enumerate(names):
        title = f"{values.shape[1]} largest eigenvalues, {name}"
        save_figure(spectrum_plot(values[index], title), folder / f"spectrum-{index:05}.png")
