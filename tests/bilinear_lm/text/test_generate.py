"""Sampling from a model."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from bilinear_lm import InputError, sample
from bilinear_lm.cli import main

WATERMARK = {"greenlist_ratio": 0.25, "bias": 9.0}
HOSTILE = {
    "num_beams": 4,
    "early_stopping": True,
    "length_penalty": 5.0,
    "num_return_sequences": 2,
    "do_sample": True,
    "temperature": 0.01,
    "top_k": 1,
    "top_p": 0.01,
    "min_p": 0.9,
    "top_h": 0.1,
    "typical_p": 0.05,
    "epsilon_cutoff": 0.5,
    "eta_cutoff": 0.5,
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 3.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "sequence_bias": [[[7], 50.0]],
    "bad_words_ids": [[token] for token in range(100)],
    "suppress_tokens": list(range(150)),
    "begin_suppress_tokens": list(range(150)),
    "forced_bos_token_id": 5,
    "forced_eos_token_id": 6,
    "exponential_decay_length_penalty": [1, 9.0],
    "min_length": 30,
    "min_new_tokens": 30,
    "max_length": 4,
    "max_new_tokens": 1,
    "max_time": 1e-9,
    "stop_strings": ["a", "e", " "],
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "guidance_scale": 3.0,
    "watermarking_config": WATERMARK,
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "diversity_penalty": 2.0,
    "num_beam_groups": 2,
    "constraints": [3],
    "force_words_ids": [[3]],
    "token_healing": True,
    "use_cache": False,
    "cache_implementation": "static",
    "cache_config": {"backend": "quanto"},
    "prefill_chunk_size": 2,
    "prompt_lookup_num_tokens": 3,
    "is_assistant": True,
    "assistant_early_exit": 1,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict_in_generate": True,
    "pad_token_id": 9999,
    "bos_token_id": 7,
    "decoder_start_token_id": 7,
    "max_window_size": 3,
}
"""A value of each setting of transformers' GenerationConfig that is not neutral, and of one unknown to it."""


@pytest.fixture
def model(make_model, tiny_tokenizer):
    return configure(make_model(d_vocab=len(tiny_tokenizer)))


def configure(model, **settings):
    """The model as it is loaded from a folder with these in generation_config.json."""
    configured = GenerationConfig(eos_token_id=1)
    for name, value in settings.items():
        setattr(configured, name, value)
    model.generation_config = configured
    return model


def argmax_text(model, tokenizer, prompt, n):
    """Greedy decoding by a loop over the arg-max of transformers' logits."""
    ids = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
    for _ in range(n):
        with torch.inference_mode():
            ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_greedy_is_the_likeliest_token_each_time(model, tiny_tokenizer):
    (text,) = sample(model, tiny_tokenizer, "Once upon", temperature=0.0, max_tokens=6)
    assert text == argmax_text(model, tiny_tokenizer, "Once upon", 6)


@pytest.mark.parametrize("name", HOSTILE)
def test_greedy_whatever_the_checkpoint_says(model, tiny_tokenizer, name):
    expected = argmax_text(model, tiny_tokenizer, "Once upon", 9)
    configured = configure(model, **{name: HOSTILE[name]}).generation_config
    for count in (1, 2):
        texts = list(sample(model, tiny_tokenizer, "Once upon", temperature=0.0, max_tokens=9, count=count))
        assert texts == [expected] * count
    assert model.generation_config is configured


def test_no_setting_of_transformers_is_left_out():
    """All of GenerationConfig is tried above, but for what the arguments name and what is about the file."""
    private = {name for name in vars(GenerationConfig()) if name.startswith("_")}
    ours = {"eos_token_id", "disable_compile"}
    elsewhere = {
        *("transformers_version", "compile_config", "continuous_batching_config", "low_memory"),
        *("max_cache_len", "max_matching_ngram_size", "use_mtp", "speculation_type", "target_lookbehind"),
        *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
        *("assistant_lookbehind", "assistant_ensemble_weight"),
    }
    assert set(vars(GenerationConfig())) - private - ours - elsewhere <= set(HOSTILE)


@pytest.mark.parametrize("name", [None, "min_p", "top_k", "num_beams", "typical_p", "repetition_penalty"])
def test_samples_follow_the_models_own_distribution(make_model, tiny_tokenizer, name):
    model = make_model(d_vocab=len(tiny_tokenizer), seed=3)
    with torch.inference_mode():
        probabilities = (
            model(input_ids=torch.tensor([[tiny_tokenizer.bos_token_id]])).logits[0, -1].softmax(-1)
        )
    likely = probabilities.topk(12).indices.tolist()
    if name is not None:
        configure(model, **{name: HOSTILE[name]})
    n, texts = 2000, {}
    for text in sample(model, tiny_tokenizer, count=n, max_tokens=1):
        texts[text] = texts.get(text, 0) + 1
    assert len(texts) > 100  # the model has 300 tokens, the likeliest with probability 0.02
    written = [tiny_tokenizer.decode([token], skip_special_tokens=True) for token in likely]
    for token, text in zip(likely, written, strict=True):
        share = sum(
            probability.item()
            for other, probability in enumerate(probabilities)
            if tiny_tokenizer.decode([other], skip_special_tokens=True) == text
        )
        assert abs(texts.get(text, 0) - n * share) < 5 * (n * share * (1 - share)) ** 0.5, token


def test_the_least_temperature_is_as_good_as_greedy(model, tiny_tokenizer):
    (text,) = sample(model, tiny_tokenizer, "A cat", temperature=1e-6, max_tokens=5)
    assert text == argmax_text(model, tiny_tokenizer, "A cat", 5)


def followed(model, tokenizer, prompt="Once upon", **options):
    return next(sample(model, tokenizer, prompt, checkpoint_settings=True, max_tokens=9, **options))


def generated(model, tokenizer, prompt="Once upon", **settings):
    """By transformers' own `generate`, with settings that are given to it one by one."""
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]])
    torch.manual_seed(0)
    settings = {"max_new_tokens": 9, "top_k": 0, "eos_token_id": 1, "pad_token_id": 0} | settings
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return tokenizer.decode(out[0], skip_special_tokens=True)


@pytest.mark.parametrize(
    "name",
    ["num_beams", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "min_p"],
)
def test_settings_of_the_checkpoint_are_an_option(model, tiny_tokenizer, name):
    sampling = name == "min_p"
    expected = generated(model, tiny_tokenizer, do_sample=sampling, **{name: HOSTILE[name]})
    configure(model, do_sample=sampling, **{name: HOSTILE[name]})
    assert followed(model, tiny_tokenizer) == expected


def test_a_temperature_comes_before_the_checkpoints(model, tiny_tokenizer):
    greedy = argmax_text(model, tiny_tokenizer, "Once upon", 9)
    configure(model, do_sample=True, temperature=3.0, top_k=250, top_p=0.99)
    assert followed(model, tiny_tokenizer, temperature=0.0) == greedy
    assert followed(model, tiny_tokenizer) == generated(
        model, tiny_tokenizer, do_sample=True, temperature=3.0, top_k=250, top_p=0.99
    )
    assert followed(model, tiny_tokenizer, temperature=0.5) == generated(
        model, tiny_tokenizer, do_sample=True, temperature=0.5, top_k=250, top_p=0.99
    )
    configure(model, do_sample=False, temperature=3.0)
    assert followed(model, tiny_tokenizer) == greedy
    configure(model, temperature=1e-6)
    assert followed(model, tiny_tokenizer) == greedy


def test_lengths_and_stops_of_the_checkpoint(model, tiny_tokenizer):
    greedy = argmax_text(model, tiny_tokenizer, "Once upon", 20)
    n_prompt = 1 + len(tiny_tokenizer.encode("Once upon", add_special_tokens=False))

    def texts(count=1, **settings):
        configure(model, do_sample=False, **settings)
        return list(sample(model, tiny_tokenizer, "Once upon", count=count, checkpoint_settings=True))

    three = argmax_text(model, tiny_tokenizer, "Once upon", 3)
    assert texts(max_new_tokens=3) == texts(max_length=n_prompt + 3) == [three]
    start, _, rest = greedy[len("Once upon") :].partition("a")
    assert rest
    assert texts(count=2, stop_strings=["a"]) == [f"Once upon{start}a"] * 2
    with pytest.raises(InputError, match=rf"prompt has {n_prompt} tokens and .* allows 2 with it"):
        texts(max_length=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("penalty_alpha", 0.6),
        ("dola_layers", "high"),
        ("num_beam_groups", 2),
        ("force_words_ids", [[3]]),
        ("token_healing", True),
        ("max_length", "long"),
        ("repetition_penalty", -1.0),
        ("forced_eos_token_id", 9999),
    ],
)
def test_settings_of_the_checkpoint_that_cannot_be_followed(model, tiny_tokenizer, name, value):
    configure(model, **{name: value})
    with pytest.raises(InputError, match="the checkpoint's generation_config") as error:
        list(sample(model, tiny_tokenizer, "Once", checkpoint_settings=True))
    assert "\n" not in str(error.value)


def test_rows_that_ended_are_as_they_would_be_alone(model, tiny_tokenizer):
    """Many ends, one of them beyond the vocabulary, which no row may be filled with."""
    model.generation_config.eos_token_id = [9999, *range(2, 60)]
    texts = list(sample(model, tiny_tokenizer, count=40, max_tokens=12, seed=1))
    for text in texts:
        ids = tiny_tokenizer.encode(text, add_special_tokens=False)
        assert "!!!!" not in text or len(ids) < 12
    assert len({len(text) for text in texts}) > 3


def test_end_of_text_that_is_no_token_id(model, tiny_tokenizer):
    model.generation_config.eos_token_id = ["</s>"]
    with pytest.raises(InputError, match=r"eos_token_id of the model is \['</s>'\]; expected a token id"):
        list(sample(model, tiny_tokenizer, "Once"))


def test_the_command_is_greedy_whatever_lies_in_the_folder(make_model, tiny_tokenizer, tmp_path, capsys):
    make_model(d_vocab=len(tiny_tokenizer)).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    settings = {"eos_token_id": 1, "repetition_penalty": 5.0, "num_beams": 3, "do_sample": True, "top_k": 1}
    file.write_text(json.dumps(settings))
    command = ["generate", str(tmp_path / "model"), "--prompt", "Once upon", "--max-tokens", "9"]
    assert main([*command, "--temperature", "0"]) == 0
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    expected = argmax_text(plain, tiny_tokenizer, "Once upon", 9)
    assert capsys.readouterr().out == expected + "\n"
    assert main([*command, "--temperature", "0", "--checkpoint-settings"]) == 0
    assert capsys.readouterr().out != expected + "\n"


def test_samples_repeat_with_the_seed_and_fill_the_count(model, tiny_tokenizer):
    def draw(seed):
        return list(sample(model, tiny_tokenizer, count=5, seed=seed, batch_size=2, max_tokens=8))

    assert len(draw(0)) == 5
    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


def test_a_prompt_that_fills_the_context(model, tiny_tokenizer):
    with pytest.raises(InputError, match="leaves no room in a context of 32"):
        list(sample(model, tiny_tokenizer, "dog " * 60))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count=0; expected at least 1"),
        ({"max_tokens": 0}, "max_tokens=0; expected at least 1"),
        ({"temperature": -0.5}, "temperature=-0.5; expected at least 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 1e-40}, "temperature=1e-40; expected 0, the likeliest token each time, or at least"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_settings(model, tiny_tokenizer, change, message):
    with pytest.raises(InputError, match=message):
        list(sample(model, tiny_tokenizer, **change))
