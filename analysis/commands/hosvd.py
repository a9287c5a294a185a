"""`bilinear-lm hosvd`: the directions that carry a layer's tensor, and what they mean in tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from bilinear_lm.checks import require_count
from bilinear_lm.commands.arguments import DEFAULT_MODEL, Checkpoint, Output
from bilinear_lm.commands.table import table
from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.files import new_folder, require_new, told, versions_of_run, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from analysis.spectra.hosvd import HOSVD
    from analysis.text.vocabulary import Vocabulary


def hosvd(
    checkpoint: Checkpoint = DEFAULT_MODEL,
    /,
    *,
    layer: int,
    output: Output,
    k: int = 16,
    leg: Literal["output", "input"] = "output",
    eigenvectors: int = 2,
    listed: int = 8,
    device: DeviceName = "auto",
) -> None:
    """Decompose an MLP into orthogonal directions, each with an interaction matrix of its own.

    Writes hosvd.json (singular values, effective rank, the error of keeping only the first directions, and
    what each direction means in tokens) and hosvd.safetensors (the directions and eigenvectors).

    Args:
        checkpoint: Folder, hub repository, or name of a shipped model.
        layer: Layer of the MLP; negative numbers count from the end.
        output: New folder for the two files.
        k: How many directions.
        leg: Directions that the MLP writes along (output), or that it reads (input).
        eigenvectors: How many eigenvectors of each output direction.
        listed: How many tokens to list at each end of a direction.
        device: Where to compute.
    """
    import torch
    from safetensors.torch import save_file

    from analysis.spectra.hosvd import hosvd as decompose
    from analysis.spectra.hosvd import singular_eigenvectors
    from analysis.text.vocabulary import Vocabulary
    from bilinear_lm import embedding, mlp_tensor, unembedding
    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer

    for name, count in (("k", k), ("eigenvectors", eigenvectors), ("listed", listed)):
        require_count(count, f"--{name} {count}")
    require_new(output)
    model = load_pretrained(checkpoint, device=find_device(device))
    precision = torch.promote_types(model.dtype, torch.float32)
    tensor = mlp_tensor(model, layer).to(precision)
    W_E, W_U = embedding(model).to(precision), unembedding(model).to(precision)
    vocabulary = Vocabulary.of(load_tokenizer(checkpoint), len(W_E))
    svd = decompose(tensor, k, leg)
    tensors = {"spectrum": svd.spectrum, f"{leg}_directions": svd.directions}
    if leg == "output":
        directions = _readings(svd.singular_values, svd.directions @ W_U, vocabulary, listed)
        eigen = singular_eigenvectors(tensor, svd, eigenvectors)
        tensors |= {"eigenvalues": eigen.values, "eigenvectors": eigen.vectors}
        scores = eigen.vectors[..., : W_E.shape[1]] @ W_E.T
        for direction, values, rows in zip(directions, eigen.values, scores, strict=True):
            direction["eigenvectors"] = _readings(values, rows, vocabulary, listed)
    else:
        scores = svd.directions[:, : W_E.shape[1]] @ W_E.T
        directions = _readings(svd.singular_values, scores, vocabulary, listed)
    settings = {"checkpoint": told(checkpoint), "layer": layer, "k": k, "leg": leg}
    with new_folder(output) as folder:
        write_json(folder / "hosvd.json", {**_summary(svd), "directions": directions, "settings": settings})
        save_file(
            {name: value.contiguous().cpu() for name, value in tensors.items()}, folder / "hosvd.safetensors"
        )
    print(_table(svd, directions, leg))
    print(output)


def _table(svd: HOSVD, directions: list[dict[str, Any]], leg: str) -> str:
    """Each direction's share of the tensor's square, and the tokens at its two ends."""
    total = float((svd.spectrum.double() ** 2).sum())
    rows = [
        (f"{at}", f"{direction['value']:.3g}", f"{direction['value'] ** 2 / total:.1%}", *_ends(direction))
        for at, direction in enumerate(directions)
    ]
    ends = ("raises", "lowers") if leg == "output" else ("one end", "the other")
    return table(("direction", "singular value", "share of square", *ends), rows, "hosvd.json")


def _ends(direction: dict[str, Any]) -> tuple[str, str]:
    top, bottom = (" ".join(item["token"] for item in direction[end][:4]) for end in ("top", "bottom"))
    return top, bottom


def _summary(svd: HOSVD) -> dict[str, Any]:
    from analysis.spectra.eigen import effective_rank
    from bilinear_lm.numerics.rescaling import norms

    return {
        "norm": float(norms(svd.spectrum, 0)),
        "rank": svd.rank,
        "effective_rank": float(effective_rank(svd.spectrum)),
        "singular_values": svd.singular_values.tolist(),
        "truncation_errors": [svd.truncation_error(kept + 1) for kept in range(len(svd.directions))],
        "versions": versions_of_run(),
    }


def _readings(values: Tensor, scores: Tensor, vocabulary: Vocabulary, n: int) -> list[dict[str, Any]]:
    """For each direction its value, and the tokens with the highest and the lowest of its scores."""
    from analysis.text.tokens import read_tokens

    reading = read_tokens(scores, n)
    ends = {"top": (reading.top, reading.top_scores), "bottom": (reading.bottom, reading.bottom_scores)}
    return [
        {"value": float(value)}
        | {
            end: [
                {"token": vocabulary.label(token), "id": token, "score": score}
                for token, score in zip(ids[row].tolist(), of_tokens[row].tolist(), strict=True)
            ]
            for end, (ids, of_tokens) in ends.items()
        }
        for row, value in enumerate(values)
    ]
