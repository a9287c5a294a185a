"""Long prompts: in pieces the same graph, and no tensor as large as the patterns of all heads."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bilinear_lm.numerics.memory
from analysis.circuits.attribution import attribute
from analysis.circuits.prompt.gradients import target_gradients
from analysis.circuits.prompt.prompt import open_prompt
from analysis.circuits.targets import LogitTarget, ScoreTarget
from bilinear_lm.sites import Site

from .random_dictionaries import MODELS, SMALL, dictionaries

N_POS, N_HEADS = 96, 4
CHUNK = 2**15
LOGIT, SCORE = LogitTarget(7, (2, 3)), ScoreTarget(layer=1, head=1, query=-1)


class Largest(TorchDispatchMode):
    """While open, the largest tensor that any operation gives, views of no memory of their own aside."""

    n_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.n_bytes = max(self.n_bytes, leaf.untyped_storage().nbytes())
        return result


def prompt_of(model, points=("mlp-in", "mlp-out")):
    ids = torch.arange(N_POS) * 7 % 50
    return open_prompt(model, ids, dictionaries(points) if points else None)


@pytest.fixture(scope="module")
def model(family_model):
    sizes = SMALL | MODELS["biases"] | {"num_attention_heads": N_HEADS, "max_position_embeddings": N_POS}
    return family_model(**sizes, attn_implementation="sdpa")


@pytest.mark.parametrize(
    ("target", "points", "settings"),
    [
        (LOGIT, ("mlp-in", "mlp-out"), {}),
        (LOGIT, ("resid-mid",), {"by": "weight", "norms": "held"}),
        (LOGIT, ("mlp-in", "mlp-out"), {"heads": "nodes", "interactions": "pairs"}),
        (SCORE, ("mlp-in", "mlp-out"), {}),
    ],
    ids=["paths", "without dictionaries behind", "heads", "score"],
)
def test_in_pieces_as_a_whole(model, target, points, settings, monkeypatch):
    whole, pieces, memory = [], [], []
    for found, chunk in ((whole, 2**28), (pieces, CHUNK)):
        monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", chunk)
        with Largest() as largest:
            found.append(attribute(prompt_of(model, points), target, max_nodes=24, **settings))
        memory.append(largest.n_bytes)
    (whole,), (pieces,) = ([one.graph for one in each] for each in (whole, pieces))
    assert {node.id for node in pieces.nodes} == {node.id for node in whole.nodes}
    for name in ("value", "slope"):
        numbers = {node.id: getattr(node, name) for node in whole.nodes}
        same = {node: getattr(pieces.node(node), name) for node in numbers}
        known = {node for node, number in numbers.items() if number is not None}
        assert known == {node for node, number in same.items() if number is not None}
        assert [same[node] for node in known] == pytest.approx([numbers[node] for node in known], 1e-3, 1e-5)
    patterns, logits = 4 * N_HEADS * N_POS**2, 4 * N_POS * model.config.vocab_size
    assert memory[0] >= patterns
    assert memory[1] <= max(CHUNK, logits) < patterns


@pytest.mark.parametrize("name", ["biases", "norms behind and soft caps"])
def test_a_backward_pass_keeps_nothing_inside_of_blocks(family_model, name):
    """The derivative is that which autograd gives with everything kept."""
    model = family_model(**SMALL | MODELS[name])
    ids, widths = torch.tensor([[3, 1, 4, 1, 5, 9]]), []

    def note(x):
        widths.append(x.shape[-1] if x.ndim else 0)
        return x

    prompt = open_prompt(model, ids)
    forward = [block.forward for block in model.model.layers]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        gradients = target_gradients(prompt, LOGIT)
    assert widths
    assert SMALL["intermediate_size"] not in widths
    assert [block.forward for block in model.model.layers] == forward

    added = torch.zeros(6, 8, requires_grad=True)
    handle = model.model.embed_tokens.register_forward_hook(lambda *args: args[2] + added)
    LOGIT.of(model(input_ids=ids).logits[0, -1]).backward()
    handle.remove()
    torch.testing.assert_close(gradients[Site(0, "resid-pre")], added.grad)
