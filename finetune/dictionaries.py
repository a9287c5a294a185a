"""Training dictionaries of a model's activations, by sparsify (`eai-sparsify`, the extra `sae`).

sparsify trains all dictionaries together, on the activations of one forward pass of the model a step: topk
autoencoders with decoder rows of unit norm, on the fraction of variance unexplained (Gao et al.,
arXiv 2406.04093). It reads the outputs of named modules.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilinear_lm.checkpoints import load_pretrained, load_tokenizer
from bilinear_lm.device import find_device
from bilinear_lm.dictionaries import load_dictionary, save_dictionary
from bilinear_lm.dictionary import Point, Site
from bilinear_lm.errors import InputError
from bilinear_lm.families import require_plain_blocks
from bilinear_lm.fidelity import Fidelity, measure_fidelity
from bilinear_lm.files import new_folder, require_new, write_json
from bilinear_lm.text_files import read_plain_text
from bilinear_lm.weights import decoder_block
from finetune.data import Windows, tokenize, tokenize_source, whole_windows
from finetune.dictionary_config import DictionaryConfig
from finetune.run_folder import as_json
from finetune.sparsify_kernels import decoder_by_device

RECORD = "train.json"
HOOKPOINTS: dict[Point, str] = {
    "resid-pre": "input_layernorm.0",
    # The attention module is called with keywords alone, which sparsify's hook does not expect.
    "attn-out": "self_attn.o_proj",
    "resid-mid": "post_attention_layernorm.0",
    "mlp-in": "post_attention_layernorm",
    "mlp-out": "mlp",
    "resid-post": "",
}
"""The module of a block that puts out a point's activations; `.0` is the identity of `_tapped`."""


def train_dictionaries(config: DictionaryConfig) -> dict[Site, dict[str, Any]]:
    """Trains a dictionary for each site and writes it to `{config.output}/{site}`, in sparsify's format.

    Returns by site what its train.json records: settings, steps, tokens, and how faithful it is, as it lies
    on disk, to held-out text (to the first windows of the training text where there is none).
    """
    config.check()
    require_new(config.output)
    _require_sparsify()
    model = load_pretrained(config.model, device=find_device(config.device))
    require_plain_blocks(model, "training dictionaries")
    tokenizer = load_tokenizer(config.model)
    sites = config.sites(model.config.num_hidden_layers)
    windows = _windows(config, tokenizer, model.config.max_position_embeddings)
    batches = _held_out(config, tokenizer, windows)
    records: dict[Site, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch, new_folder(config.output) as draft:
        _fit(model, windows, sites, config, Path(scratch))
        for site in sites:
            folder = draft / str(site)
            trained = load_dictionary(Path(scratch) / "run" / _hookpoint(site))
            stored = dataclasses.replace(trained, site=site).to(getattr(torch, config.store))
            save_dictionary(stored, folder, format="sparsify")
            fidelity = measure_fidelity(
                model,
                load_dictionary(folder, device=model.device),
                [batch.to(model.device) for batch in batches],
                ablation=config.ablation,
            )
            records[site] = _record(config, len(windows), windows[0]["input_ids"].numel(), fidelity)
            write_json(folder / RECORD, records[site])
    return records


def _fit(
    model: PreTrainedModel,
    windows: Subset,
    sites: Sequence[Site],
    config: DictionaryConfig,
    scratch: Path,
) -> None:
    """Runs sparsify's trainer, which leaves a folder for each hookpoint in `scratch/run`."""
    import sparsify

    n_steps = len(windows) // config.batch_size
    precision = torch.get_float32_matmul_precision()
    with _tapped(model, sites), contextlib.redirect_stdout(io.StringIO()):  # it prints its settings
        trainer = sparsify.Trainer(
            sparsify.TrainConfig(
                sparsify.SparseCoderConfig(num_latents=_n_features(config, model), k=config.k),
                batch_size=config.batch_size,
                optimizer="signum",
                lr=config.learning_rate,
                auxk_alpha=config.dead_weight,
                dead_feature_threshold=config.dead_after,
                hookpoints=[_hookpoint(site) for site in sites],
                init_seeds=[config.seed],
                save_every=n_steps + 2,  # at the end only
                log_to_wandb=False,
                save_dir=str(scratch),
                run_name="run",
            ),
            windows,
            model,
        )
        try:
            with decoder_by_device():
                trainer.fit()
        finally:
            torch.set_float32_matmul_precision(precision)  # it sets another, for good


@contextlib.contextmanager
def _tapped(model: nn.Module, sites: Sequence[Site]) -> Iterator[None]:
    """Puts an identity in front of the norms that read the residual stream, whose output is the stream."""
    names = {"resid-pre": "input_layernorm", "resid-mid": "post_attention_layernorm"}
    with contextlib.ExitStack() as stack:
        for site in sites:
            if site.point in names:
                block, name = decoder_block(model, site.layer), names[site.point]
                norm = getattr(block, name)
                setattr(block, name, nn.Sequential(nn.Identity(), norm))
                stack.callback(setattr, block, name, norm)
        yield


def _hookpoint(site: Site) -> str:
    return f"layers.{site.layer}.{HOOKPOINTS[site.point]}".rstrip(".")


def _n_features(config: DictionaryConfig, model: PreTrainedModel) -> int:
    n_features = config.features or 4 * model.config.hidden_size
    if config.k > n_features:
        raise InputError(f"k is {config.k} with {n_features} features; expected at most as many")
    return n_features


def _windows(config: DictionaryConfig, tokenizer: PreTrainedTokenizerBase, context: int) -> Subset:
    """The windows of all sources, shuffled."""
    window = config.window or context
    if not 2 <= window <= context:
        raise InputError(f"window is {window}; expected 2 to {context}, the model's context")
    streams = [
        tokenize_source(source, tokenizer, limit=config.max_tokens, selection=config.selection)
        for source in config.data
    ]
    windows = Windows(
        streams,
        [config.passes] * len(streams),
        context=window,
        first=tokenizer.bos_token_id,
        seed=config.seed,
    )
    if len(windows) < config.batch_size:
        raise InputError(
            f"{', '.join(config.data)}: {len(windows)} windows of {window} tokens; expected at least one "
            f"batch of {config.batch_size}, give more text"
        )
    order = np.random.default_rng(config.seed).permutation(len(windows))
    return Subset(windows, order.tolist())


def _held_out(
    config: DictionaryConfig, tokenizer: PreTrainedTokenizerBase, windows: Subset
) -> tuple[Tensor, ...]:
    """Batches of windows to measure on."""
    length = windows[0]["input_ids"].numel()
    most = max(1, config.validation_tokens // length)
    if config.validation is not None:
        ids = tokenize([read_plain_text(config.validation)], tokenizer, desc="tokenize validation")
        held = whole_windows(ids, length, tokenizer.bos_token_id)[:most]
        if not len(held):
            raise InputError(f"{config.validation}: {len(ids)} tokens; expected a window of {length}")
    else:
        held = torch.stack([windows[row]["input_ids"] for row in range(min(most, len(windows)))])
    return held.split(config.batch_size)


def _record(config: DictionaryConfig, n_windows: int, window: int, fidelity: Fidelity) -> dict[str, Any]:
    settings = as_json(config, leave_out=("output", "device"))
    packages = ("bilinear-lm", "torch", "transformers", "eai-sparsify")
    return {
        "settings": settings,
        "steps": -(-n_windows // config.batch_size),
        "tokens": n_windows * window,
        "measured_on": settings["validation"] or "training data",
        "fidelity": {
            **dataclasses.asdict(fidelity),
            "variance_explained": fidelity.variance_explained,
            "loss_recovered": fidelity.loss_recovered,
        },
        "versions": {package.replace("-", "_"): version(package) for package in packages},
    }


def _require_sparsify() -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints where triton is missing
            import sparsify  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"training dictionaries needs sparsify ({error}); install it with pip install 'bilinear-lm[sae]'"
        ) from error
