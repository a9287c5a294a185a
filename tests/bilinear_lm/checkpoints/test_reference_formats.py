"""The reference files: the logits that the authors' own code gave, or the refusal that each deserves."""

import pytest
import torch
from safetensors.torch import load_file

from bilinear_lm.checkpoints import checkpoint_info, load_pretrained
from bilinear_lm.errors import InputError

from .shared_data import FORMATS, needs_data

CONVERTED = {
    "f1-bilinear": "published F1",
    "f2a-blp-null-893675a": "published F2",
    "f3-bilinear": "published F3",
    "f4-gate-silu-bias": "published F4",
    "f4-ts-medium-style": "published F4",
    "f4late-stray-norm-linear": "published F4",
    "f5-bias-gate-silu": "published F5",
    "f5-bilinear": "published F5",
    "f5-gate-gelu": "published F5",
    "f5-nonorm": "published F5",
}
REFUSED = {
    "f0-bilinear": "learned positions",
    "f2b-blp-ln": "LayerNorm",
    "f2b-blp-rms-biases": r"n_f\.norm\.bias is not zero",
    "f5i-attention2": "attention2",
    "f5i-interpolator": r"linear maps in place of norms .*n_f\.linear\.weight",
    "sae-bilinear-encoder": "load_dictionary",
    "sae-encoder-bias": "load_dictionary",
    "sae-passthrough": "load_dictionary",
    "sae-plain": "load_dictionary",
}


@needs_data
def test_no_reference_file_is_left_out():
    folders = {folder.name for folder in FORMATS.iterdir() if folder.is_dir()}
    assert folders == CONVERTED.keys() | REFUSED.keys()


@needs_data
@pytest.mark.parametrize("name", CONVERTED)
def test_the_authors_logits(name):
    oracle = load_file(FORMATS / name / "oracle.safetensors")
    with torch.no_grad():
        logits = load_pretrained(FORMATS / name)(oracle["input_ids"]).logits
    assert (logits - oracle["logits"]).abs().max() < 1e-4
    assert checkpoint_info(FORMATS / name).format == CONVERTED[name]


@needs_data
@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    with pytest.raises(InputError, match=REFUSED[name]):
        load_pretrained(FORMATS / name)
