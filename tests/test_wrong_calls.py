"""Wrong calls of public functions: each is an InputError at the call that says what was got and expected."""

import jaxtyping
import pytest
import torch

from analysis import feature_layer, interaction_statistics, strongest_interactions
from bilinear_lm import load_dictionary, load_pretrained

from .wrong_calls import WRONG, Things
from .wrong_calls import raised as raised_by


@pytest.fixture(scope="module")
def raised(tmp_path_factory):
    """What each call raises for a user, without the checks of shapes that tests add."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        things = Things(tmp_path_factory.mktemp("things"))
        return {name: raised_by(call, things) for name, call in WRONG.items()}


@pytest.mark.parametrize("call", WRONG)
def test_wrong_calls_are_input_errors(call, raised):
    kind, message = raised[call]
    assert kind == "InputError", message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            "effects(attribution)",
            "graph is a Attribution; expected a Graph, such as attribute(prompt, ",
        ),
        ("trace feature int", "feature is 540; expected a text"),
        ("trace(model, None, 'a')", "tokenizer is None; expected a tokenizer, as load_tokenizer loads it"),
        (
            "attribute(model, ids, target)",
            "attribute: too many positional arguments; expected attribute(",
        ),
        (
            "hosvd(model)",
            "tensor is a LlamaForCausalLM; expected a BilinearTensor, such as mlp_",
        ),
        ("bl.load_pretrained(3)", "path_or_repo is 3; expected a text or a path"),
        ("LogitTarget(' hug')", "token ' hug' of a target; expected its number"),
    ],
)
def test_what_is_said(call, said, raised):
    assert raised[call][1].startswith(said)


def test_one_feature_stands_for_a_list():
    sides = (load_dictionary(f"stories-scope/3-{point}") for point in ("mlp-in", "mlp-out"))
    layer = feature_layer(load_pretrained("stories"), 3, *sides)
    one, listed = (strongest_interactions(layer, of, k=5) for of in (540, [540]))
    assert torch.equal(one.values, listed.values)
    assert interaction_statistics(layer, 540).rows() == interaction_statistics(layer, [540]).rows()
