"""Padded batches of the hooked class: each text has the numbers that it has alone, or the bridge says no."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bilinear_lm import InputError, hook

from ..tiny_families import ACTIVATION, tiny_family

TEXTS = ["c a", "d e f a b c d a b", "g h c"]
PADS = ["<pad>", "<s>", "</s>", "<unk>"]
CERTAIN = ("<pad>", "</s>", "<unk>")
"""Padding tokens that are not the first of each text."""
OPTIONS = {"max_new_tokens": 6, "do_sample": False, "stop_at_eos": False, "verbose": False}
MODES = pytest.mark.parametrize("compatibility", [False, True], ids=["raw", "compatibility"])


def tokenizer_of(pad="<pad>", bos="<s>", **options):
    words = ["<s>", "</s>", "<unk>", "<pad>", *"abcdefgh"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
        )
    special = {"bos_token": bos, "eos_token": "</s>", "unk_token": "<unk>", "pad_token": pad}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, **options)


def ids_of(text):
    return [0, *(ord(word) - ord("a") + 4 for word in text.split())]


@torch.no_grad()
def alone(family="Llama", texts=TEXTS, ids=ids_of, **options):
    """transformers' log-probabilities of each text by itself."""
    model = tiny_family(family, **options)
    return [model(torch.tensor([ids(text)])).logits[0].log_softmax(-1) for text in texts]


def hooked(family="Llama", pad="<pad>", compatibility=False, side="right", bos="<s>", **options):
    bridge = hook(tiny_family(family, **options), tokenizer_of(pad, bos, padding_side=side))
    if compatibility:
        bridge.enable_compatibility_mode()
    return bridge


def assert_alone(logits, expected, side, tolerance=1e-4):
    """The logits of a batch at its texts are theirs alone."""
    for row, text in zip(logits, expected, strict=True):
        at_text = row[-len(text) :] if side == "left" else row[: len(text)]
        assert (at_text.log_softmax(-1) - text).abs().max() <= tolerance


@MODES
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ACTIVATION)
@torch.no_grad()
def test_ids_of_a_padded_batch(family, side, compatibility):
    bridge = hooked(family, compatibility=compatibility)
    ids = bridge.to_tokens(TEXTS, prepend_bos=True, padding_side=side)
    assert_alone(bridge(ids), alone(family), side)


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_texts_of_any_padding_token(pad, side):
    bridge, expected = hooked(pad=pad), alone()
    assert_alone(bridge(TEXTS, padding_side=side), expected, side)
    assert_alone(hooked(pad=pad, side=side)(TEXTS), expected, side)
    assert_alone(bridge.run_with_cache(TEXTS, padding_side=side)[0], expected, side)
    assert_alone(bridge.run_with_hooks(TEXTS, padding_side=side, fwd_hooks=[]), expected, side)
    _, cache = bridge.run_with_cache(TEXTS[:1])
    _, batched = bridge.run_with_cache(TEXTS, padding_side=side)
    for name in ("blocks.1.hook_resid_post", "blocks.1.mlp.hook_post", "blocks.0.attn.hook_z"):
        row = batched[name][0]
        own = row[-3:] if side == "left" else row[:3]
        assert torch.allclose(own, cache[name][0], atol=1e-4)


@pytest.mark.parametrize("pad", CERTAIN)
@torch.no_grad()
def test_padding_in_front_of_the_beginning_is_seen_in_any_part_of_a_batch(pad):
    bridge, expected = hooked(pad=pad), alone()
    ids = bridge.to_tokens(TEXTS, padding_side="left")
    assert int((ids == bridge.tokenizer.pad_token_id).sum()) >= 13
    assert_alone(bridge(ids.clone()), expected, "left")
    assert_alone(bridge(ids[:1]), expected[:1], "left")
    assert_alone(bridge(ids[2]), expected[2:], "left")
    assert_alone(bridge.run_with_cache(ids)[0], expected, "left")
    assert_alone(bridge.run_with_hooks(ids, fwd_hooks=[]), expected, "left")


@torch.no_grad()
def test_padding_that_is_the_beginning_token():
    bridge, expected = hooked(pad="<s>"), alone()
    ids = bridge.to_tokens(TEXTS, padding_side="left")
    with pytest.raises(
        InputError, match=r"row 0 of the token ids begins with the padding token \(0\)"
    ) as error:
        bridge(ids)
    assert "\n" not in str(error.value)
    assert_alone(bridge(ids, padding_side="left"), expected, "left")
    assert_alone(bridge(bridge.to_tokens(TEXTS, padding_side="right")), expected, "right")
    assert_alone(bridge(bridge.to_tokens(TEXTS[1])), expected[1:2], "left")
    # What is said is done: the first tokens are text here.
    as_text = tiny_family("Llama")(ids).logits
    for said in ({"padding_side": "right"}, {"attention_mask": torch.ones_like(ids)}):
        assert torch.equal(bridge(ids, **said), as_text)


@pytest.mark.parametrize("pad", PADS)
@torch.no_grad()
def test_ids_without_the_beginning(pad):
    """Where nothing stands between padding and text, only strings and what is said besides are clear."""
    bridge = hooked(pad=pad)
    expected = alone(ids=lambda text: ids_of(text)[1:])
    assert_alone(bridge(TEXTS, prepend_bos=False, padding_side="left"), expected, "left")
    assert_alone(bridge(TEXTS, prepend_bos=False, padding_side="right"), expected, "right")
    ids = bridge.to_tokens(TEXTS, prepend_bos=False, padding_side="left")
    with pytest.raises(InputError, match=r"row . of the token ids begins with the padding token"):
        bridge(ids)
    assert_alone(bridge(ids, padding_side="left", prepend_bos=False), expected, "left")
    mask = torch.tensor([[0] * 7 + [1] * 2, [1] * 9, [0] * 6 + [1] * 3])
    assert_alone(bridge(ids, attention_mask=mask), expected, "left")
    assert_alone(bridge(ids, one_zero_attention_mask=mask), expected, "left")


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_text_that_begins_with_the_padding_token(side):
    texts, bridge = ["<pad> c", "<pad> <pad> a b c", "c a"], hooked()

    def ids(text):
        return [3 if word == "<pad>" else ord(word) - ord("a") + 4 for word in text.split()]

    expected = alone(texts=texts, ids=ids)
    assert_alone(bridge(texts, prepend_bos=False, padding_side=side), expected, side)
    assert_alone(bridge(texts[0], prepend_bos=False), expected[:1], side)
    assert_alone(bridge.run_with_cache(texts[0], prepend_bos=False)[0], expected[:1], side)
    with_bos = alone(texts=texts, ids=lambda text: [0, *ids(text)])
    assert_alone(bridge(texts, padding_side=side), with_bos, side)
    assert_alone(bridge(bridge.to_tokens(texts, padding_side=side)), with_bos, side)


@torch.no_grad()
def test_a_tokenizer_without_beginning_or_end():
    """TransformerLens gives it tokens beyond the vocabulary, which the model has no embedding for."""
    model, tokenizer = tiny_family("Llama", vocab_size=12), tokenizer_of(None, None)
    tokenizer.eos_token = tokenizer.unk_token = None
    expected = [model(torch.tensor([ids_of(text)[1:]])).logits[0].log_softmax(-1) for text in TEXTS]
    bridge = hook(model, tokenizer)
    assert bridge.tokenizer.pad_token_id == 12
    assert_alone(bridge(TEXTS, prepend_bos=False, padding_side="left"), expected, "left")
    ids = bridge.to_tokens(TEXTS, prepend_bos=False, padding_side="right")
    with pytest.raises(InputError, match="token ids 4 to 12; expected 0 to 11"):
        bridge(ids)
    assert_alone(bridge(TEXTS, prepend_bos=False, padding_side="right"), expected, "right")
    with pytest.raises(InputError, match="a tokenizer without a padding token of the model's"):
        bridge.generate(TEXTS, prepend_bos=False, **OPTIONS)


def loss_of(log_probs, ids):
    losses = [
        -p[:-1].gather(1, torch.tensor(row[1:])[:, None]) for p, row in zip(log_probs, ids, strict=True)
    ]
    return float(torch.cat(losses).mean())


@MODES
@pytest.mark.parametrize("pad", CERTAIN)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_losses_count_text_only(side, pad, compatibility):
    bridge, expected = hooked(pad=pad, compatibility=compatibility), loss_of(alone(), map(ids_of, TEXTS))
    assert float(bridge(TEXTS, return_type="loss", padding_side=side)) == pytest.approx(expected, abs=1e-4)
    ids = bridge.to_tokens(TEXTS, padding_side=side)
    if side == "left" or pad == "<pad>":
        assert float(bridge(ids, return_type="loss")) == pytest.approx(expected, abs=1e-4)
        assert float(bridge(ids, return_type="both")[1]) == pytest.approx(expected, abs=1e-4)
    else:
        with pytest.raises(InputError, match=r"row 0 of the token ids ends with the padding token"):
            bridge(ids, return_type="loss")
        said = bridge(ids, return_type="loss", padding_side="right")
        assert float(said) == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_ends_of_texts_that_are_the_padding_token_count():
    bridge = hooked(pad="</s>")
    ids = torch.tensor([[0, 4, 5, 1], [0, 6, 7, 1]])
    log_probs = [row.log_softmax(-1) for row in tiny_family("Llama")(ids).logits]
    expected = loss_of(log_probs, ids.tolist())
    assert float(bridge(ids, return_type="loss")) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def continued(text, n=6, ids=ids_of):
    """Greedy decoding by a loop over the arg-max of transformers' logits."""
    model, row = tiny_family("Llama"), ids(text)
    for _ in range(n):
        row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
    return row[-n:]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("pad", PADS)
def test_each_text_is_continued_as_it_is_alone(pad, cached):
    bridge, expected = hooked(pad=pad), [continued(text) for text in TEXTS]
    options = OPTIONS | {"use_past_kv_cache": cached}
    got = bridge.generate(TEXTS, return_type="tokens", **options)
    assert got[:, -6:].tolist() == expected
    texts = [bridge.tokenizer.decode(row, skip_special_tokens=True) for row in got]
    assert bridge.generate(TEXTS, **options) == texts
    plain = bridge.generate(TEXTS, return_type="tokens", prepend_bos=False, **options)
    assert plain[:, -6:].tolist() == [continued(text, ids=lambda text: ids_of(text)[1:]) for text in TEXTS]
    ids = bridge.to_tokens(TEXTS, padding_side="left")
    said = {} if pad in CERTAIN else {"padding_side": "left"}
    assert bridge.generate(ids, **said, **options)[:, -6:].tolist() == expected
    stream = list(bridge.generate_stream(ids, return_type="tokens", **said, **options))
    assert torch.cat(stream, dim=1)[:, -6:].tolist() == expected
    if not said:
        return
    for method in (bridge.generate, bridge.hf_generate):
        with pytest.raises(InputError, match=r"begins with the padding token"):
            method(ids, max_new_tokens=6)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("pad", PADS)
def test_one_prompt_that_begins_with_the_padding_token(pad, cached):
    bridge, ids = hooked(pad=pad), [hooked(pad=pad).tokenizer.pad_token_id, 6, 4]
    options = OPTIONS | {"use_past_kv_cache": cached, "prepend_bos": False, "return_type": "tokens"}
    expected = continued("", ids=lambda _: list(ids))
    for prompt in (f"{pad} c a", [f"{pad} c a"]):
        assert bridge.generate(prompt, **options)[0].tolist() == [*ids, *expected]
    options["padding_side"] = "right"
    assert bridge.generate(torch.tensor([ids]), **options)[0].tolist() == [*ids, *expected]


def test_prompts_as_text_give_text():
    bridge = hooked()
    one = bridge.generate("c a", **OPTIONS)
    assert isinstance(one, str)
    assert one == bridge.generate(["c a"], **OPTIONS) == bridge.generate(TEXTS, **OPTIONS)[0]
    words = bridge.tokenizer.decode(continued("c a"), skip_special_tokens=True)
    assert one == f"c a {words}"


def test_transformers_own_generation():
    bridge, expected = hooked(), [continued(text) for text in TEXTS]
    options = {"max_new_tokens": 6, "do_sample": False, "stop_at_eos": False, "return_type": "tokens"}
    assert bridge.hf_generate(TEXTS, **options)[:, -6:].tolist() == expected
    ids = bridge.to_tokens(TEXTS, padding_side="left")
    assert bridge.hf_generate(ids, **options)[:, -6:].tolist() == expected


def test_prompts_with_padding_at_the_end_are_not_continued():
    bridge = hooked()
    ids = bridge.to_tokens(TEXTS, padding_side="right")
    for method in (bridge.generate, bridge.hf_generate):
        with pytest.raises(InputError, match="padding at the end, from where generation goes on"):
            method(ids, max_new_tokens=2)
    with pytest.raises(InputError, match="padding at the end"):
        list(bridge.generate_stream(ids, max_new_tokens=2))
    with pytest.raises(InputError, match="padding at the end"):
        bridge.generate(ids, max_new_tokens=2, attention_mask=(ids != 3).long())


@torch.no_grad()
def test_from_a_layer_on_with_a_mask():
    bridge = hooked()
    ids = bridge.to_tokens(TEXTS, padding_side="left")
    _, cache = bridge.run_with_cache(ids)
    logits = bridge(cache["blocks.1.hook_resid_pre"], start_at_layer=1, attention_mask=(ids != 3).long())
    assert_alone(logits, alone(), "left")


@torch.no_grad()
def test_keys_and_values_of_a_padded_batch():
    bridge = hooked()
    ids = bridge.to_tokens(TEXTS, padding_side="left")
    with pytest.raises(InputError, match="keys and values are kept for later calls; give attention_mask"):
        bridge(ids, return_type="logits_and_cache")
    mask = (ids != 3).long()
    _, past = bridge(ids, return_type="logits_and_cache", attention_mask=mask)
    longer = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], dim=1)
    logits = bridge(torch.tensor([[5], [6], [7]]), past_key_values=past, attention_mask=longer)
    expected = alone(texts=[f"{text} {word}" for text, word in zip(TEXTS, "bcd", strict=True)])
    assert_alone(logits, [text[-1:] for text in expected], "left")


@torch.no_grad()
def test_without_tokenizer_all_ids_are_text():
    ids = torch.tensor([[3, 3, 0, 4], [0, 4, 5, 6]])
    bridge = hook(tiny_family("Llama"))
    assert torch.equal(bridge(ids), tiny_family("Llama")(ids).logits)
    with pytest.raises(InputError, match="text for a bridge without tokenizer; hook the model with one"):
        bridge("c a")


def test_texts_that_cannot_be_read():
    bridge = hooked()
    for bad in ([], [1, 2], [["c"]]):
        with pytest.raises(InputError, match="expected one text or more, or token ids as a tensor"):
            bridge(bad)
    with pytest.raises(InputError, match="the text '' has no tokens"):
        bridge(["c a", ""], prepend_bos=False)
