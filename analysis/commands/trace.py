"""`bilinear-lm trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from bilinear_lm.commands.arguments import DEFAULT_MODEL, Checkpoint, Output
from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.errors import InputError
from bilinear_lm.files import require_writable, write_text
from bilinear_lm.shipped import shipped_names, shipped_scope
from bilinear_lm.text.files import read_plain_text


def trace(
    checkpoint: Checkpoint = DEFAULT_MODEL,
    /,
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
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
    names: Path | None = None,
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

    Under torchrun the processes share the prompts, and by weights the search for pairs of features.

    Args:
        checkpoint: Folder, hub repository, or name of a shipped model.
        prompt: Text on which the target is read; without it the circuit is that of the weights. It can be
            given several times.
        token: The target is a token's logit: "swim", or "swim - run, fly" (against the mean of others). On a
            prompt by default the likeliest next token, against the mean of its five runners-up.
        feature: The target is a feature of a dictionary: LAYER-POINT-NUMBER, such as 2-mlp-out-17.
        head: The target is the attention score of a head on the prompt: LAYER.HEAD, such as 2.3.
        key: Position that the head looks at; the one with the most attention by default.
        position: Where in the prompt the target is read (of a score, the query), from 0, negative from the
            end; the last by default.
        output: The file for the graph; of several prompts numbered files beside it, trace-0.json and on.
        format: Our JSON, or that of circuit-tracer's frontend and Neuronpedia, which look a graph up by the
            name of its file.
        page: HTML page to write as well, in which the graphs can be looked through.
        dictionaries: Folder of dictionaries at mlp-in (or resid-mid) and mlp-out; a shipped model has its
            own. Where there is none, eigenvectors are followed.
        contexts: Text file that features are named by, documents separated by <|endoftext|>; a shipped model
            has its own. Without one they are named by tokens that they act on by weights alone.
        names: JSON file of your own names for features, as the page of `report` saves it.
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
    from analysis.circuits.labels import labelled, sites_of
    from analysis.circuits.trace import trace as trace_graph
    from analysis.circuits.trace import trace_prompts
    from analysis.features.chosen_names import chosen_names
    from analysis.features.dictionaries import followed_dictionaries
    from analysis.graphs.export import file_slug, save_circuit_tracer
    from analysis.graphs.files import save_graph
    from analysis.graphs.summary import summary
    from analysis.text.vocabulary import Vocabulary
    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer
    from bilinear_lm.dictionaries.names import load_feature_names
    from bilinear_lm.distributed import process_group
    from bilinear_lm.weights import embedding

    outputs = _outputs(output, len(prompt))
    for path in (*outputs, *([] if page is None else [page])):
        require_writable(path)
    if page is not None and page.resolve() in [path.resolve() for path in outputs]:
        raise InputError(f"trace: --page and --output are both {page}; expected two files")
    if format == "circuit-tracer":
        for path in outputs:
            file_slug(path)
    if not prompt and position is not None:
        raise InputError(f"trace: --position {position} without --prompt; it is a place in one")
    if not prompt and check:
        raise InputError(f"trace: --check {check} without --prompt; interventions need one")
    if eigenvectors and dictionaries is not None:
        raise InputError(f"trace: --dictionaries {dictionaries} with --eigenvectors; expected one of the two")
    folder, text = shipped_scope(checkpoint)
    kept = {} if dictionaries or contexts or eigenvectors else shipped_names(checkpoint)
    folder, text = dictionaries or folder, contexts or (None if dictionaries else text)
    words = None if text is None or kept else read_plain_text(text)
    where = find_device(device)
    with process_group(where) as part:
        model, tokenizer = load_pretrained(checkpoint, device=where), load_tokenizer(checkpoint)
        followed = {} if eigenvectors or folder is None else followed_dictionaries(folder, model)
        if names is not None and not followed:
            raise InputError(f"trace: --names {names} without dictionaries whose features they name")
        given = load_feature_names(names, followed)
        settings: dict[str, Any] = {
            "token": token,
            "feature": feature,
            "head": head,
            "key": key,
            "position": -1 if position is None else position,
            "dictionaries": followed or None,
            "share": share,
            "max_nodes": max_nodes,
            "by": by,
            "attention": attention,
            "interactions": interactions,
            "check": _check(check, page is not None and bool(prompt)),
        }
        if len(prompt) > 1:
            graphs = trace_prompts(model, tokenizer, prompt, **settings)
        else:
            graphs = [trace_graph(model, tokenizer, *prompt, **settings)]
        shown = {site: followed[site] for site in sites_of(*graphs)}
        chosen = chosen_names(model, tokenizer, shown, kept, words, given)
    if part.rank:
        return
    vocabulary = Vocabulary.of(tokenizer, embedding(model).shape[0])
    graphs = [labelled(graph, vocabulary, chosen) for graph in graphs]
    for graph, path in zip(graphs, outputs, strict=True):
        if format == "graph":
            save_graph(graph, path)
        else:
            save_circuit_tracer(graph, path, n_layers=model.config.num_hidden_layers)
        print(summary(graph))
        print(path)
    if page is not None:
        from analysis.report.graphs_section import graphs_page

        write_text(page, graphs_page(tuple(graphs), Path(checkpoint).name))
        print(page)


def _check(asked: int | None, by_default: bool) -> int | bool | None:
    """How many nodes of each kind `trace` is to check."""
    if asked is None:
        return by_default
    return asked or None


def _outputs(output: Path, n_prompts: int) -> list[Path]:
    """The files of the graphs: the one named, of several prompts numbered ones beside it."""
    if n_prompts < 2:
        return [output]
    return [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(n_prompts)]
