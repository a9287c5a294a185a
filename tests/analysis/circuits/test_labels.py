"""Labels of nodes, and texts and lists in place of ids and mappings."""

from dataclasses import replace

import pytest

from analysis.circuits.attribution import attribute
from analysis.circuits.labels import labelled
from analysis.circuits.prompt.prompt import open_prompt
from analysis.circuits.static import static_circuit
from analysis.circuits.targets import (
    LogitTarget,
)
from analysis.text.vocabulary import Vocabulary
from bilinear_lm import InputError
from bilinear_lm.sites import Site

from .random_dictionaries import IDS, SMALL, dictionaries


def test_labels(make_model, tiny_tokenizer):
    model, given = make_model(), dictionaries(("mlp-in",), layers=(0,), width=16)
    vocabulary = Vocabulary.of(tiny_tokenizer, 300)
    names = {Site(0, "mlp-in"): [f"name {i}" for i in range(40)]}
    plain = attribute(open_prompt(model, IDS, given), LogitTarget(70, (71,))).graph
    assert plain.texts is None
    assert not any(node.label for node in plain.nodes)
    graph = labelled(plain, vocabulary, names)
    assert graph.texts == tuple(vocabulary.texts[token] for token in IDS)
    assert graph.node(graph.target).label == f"{vocabulary.label(70)} - {vocabulary.label(71)}"
    feature, token = graph.of_kind("feature")[0], graph.of_kind("token")[0]
    assert feature.label == f"#{feature.index} name {feature.index}"
    assert token.label == vocabulary.label(token.index)
    pairs = [node for node in graph.of_kind("interaction") if len(graph.into(node.id)) == 2]
    for node in pairs:  # in the order in which the id has them
        left, right = node.label.split(" × ")
        first, second = node.id.partition("(")[2].partition(")")[0].split(", ")
        for label, short in ((left, first), (right, second)):
            assert label == (f"#{short} name {short}" if short.isdecimal() else label)
    assert pairs
    by_mapping = labelled(plain, names={Site(0, "mlp-in"): {feature.index: "one"}})
    assert {node.label for node in by_mapping.of_kind("feature")} == {f"#{feature.index} one", ""}
    with pytest.raises(InputError, match="2 names for the features of 0-mlp-in"):
        labelled(plain, names={Site(0, "mlp-in"): ["a", "b"]})
    with pytest.raises(InputError, match=r"a vocabulary of 10 tokens for a graph with token \d+"):
        labelled(plain, Vocabulary(vocabulary.texts[:10], tiny_tokenizer))


def test_texts_of_prompts_and_targets(make_model, tiny_tokenizer):
    model, vocabulary = make_model(), Vocabulary.of(tiny_tokenizer, 300)
    prompt = open_prompt(model, "a cat and", tokenizer=tiny_tokenizer)
    ids = [tiny_tokenizer.bos_token_id, *tiny_tokenizer.encode("a cat and", add_special_tokens=False)]
    assert prompt.measured.ids.tolist() == ids
    graph = attribute(prompt, "cat - b").graph
    cat, other = vocabulary.find("cat"), vocabulary.find("b")
    assert graph == labelled(attribute(open_prompt(model, ids), LogitTarget(cat, (other,))).graph, vocabulary)
    static = static_circuit(model, "cat", tokenizer=tiny_tokenizer)
    assert static == labelled(static_circuit(model, LogitTarget(cat)), vocabulary)
    for call, message in (
        (lambda: open_prompt(model, "a cat"), "prompt 'a cat' without a tokenizer; give tokenizer="),
        (
            lambda: attribute(open_prompt(model, ids), "cat"),
            "no tokenizer; open the prompt with tokenizer=",
        ),
        (lambda: static_circuit(model, "cat"), "there is no tokenizer; give tokenizer="),
        (lambda: attribute(prompt, "no such token"), "is not one token of this model"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_dictionaries_in_a_list(family_model):
    model, given = family_model(**SMALL), dictionaries(("mlp-in", "mlp-out"))
    by_site = attribute(open_prompt(model, IDS, given), LogitTarget(7)).graph
    listed = [replace(dictionary, site=site) for site, dictionary in given.items()]
    assert attribute(open_prompt(model, IDS, listed), LogitTarget(7)).graph == by_site
    assert static_circuit(model, LogitTarget(7), listed) == static_circuit(model, LogitTarget(7), given)
    for wrong, message in (
        ([listed[0], listed[0]], "two are of 0-mlp-in"),
        ([replace(listed[0], site=None)], "got a dictionary without a site"),
    ):
        with pytest.raises(InputError, match=message):
            open_prompt(model, IDS, wrong)
