"""Contexts against a search over all codes at once, and the windows they are found in."""

import pytest
import torch

from analysis import token_windows, top_contexts
from analysis.features.contexts import feature_names
from analysis.features.naming import names_by_weights
from analysis.features.peaks import Peaks
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import activations_on_windows
from bilinear_lm import Dictionary, InputError, Site
from bilinear_lm.sites import site_activations
from bilinear_lm.weights import unembedding

N_FEAT, WIDTH = 12, 3
SITE = Site(1, "mlp-out")


@pytest.fixture
def dictionary():
    torch.manual_seed(0)
    # The last feature is never active.
    b_enc = torch.full((N_FEAT,), 0.2)
    b_enc[-1] = -1e9
    return Dictionary(torch.randn(16, N_FEAT), torch.randn(N_FEAT, 16), b_enc, site=SITE)


@pytest.fixture
def windows():
    """Windows of two lengths, so that they do not fit one batch."""
    ids = torch.randint(300, (7, 20), generator=torch.Generator().manual_seed(1)).tolist()
    return [*ids[:5], ids[5][:9], ids[6]]


def codes_of(model, dictionary, window):
    seen = next(site_activations(model, [torch.tensor([window])], [SITE]))
    return dictionary.encode(seen[SITE])[0]


def brute_force(codes, feature, k, skip):
    """(code, window, position) of the k highest peaks."""
    peaks = []
    for number, window in enumerate(codes):
        code = window[:, feature].tolist()
        code = [0.0] * skip + code[skip:]
        for position, value in enumerate(code):
            near = code[max(0, position - WIDTH) : position + WIDTH + 1]
            if value > 0 and value == max(near):
                peaks.append((value, number, position))
    return sorted(peaks, reverse=True)[:k]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize(("k", "skip"), [(1, 0), (4, 2), (100, 0)])
def test_against_a_search_over_all_codes(make_model, dictionary, windows, k, skip, batch_size):
    model = make_model()
    found = top_contexts(model, dictionary, windows, k, WIDTH, skip, batch_size)
    codes = [codes_of(model, dictionary, window) for window in windows]
    for feature in range(N_FEAT):
        expected = brute_force(codes, feature, k, skip)
        contexts = found.of(feature)
        assert len(contexts) == len(expected)
        for context, (value, number, position) in zip(contexts, expected, strict=True):
            assert context.window == number
            assert context.activations[context.peak] == pytest.approx(value, rel=1e-4)
            start, end = max(0, position - WIDTH), position + WIDTH + 1
            assert context.peak == position - start
            assert context.tokens == tuple(windows[number][start:end])
            assert context.activations == pytest.approx(codes[number][start:end, feature].tolist(), abs=1e-4)
    assert found.of(N_FEAT - 1) == ()


def test_names_do_not_depend_on_what_is_shown(make_model, dictionary, windows, tiny_tokenizer):
    vocabulary, model = Vocabulary.of(tiny_tokenizer, 300), make_model()
    names = feature_names(model, {SITE: dictionary}, windows, vocabulary, skip=1)[SITE]
    for k, width in ((2, WIDTH), (8, 12), (20, 12)):
        found = top_contexts(model, dictionary, windows, k, width, skip=1, tokenizer=tiny_tokenizer)
        assert found.names == names
        assert found.name(0) == f"#0 {names[0]}"
    assert len(set(names)) == N_FEAT
    first = top_contexts(model, dictionary, windows, 1, 12, skip=1).of(0)[0]
    assert vocabulary.label(first.tokens[first.peak]) in names[0]
    assert top_contexts(model, dictionary, windows).name(0) == "#0"


def test_a_feature_that_is_never_active_is_named_by_what_it_raises(
    make_model, dictionary, windows, tiny_tokenizer
):
    vocabulary, model = Vocabulary.of(tiny_tokenizer, 300), make_model()
    names = feature_names(model, {SITE: dictionary}, windows, vocabulary)[SITE]
    listed = sorted({token for window in windows for token in window})
    W_U = unembedding(model)
    logits = (dictionary.decoder[-1] @ (W_U - W_U.mean(1, keepdim=True)))[listed]
    raised = [vocabulary.label(listed[place]) for place in logits.topk(3).indices.tolist()]
    assert names[-1] == f"weights: raises {', '.join(raised)}"
    alone = names_by_weights(model, dictionary, SITE, vocabulary)
    assert len(set(alone)) == N_FEAT
    assert all(name.startswith("weights: raises ") for name in alone)


def test_peaks_of_some_features(make_model, dictionary, windows):
    """The columns of the codes alone give the contexts of those features."""
    model, chosen = make_model(), [7, 2, N_FEAT - 1]
    best = Peaks.none(dictionary, WIDTH, len(chosen))
    assert [best.contexts(windows).of(at) for at in range(3)] == [(), (), ()]
    for number, window in enumerate(windows):
        code = codes_of(model, dictionary, window)[None, :, chosen]
        best = best.merged(Peaks.of(code, [number], 4, WIDTH, 0), 4)
    some, whole = best.contexts(windows), top_contexts(model, dictionary, windows, 4, WIDTH, batch_size=1)
    assert [some.of(at) for at in range(3)] == [whole.of(feature) for feature in chosen]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_activations_on_windows_of_different_lengths(make_model, dictionary, windows, batch_size):
    model, sites = make_model(), [SITE, Site(0, "resid-mid")]
    order = []
    for numbers, seen in activations_on_windows(model, windows, sites, batch_size):
        order += numbers
        assert len(numbers) <= batch_size
        for row, number in enumerate(numbers):
            alone = next(site_activations(model, [torch.tensor([windows[number]])], sites))
            for site in sites:
                torch.testing.assert_close(seen[site][row], alone[site][0])
    assert order == list(range(len(windows)))


def test_activations_on_windows_leave_nothing_in_the_model(make_model, windows):
    """Also where the reader stops early."""
    model = make_model()
    next(activations_on_windows(model, windows, [SITE]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_token_windows_hold_every_token_once(tiny_tokenizer):
    text = "a cat and a dog ran to the park. " * 5
    ids = tiny_tokenizer.encode(text, add_special_tokens=False)
    windows = token_windows(tiny_tokenizer, text, 8)
    assert all(window[0] == tiny_tokenizer.bos_token_id for window in windows)
    assert [token for window in windows for token in window[1:]] == ids
    assert {len(window) for window in windows[:-1]} == {8}


@pytest.mark.parametrize(("text", "length", "message"), [("", 8, "empty"), ("a", 1, "windows of 1 tokens")])
def test_texts_that_give_no_windows(tiny_tokenizer, text, length, message):
    with pytest.raises(InputError, match=message):
        token_windows(tiny_tokenizer, text, length)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k=0 contexts"),
        ({"width": -1}, "width=-1"),
        ({"skip": -1}, "skip=-1"),
        ({"windows": []}, "no text"),
        ({"windows": [[]]}, "window 0 has 0 tokens"),
    ],
)
def test_bad_input(make_model, dictionary, windows, change, message):
    with pytest.raises(InputError, match=message):
        top_contexts(make_model(), dictionary, **{"windows": windows, **change})


def test_a_dictionary_without_a_site_and_a_feature_that_is_not_there(make_model, dictionary, windows):
    unplaced = Dictionary(dictionary.encoder, dictionary.decoder)
    with pytest.raises(InputError, match="without a site"):
        top_contexts(make_model(), unplaced, windows)
    with pytest.raises(InputError, match="feature 12 does not exist; expected 0 to 11"):
        top_contexts(make_model(), dictionary, windows).of(N_FEAT)
