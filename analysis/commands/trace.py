"""`bilinear-lm trace`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bilinear_lm.commands.arguments import DEFAULT_MODEL, Checkpoint, Output
from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.errors import InputError
from bilinear_lm.files import require_writable, write_text
from bilinear_lm.shipped import shipped_scope, shipped_words
from bilinear_lm.text.files import read_plain_text

if TYPE_CHECKING:
    from torch import nn

    from bilinear_lm.dictionaries.dictionary import Dictionary
    from bilinear_lm.sites import Site


def trace(
    checkpoint: Checkpoint = DEFAULT_MODEL,
    /,
    prompt: str | None = None,
    token: str | None = None,
    feature: str | None = None,
    head: str | None = None,
    key: int | None = None,
    position: int | None = None,
    output: Output = Path("trace.json"),
    format: Literal["graph", "circuit-tracer"] = "graph",
    page: Path | None = None,
    dictionaries: Path | None = None,
    contexts: Path | None = None,
    eigenvectors: bool = False,
    share: float | None = None,
    max_nodes: int = 200,
    by: Literal["slope", "weight"] = "slope",
    attention: Literal["followed", "held"] = "held",
    interactions: Literal["grouped", "pairs"] = "grouped",
    check: int | None = None,
    device: DeviceName = "auto",
) -> None:
    """Follow what a logit, feature or attention score is made of, down to tokens: on a prompt, or by weights.

    Under torchrun the search for pairs of features by weights is shared by the processes.

    Args:
        checkpoint: Folder, hub repository, or name of a shipped model.
        prompt: Text on which the target is read; without it the circuit is that of the weights.
        token: The target is a token's logit: "swim", or "swim - run, fly" (against the mean of others). On a
            prompt by default the likeliest next token, against the mean of its five runners-up.
        feature: The target is a feature of a dictionary: LAYER-POINT-NUMBER, such as 2-mlp-out-17.
        head: The target is the attention score of a head on the prompt: LAYER.HEAD, such as 2.3.
        key: Position that the head looks at; the one with the most attention by default.
        position: Where in the prompt the target is read (of a score, the query), from 0, negative from the
            end; the last by default.
        output: The file for the graph.
        format: Our JSON, or that of circuit-tracer's frontend and Neuronpedia, which look a graph up by the
            name of its file.
        page: HTML page to write as well, in which the graph can be looked through.
        dictionaries: Folder of dictionaries at mlp-in (or resid-mid) and mlp-out; a shipped model has its
            own. Where there is none, eigenvectors are followed.
        contexts: Text file that features are named by, documents separated by <|endoftext|>; a shipped model
            has its own.
        eigenvectors: Follow eigenvectors, and not the dictionaries that a shipped model has.
        share: Of each node the fewest contributions are kept that have this share; 0.8 on a prompt, 0.5 (of
            squares) by weights.
        max_nodes: Nodes in the graph, at most.
        by: What nodes are chosen by on a prompt: slopes, by how much the target changes with them, norms and
            attention free; or weights, which add up to it, both held.
        attention: Whether attention scores that move the target are nodes of a prompt's graph.
        interactions: Of a prompt's graph: the weak interactions of features together in the edges of their
            inputs, which follows more of the target; or each as a node or left out.
        check: Take so many nodes of each kind away in the model, one at a time, and say how the graph's
            predictions agree with what happens. With --page by default 20, or as many as there are; 0: none.
        device: Where to compute.
    """
    from analysis.circuits.labels import labelled
    from analysis.circuits.trace import trace as trace_graph
    from analysis.distributed import process_group
    from analysis.features.contexts import numbered
    from analysis.graphs.export import file_slug, save_circuit_tracer
    from analysis.graphs.files import save_graph
    from analysis.graphs.summary import summary
    from analysis.text.vocabulary import Vocabulary
    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer
    from bilinear_lm.weights import embedding

    for path in (output, page):
        if path is not None:
            require_writable(path)
    if page is not None and page.resolve() == output.resolve():
        raise InputError(f"trace: --page and --output are both {page}; expected two files")
    if format == "circuit-tracer":
        file_slug(output)
    if prompt is None and position is not None:
        raise InputError(f"trace: --position {position} without --prompt; it is a place in one")
    if prompt is None and check:
        raise InputError(f"trace: --check {check} without --prompt; interventions need one")
    if eigenvectors and dictionaries is not None:
        raise InputError(f"trace: --dictionaries {dictionaries} with --eigenvectors; expected one of the two")
    folder, text = shipped_scope(checkpoint)
    kept = {} if dictionaries or contexts or eigenvectors else shipped_words(checkpoint)
    folder, text = dictionaries or folder, contexts or (None if dictionaries else text)
    words = None if text is None or kept else read_plain_text(text)
    where = find_device(device)
    with process_group(where) as part:
        model, tokenizer = load_pretrained(checkpoint, device=where), load_tokenizer(checkpoint)
        followed = None if eigenvectors or folder is None else _followed(folder, model)
        graph = trace_graph(
            model,
            tokenizer,
            prompt,
            token=token,
            feature=feature,
            head=head,
            key=key,
            position=-1 if position is None else position,
            dictionaries=followed,
            text=words,
            share=share,
            max_nodes=max_nodes,
            by=by,
            attention=attention,
            interactions=interactions,
            check=_check(check, page is not None and prompt is not None),
        )
    if part.rank:
        return
    if kept:
        names = {site: [numbered(*each) for each in enumerate(words)] for site, words in kept.items()}
        graph = labelled(graph, Vocabulary.of(tokenizer, embedding(model).shape[0]), names)
    if format == "graph":
        save_graph(graph, output)
    else:
        save_circuit_tracer(graph, output, n_layers=model.config.num_hidden_layers)
    print(summary(graph))
    print(output)
    if page is not None:
        from analysis.report.graphs_section import graphs_page

        write_text(page, graphs_page((graph,), Path(checkpoint).name))
        print(page)


def _check(asked: int | None, by_default: bool) -> int | bool | None:
    """How many nodes of each kind `trace` is to check."""
    if asked is None:
        return by_default
    return asked or None


def _followed(folder: Path, model: nn.Module) -> dict[Site, Dictionary]:
    from analysis.features.dictionaries import around_mlps, dictionaries_in

    dictionaries = around_mlps(dictionaries_in(folder, model))
    if not dictionaries:
        raise InputError(
            f"{folder}: no dictionary at mlp-in, resid-mid or mlp-out; expected a folder for each, such as "
            "4-mlp-out"
        )
    return dictionaries
