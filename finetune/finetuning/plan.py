"""The memory and time of a finetuning run, from the model's configuration alone: no weights are loaded.

Memory. Weights, gradients and AdamW's two moments in float32 take 16 bytes a parameter. On top come the
copies in the precision of the matrix products, the teacher, the numbers that the backward pass keeps of a
block and of the logits, and the residual streams that `matching` compares. FSDP divides the 16 bytes among
the processes, except for gradients that are accumulated; the weights and gradients of one block and of the
embeddings are whole while they are at work.

Time. 6 floating point operations a parameter and token (8 where activations are recomputed), 2 more for a
teacher, and 12 · d_model · context a layer and token for attention, of which causal kernels do half (Kaplan
et al., arXiv 2001.08361, section 2.1), at a share of a device's peak that large models reach. The peak of
the CPU is measured by a product of matrices.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bilinear_lm.checkpoints.huggingface import read_huggingface_config
from bilinear_lm.checkpoints.locate import locate
from bilinear_lm.errors import InputError
from bilinear_lm.glus import find_glus
from finetune.finetuning.config import FinetuneConfig
from finetune.finetuning.losses import CHUNK_POSITIONS

PEAK_TFLOPS = {"one A40": 150, "one RTX 4090": 165, "one A100": 312, "one H100 or H200": 989}
"""Dense bfloat16 peak of devices, in 10¹² operations a second, by their makers' data sheets."""

UTILISATION = 0.4
"""The share of the peak that training reaches."""


@dataclass(frozen=True)
class Plan:
    """An estimate for one process; each of n data-parallel processes needs this memory and 1/n of the time.

    With FSDP each process needs `whole_bytes` and 1/n of `sharded_bytes` in the place of `state_bytes`.
    """

    parameters: int
    trained: int
    """Parameters that are trained; fewer with LoRA."""
    gated_mlps: int
    state_bytes: int
    """Weights, gradients, optimiser and the teacher."""
    sharded_bytes: int
    """The part of the state that FSDP divides among the processes."""
    whole_bytes: int
    """The part that each process has besides, with FSDP."""
    activation_bytes: int
    """The most that one forward and backward pass of a batch holds."""
    operations_per_token: int
    tokens: int | None
    hours: dict[str, float]
    """Hours by device, this machine's CPU last; empty where the number of tokens is not given."""

    @property
    def peak_bytes(self) -> int:
        """The sum of `state_bytes` and `activation_bytes`."""
        return self.state_bytes + self.activation_bytes

    def __str__(self) -> str:
        # One unit for all lines, so that sums can be seen.
        unit, name = (2**30, "GiB") if self.peak_bytes >= 10 * 2**30 else (2**20, "MiB")
        shared = f"{self.sharded_bytes / unit:.1f} / n {name}"
        whole, peak = self.whole_bytes, self.whole_bytes + self.activation_bytes
        lines = [
            f"parameters           {self.parameters:,} ({self.trained:,} trained)",
            f"gated MLPs           {self.gated_mlps}",
            f"weights, optimiser   {self.state_bytes / unit:.1f} {name} a process; "
            f"with FSDP over n {whole / unit:.1f} + {shared}",
            f"activations          {self.activation_bytes / unit:.1f} {name} a process",
            f"peak memory          {self.peak_bytes / unit:.1f} {name} a process; "
            f"with FSDP over n {peak / unit:.1f} + {shared}",
            f"operations           {self.operations_per_token / 1e9:.2f} · 10⁹ a token",
        ]
        if self.tokens is None:
            lines.append("time                 give --train-tokens for an estimate")
        for device, hours in self.hours.items():
            lines.append(f"{self.tokens or 0:>13,} tokens take {_duration(hours):>12} on {device}")
        return "\n".join(lines)


def plan(config: FinetuneConfig) -> Plan:
    """Estimates memory and time of a run from the configuration of its model, here or on the hub."""
    config.check()
    folder = locate(config.model, files=("config.json",))
    if not folder.is_dir():
        raise InputError(f"{folder}: a single file; expected a folder with config.json to plan from")
    shape = read_huggingface_config(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    n_glus = len(find_glus(model))
    config = config.with_context(shape.max_position_embeddings)
    parameters = model.num_parameters()
    trained = parameters if config.lora_rank is None else _lora_parameters(model, config.lora_rank)
    low = 2 if config.precision == "bfloat16" else 4
    teacher = low * parameters if config.teaches else 0
    state = 4 * parameters + 12 * trained + (low * parameters if low == 2 else 0) + teacher
    accumulated = 4 * trained if config.accumulation > 1 else 0
    sharded = 4 * parameters + 12 * trained - accumulated
    whole = teacher + accumulated + 2 * low * _gathered_parameters(model, shape.num_hidden_layers)
    operations = _operations(config, model, shape, parameters, trained)
    hours = {}
    if config.tokens is not None:
        total = operations * config.tokens
        devices = PEAK_TFLOPS | {f"this CPU ({torch.get_num_threads()} threads)": _cpu_tflops()}
        hours = {name: total / (peak * 1e12 * UTILISATION) / 3600 for name, peak in devices.items()}
    activations = _activation_bytes(config, shape, low)
    return Plan(
        parameters, trained, n_glus, state, sharded, whole, activations, operations, config.tokens, hours
    )


def _cpu_tflops() -> float:
    """10¹² operations a second of a product of two matrices in float32 on this machine, the best of some."""
    a = torch.ones(1024, 1024)
    fastest = math.inf
    for _ in range(5):
        before = time.perf_counter()
        a @ a
        fastest = min(fastest, time.perf_counter() - before)
    return 2 * 1024**3 / fastest / 1e12


def _duration(hours: float) -> str:
    """Hours, or minutes or seconds where these are more than one."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.2g} s"


def _lora_parameters(model: Any, rank: int) -> int:
    """Parameters of the additions to every projection but the unembedding."""
    head = model.get_output_embeddings()
    projections = (part for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head)
    return sum(rank * (part.in_features + part.out_features) for part in projections)


def _gathered_parameters(model: Any, layers: int) -> int:
    """Parameters of the embedding, the unembedding and one block."""
    ends = {part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    embeddings = sum(weight.numel() for weight in ends)
    return embeddings + (model.num_parameters() - embeddings) // layers


def _operations(config: FinetuneConfig, model: Any, shape: Any, parameters: int, trained: int) -> int:
    """Operations for a token: the embedding is looked up and costs nothing, unless it unembeds as well."""
    multiplied = parameters
    if not shape.tie_word_embeddings:
        multiplied -= model.get_input_embeddings().weight.numel()
    backward = 4 if trained == parameters else 2
    passes = 2 + backward + (2 if config.gradient_checkpointing else 0) + (2 if config.teaches else 0)
    attention = shape.num_hidden_layers * shape.hidden_size * config.window
    return passes * (multiplied + attention)


def _activation_bytes(config: FinetuneConfig, shape: Any, low: int) -> int:
    """Bytes of a batch for the backward pass: of all blocks, or of one and all blocks' inputs; and of logits.

    A block keeps, a token: its input and the two normalised ones in float32 (both norms compute in it) and
    in the lower precision; queries, keys and values before and after their rotation; the output of attention;
    and four vectors of d_mlp (gate, activation, up, product).

    Matching adds (4 + low) · d_model a token and layer, low the bytes of a number in the lower precision: the
    teacher's residual stream, and its difference from the student's in float32. The student's own is the
    input of the next block.
    """
    tokens, d = config.batch_size * config.window, shape.hidden_size
    d_head = getattr(shape, "head_dim", None) or d // shape.num_attention_heads
    queries, keys = shape.num_attention_heads * d_head, shape.num_key_value_heads * d_head
    block = 4 * 4 * d + low * (4 * d + 3 * queries + 4 * keys + 4 * shape.intermediate_size)
    layers = shape.num_hidden_layers
    # The residual stream is in float32, as the embeddings are that it begins with.
    blocks = layers * 4 * d + block if config.gradient_checkpointing else layers * block
    matched = layers * (4 + low) * d if config.matching else 0
    # Logits, their copy in float32, its log-softmax and the gradient.
    logits = tokens * (low + 12)
    if config.distillation:
        # The backward pass begins with the divergence: the teacher's logits and a gradient in the place of
        # the one in float32, and a chunk of both distributions.
        logits += tokens * (2 * low - 4) + 12 * min(tokens, CHUNK_POSITIONS)
    return tokens * (blocks + matched) + shape.vocab_size * logits
