"""llama2.c's files: the same model and tokenizer as in Hugging Face form, and files that are neither."""

import struct

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bilinear_lm.checkpoints import checkpoint_info, export, has_tokenizer, load_pretrained, load_tokenizer
from bilinear_lm.errors import InputError

from .shared_data import LLAMA2C, STORIES, TEXT, needs_data

BIN = LLAMA2C / "stories260K.bin"


def random_llama(tied, n_kv_heads, n_layers=2):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=n_kv_heads,
        max_position_embeddings=20,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def pairs(weight, n_heads):
    """Rows of a projection in llama2.c's order: coordinates i and i + d_head/2 become neighbours."""
    heads = weight.reshape(n_heads, 2, -1, weight.shape[-1])
    return np.concatenate([np.stack([head[0], head[1]], 1).reshape(-1, weight.shape[-1]) for head in heads])


def write_bin(path, model, version):
    c, t = model.config, {key: value.detach().numpy() for key, value in model.state_dict().items()}

    def each(name):
        weights = [t[f"model.layers.{i}.{name}.weight"] for i in range(c.num_hidden_layers)]
        heads = {"self_attn.q_proj": c.num_attention_heads, "self_attn.k_proj": c.num_key_value_heads}
        return [pairs(weight, heads[name]) for weight in weights] if name in heads else weights

    norms = each("input_layernorm"), each("post_attention_layernorm")
    attention = [weight for name in "qkvo" for weight in each(f"self_attn.{name}_proj")]
    mlp = each("mlp.gate_proj") + each("mlp.down_proj") + each("mlp.up_proj")
    sizes = [c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.num_attention_heads]
    sizes += [c.num_key_value_heads, c.vocab_size, c.max_position_embeddings]
    embedding, norm = [t["model.embed_tokens.weight"]], [t["model.norm.weight"]]
    head = [] if c.tie_word_embeddings else [t["lm_head.weight"]]
    if version == 0:
        sizes[5] *= 1 if c.tie_word_embeddings else -1
        header = struct.pack("<7i", *sizes)
        rotations = [np.zeros((2, c.max_position_embeddings, c.head_dim // 2))]
        tensors = [*embedding, *norms[0], *attention, *norms[1], *mlp, *norm, *rotations, *head]
    else:
        header = struct.pack("<4si7iB", b"24ka", version, *sizes, c.tie_word_embeddings).ljust(256, b"\0")
        tensors = [*norms[0], *norms[1], *norm, *embedding, *attention, *mlp, *head]
    path.write_bytes(header + b"".join(tensor.astype("<f4").tobytes() for tensor in tensors))
    return path


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_every_kind_of_header(version, tied, n_kv_heads, tmp_path):
    model = random_llama(tied, n_kv_heads)
    path = write_bin(tmp_path / "model.bin", model, version)
    ids = torch.arange(20)[None]
    loaded = load_pretrained(path)
    info = checkpoint_info(path)
    with torch.no_grad():
        assert (loaded(ids).logits - model(ids).logits).abs().max() < 1e-5
    assert (info.format, info.n_kv_heads, info.tied_embeddings) == (
        f"llama2.c version {version}",
        n_kv_heads,
        tied,
    )
    assert info.n_parameters == sum(parameter.numel() for parameter in model.parameters())


@needs_data
def test_stories260k_is_the_same_model_in_both_forms():
    one, other = load_pretrained(BIN), load_pretrained(STORIES)
    ids = torch.randint(0, 512, (2, 200), generator=torch.manual_seed(0))
    with torch.no_grad():
        assert (one(ids).logits - other(ids).logits).abs().max() < 1e-4
    options = {"max_new_tokens": 80, "do_sample": False}
    tokenizer = load_tokenizer(BIN)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    story = one.generate(**prompt, **options)
    assert torch.equal(story, other.generate(**prompt, **options))
    assert tokenizer.decode(story[0]).startswith("<s> Once upon a time, there was a little girl named Lily.")


@needs_data
def test_the_tokenizer_equals_the_hugging_face_one():
    one, other = load_tokenizer(BIN), load_tokenizer(STORIES)
    texts = ["", " ", "  two  spaces ", "naïve ☃ 漢字 \t\n", "<s>a</s>", "Ünïcödé\u200b"]
    for file in ("tinystories/clean_v1_valid.txt", "tinyshakespeare/input.txt"):
        texts += (TEXT / file).read_text(encoding="utf-8")[:100_000].split("\n\n")
    ids = [one.encode(text) for text in texts]
    assert ids == [other.encode(text) for text in texts]
    assert one.batch_decode(ids) == other.batch_decode(ids)
    skipped = {"skip_special_tokens": True}
    assert one.batch_decode(ids, **skipped) == other.batch_decode(ids, **skipped)
    assert one.get_vocab() == other.get_vocab()


@needs_data
def test_the_export_is_a_hugging_face_folder(tmp_path):
    export(BIN, tmp_path / "out")
    ids = torch.arange(64)[None]
    model, tokenizer = load_pretrained(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(model(ids).logits, load_pretrained(BIN)(ids).logits)
    assert tokenizer.encode("Once upon") == load_tokenizer(BIN).encode("Once upon")
    assert model.generation_config.eos_token_id == [1, 2]


def test_files_that_are_no_model(tmp_path):
    path = write_bin(tmp_path / "model.bin", random_llama(True, 2), 0)
    whole = path.read_bytes()
    for bad, message in (
        (whole[:-4], r"\d+ bytes, expected \d+"),
        (whole + b"\0", r"\d+ bytes, expected \d+"),
        (whole[:20], "too short"),
        (b"", "too short"),
        (b"once upon a time there was a file" * 10, "not a llama2.c model"),
        (b"PK\3\4" + whole, "pickle"),
        (struct.pack("<4si", b"24ka", 2).ljust(300, b"\0"), "version 2; expected version 0 or 1"),
        (struct.pack("<4si", b"24ka", 1), "too short"),
        (whole[:28] + b"\xff\xff\xff\x7f" * ((len(whole) - 28) // 4), "NaN or infinity"),
    ):
        path.write_bytes(bad)
        with pytest.raises(InputError, match=message) as error:
            load_pretrained(path)
        assert "model.bin" in str(error.value)


def write_tokenizer(path, pieces):
    longest = max(len(piece) for piece in pieces)
    records = [struct.pack("<fi", -float(i), len(piece)) + piece for i, piece in enumerate(pieces)]
    path.write_bytes(struct.pack("<i", longest) + b"".join(records))


def test_the_tokenizer_beside_a_file(tmp_path):
    path = write_bin(tmp_path / "model.bin", random_llama(True, 2), 0)
    assert not has_tokenizer(path)
    with pytest.raises(InputError, match=r"no tokenizer; expected a tok\*\.bin"):
        load_tokenizer(path)
    special = [b"<unk>", b"\n<s>\n", b"\n</s>\n"]
    write_tokenizer(tmp_path / "tok5.bin", [*special, b" ", b"a"])
    with pytest.raises(InputError, match=r"5 tokens, expected the 30 of model\.bin"):
        load_tokenizer(path)
    write_tokenizer(
        tmp_path / "tok30.bin", [*special, b" a", b"aa", b" ", *(bytes([97 + i]) for i in range(24))]
    )
    tokenizer = load_tokenizer(path)
    assert has_tokenizer(path)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("aaa")) == ["<s>", "▁a", "aa"]
    assert tokenizer.decode(tokenizer.encode("aaa b"), skip_special_tokens=True) == "aaa b"
    (tmp_path / "tok5.bin").unlink()
    (tmp_path / "tok30.bin").write_bytes((tmp_path / "tok30.bin").read_bytes()[:-3])
    with pytest.raises(InputError, match=r"tok30\.bin: .*(not a llama2\.c tokenizer|truncated)"):
        load_tokenizer(path)
