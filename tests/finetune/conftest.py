"""A tiny SwiGLU model on disk, text, and settings of runs that take a second."""

import random

import pytest

from bilinear_lm.checkpoints import save_folder
from finetune import FinetuneConfig


@pytest.fixture
def swiglu(tmp_path, make_model, tiny_tokenizer):
    """A folder with a tiny SwiGLU Llama and its tokenizer."""
    save_folder(make_model(gate="silu", d_vocab=len(tiny_tokenizer)), tiny_tokenizer, tmp_path / "swiglu")
    return tmp_path / "swiglu"


@pytest.fixture
def stories(tmp_path):
    """A folder with train.txt, some 6,000 tokens, and held-out.txt."""
    generator = random.Random(0)
    names, verbs = ["A cat", "A dog", "The big ball", "They"], ["ran to the park", "saw a ball", "were happy"]
    told = [
        " ".join(f"{generator.choice(names)} {generator.choice(verbs)}." for _ in range(8))
        for _ in range(140)
    ]
    (tmp_path / "train.txt").write_text("\n<|endoftext|>\n".join(told[:120]))
    (tmp_path / "held-out.txt").write_text("\n".join(told[120:]))
    return tmp_path


@pytest.fixture
def settings(swiglu, stories):
    """Settings of a run of some thirty steps in float32."""
    return FinetuneConfig(
        model=str(swiglu),
        output=stories / "out" / "model",
        data=(str(stories / "train.txt"),),
        tokens=4_000,
        start="anneal",
        distillation=0.0,
        calibration_tokens=1_500,
        batch_size=4,
        learning_rate=3e-3,
        precision="float32",
        checkpoint_steps=10,
        log_steps=5,
        device="cpu",
    )
