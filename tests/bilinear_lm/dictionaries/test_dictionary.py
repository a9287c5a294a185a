"""Dictionaries in memory: what they compute, against numpy, and what they refuse."""

import copy

import numpy as np
import pytest
import torch

from bilinear_lm import Dictionary, InputError, Site

D_IN, N_FEAT, D_OUT = 6, 10, 6


def arrays(seed=0, d_out=D_OUT):
    rng = np.random.default_rng(seed)
    shapes = {
        "encoder": (D_IN, N_FEAT),
        "decoder": (N_FEAT, d_out),
        "b_enc": (N_FEAT,),
        "b_dec": (d_out,),
        "threshold": (N_FEAT,),
        "encoder_gate": (D_IN, N_FEAT),
        "b_gate": (N_FEAT,),
        "skip": (D_IN, d_out),
    }
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def make(names, *, seed=0, d_out=D_OUT, **settings):
    tensors = {name: torch.from_numpy(value) for name, value in arrays(seed, d_out).items() if name in names}
    return Dictionary(**tensors, **settings)


def numpy_code(pre, activation, k=None, threshold=None, signed=False):
    """One row at a time, by sorting."""
    code = np.zeros_like(pre)
    for row, values in enumerate(pre):
        active = {
            "topk": lambda values: np.argsort(values)[::-1][:k],
            "relu": lambda values: np.flatnonzero(values > 0),
            "jumprelu": lambda values: np.flatnonzero(values > threshold),
        }[activation](values)
        for feature in active:
            code[row, feature] = values[feature] if signed or values[feature] > 0 else 0
    return code


@pytest.mark.parametrize("b_dec_to_input", [False, True])
@pytest.mark.parametrize(
    ("activation", "signed"),
    [("topk", False), ("topk", True), ("relu", False), ("jumprelu", False), ("jumprelu", True)],
)
def test_code_and_reconstruction_against_numpy(activation, b_dec_to_input, signed):
    names = ["encoder", "decoder", "b_enc", "b_dec", "skip"] + ["threshold"] * (activation == "jumprelu")
    k = 7 if activation == "topk" else None  # more than are positive
    dictionary = make(
        names, activation=activation, k=k, b_dec_to_input=b_dec_to_input, signed=signed, passthrough=(1, 4)
    )
    raw, x = arrays(), np.random.default_rng(1).normal(size=(20, D_IN))
    pre = (x - raw["b_dec"] * b_dec_to_input) @ raw["encoder"] + raw["b_enc"]
    code = numpy_code(pre, activation, k, raw["threshold"], signed)
    assert (code < 0).any() == signed
    out = code @ raw["decoder"] + raw["b_dec"]
    given = torch.from_numpy(x)
    torch.testing.assert_close(dictionary.encode(given), torch.from_numpy(code))
    torch.testing.assert_close(dictionary.decode(torch.from_numpy(code)), torch.from_numpy(out))
    past = x @ raw["skip"]
    for coordinate in (1, 4):
        past[:, coordinate] += x[:, coordinate]
    torch.testing.assert_close(dictionary(given), torch.from_numpy(out + past))


def test_a_bilinear_encoder_is_a_product():
    names = ("encoder", "decoder", "b_enc", "b_dec", "encoder_gate", "b_gate")
    dictionary = make(names, activation="topk", k=3, signed=True, b_dec_to_input=True)
    raw, x = arrays(), np.random.default_rng(1).normal(size=(20, D_IN))
    centred = x - raw["b_dec"]
    pre = (centred @ raw["encoder"] + raw["b_enc"]) * (centred @ raw["encoder_gate"] + raw["b_gate"])
    torch.testing.assert_close(
        dictionary.encode(torch.from_numpy(x)), torch.from_numpy(numpy_code(pre, "topk", 3, signed=True))
    )


def test_axes_in_front_are_free_and_sizes_are_told():
    dictionary = make(["encoder", "decoder"], d_out=4)
    x = torch.randn(2, 3, D_IN, dtype=torch.float64)
    assert dictionary(x).shape == (2, 3, 4)
    torch.testing.assert_close(dictionary(x)[1, 2], dictionary(x[1, 2]))
    assert (dictionary.d_in, dictionary.n_feat, dictionary.d_out) == (D_IN, N_FEAT, 4)


def test_it_moves_as_a_whole():
    names = ("encoder", "decoder", "b_enc", "b_dec", "threshold", "encoder_gate", "b_gate", "skip")
    moved = make(names, activation="jumprelu").to(torch.float32)
    assert moved.dtype == torch.float32
    assert {getattr(moved, name).dtype for name in names} == {torch.float32}
    assert moved.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["encoder", "decoder"], {"activation": "topk"}, "k is None with activation topk and 10 features"),
        (["encoder", "decoder"], {"activation": "topk", "k": 11}, "k is 11"),
        (["encoder", "decoder"], {"k": 3}, "k is 3 with activation relu"),
        (["encoder", "decoder"], {"activation": "jumprelu"}, "a threshold belongs to jumprelu"),
        (["encoder", "decoder", "threshold"], {}, "a threshold belongs to jumprelu"),
        (["encoder", "decoder", "b_gate"], {}, "b_gate without encoder_gate"),
        (["encoder", "decoder"], {"passthrough": (6,)}, r"passthrough \[6\]; expected coordinates below 6"),
        (["encoder", "decoder"], {"b_dec_to_input": True, "d_out": 4}, "reads 6 and writes 4 numbers"),
    ],
)
def test_parts_that_do_not_fit(names, settings, message):
    with pytest.raises(InputError, match=message):
        make(names, **settings)


def test_shapes_that_do_not_fit():
    # The annotations, which are checked in tests alone, would refuse them first.
    parts = make(["encoder", "decoder", "b_enc"])
    for name, value, expected in [
        ("b_enc", torch.zeros(3), r"b_enc of a dictionary has shape \[3\], expected \[10\]"),
        ("decoder", torch.zeros(9, 6), r"decoder of a dictionary has shape \[9, 6\], expected \[10, 6\]"),
        ("encoder", torch.zeros(6), r"needs an encoder \[d_in, n_feat\]"),
    ]:
        broken = copy.copy(parts)
        object.__setattr__(broken, name, value)
        with pytest.raises(InputError, match=expected):
            broken.__post_init__()


def test_sites_are_written_and_read():
    assert str(Site(4, "mlp-out")) == "4-mlp-out"
    assert Site.parse("12-resid-mid") == Site(12, "resid-mid")
    for text in ("mlp-out", "4-mlp", "-1-mlp-in", "4"):
        with pytest.raises(InputError, match="site"):
            Site.parse(text)
    with pytest.raises(InputError, match="site -1-mlp-in; expected a layer from 0"):
        Site(-1, "mlp-in")


def test_names_that_saelens_users_expect():
    dictionary = make(["encoder", "decoder"])
    assert dictionary.W_enc is dictionary.encoder
    assert dictionary.W_dec is dictionary.decoder


@pytest.mark.parametrize("k", [0, -1, 11, True, 2.0, "3"])
def test_k_is_a_number_of_features(k):
    parts = make(["encoder", "decoder"], activation="topk", k=3)
    object.__setattr__(parts, "k", k)
    with pytest.raises(InputError, match=f"k is {k} with activation topk and 10 features; expected 1 to all"):
        parts.__post_init__()


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
@pytest.mark.parametrize("name", ["encoder", "decoder", "b_enc", "threshold", "skip"])
def test_weights_are_real_numbers(name, dtype):
    names = ("encoder", "decoder", "b_enc", "threshold", "skip")
    parts = make(names, activation="jumprelu")
    object.__setattr__(parts, name, getattr(parts, name).to(dtype))
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(InputError, match=f"a dictionary: {kind} numbers in {name}; expected floating-point"):
        parts.__post_init__()


@pytest.mark.parametrize(
    ("value", "dtype", "largest"),
    [
        (1e300, torch.float32, "3.4e\\+38"),
        (-1e39, torch.float32, "3.4e\\+38"),
        (7e4, torch.float16, "6.55e\\+04"),
        (1e39, torch.bfloat16, "3.39e\\+38"),
    ],
)
@pytest.mark.parametrize("name", ["encoder", "decoder", "b_dec", "threshold"])
def test_numbers_that_a_precision_does_not_have(name, value, dtype, largest):
    parts = make(("encoder", "decoder", "b_dec", "threshold"), activation="jumprelu")
    getattr(parts, name).view(-1)[-1] = value
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(InputError, match=f"a dictionary: {name} beyond {largest}, the largest {kind}"):
        parts.to(dtype)
    assert parts.to(torch.float64).dtype == torch.float64


def test_numbers_that_round_to_the_largest_are_kept():
    parts = make(("encoder", "decoder"))
    most = torch.finfo(torch.float32).max
    parts.encoder[0, 0] = np.nextafter(most, np.inf)
    assert parts.to(torch.float32).encoder[0, 0] == most
    # A threshold that nothing passes is infinite before and after.
    dead = make(("encoder", "decoder", "threshold"), activation="jumprelu")
    dead.threshold[2] = torch.inf
    assert dead.to(torch.float16).threshold[2] == torch.inf


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool])
def test_precisions_that_are_none(dtype):
    with pytest.raises(InputError, match="numbers in encoder, decoder; expected floating-point weights"):
        make(["encoder", "decoder"]).to(dtype)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalization": "rms"}, "normalization 'rms' of a dictionary; expected one of none, constant"),
        ({"normalization": "layer_norm", "d_out": 4}, "writes 4 numbers for 6; only one that"),
    ],
)
def test_normalisations_that_are_none(settings, message):
    parts = make(["encoder", "decoder"], d_out=settings.get("d_out", D_OUT))
    object.__setattr__(parts, "normalization", settings["normalization"])
    with pytest.raises(InputError, match=message):
        parts.__post_init__()


def test_what_is_passed_through_are_coordinates():
    parts = make(["encoder", "decoder"])
    for wrong in (("0",), (True,), (1.0,), (-1,)):
        object.__setattr__(parts, "passthrough", wrong)
        with pytest.raises(InputError, match="expected coordinates below 6"):
            parts.__post_init__()
