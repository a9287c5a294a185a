"""Training dictionaries of a model's activations, by sparsify (`eai-sparsify`, the extra `sae`).

sparsify trains all dictionaries together, on the activations of one forward pass of the model a step: topk
autoencoders with decoder rows of unit norm, on the fraction of variance unexplained (Gao et al.,
arXiv 2406.04093). It reads the outputs of named modules.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilinear_lm.arguments import checked
from bilinear_lm.checkpoints.load import load_pretrained
from bilinear_lm.checkpoints.tokenizer import load_tokenizer
from bilinear_lm.device import find_device
from bilinear_lm.dictionaries import load_dictionary, save_dictionary
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, read_json, require_new, versions_of_run, write_json
from bilinear_lm.sites import Site, watched
from bilinear_lm.text.files import read_plain_text
from finetune.data.windows import Windows, tokenize, tokenize_source, whole_windows
from finetune.dictionaries.config import DictionaryConfig
from finetune.dictionaries.fidelity import Fidelity, clean_loss, measure_fidelity
from finetune.dictionaries.sparsify_kernels import decoder_by_device
from finetune.runs.folder import (
    FINISHED,
    MAKE_ROOM,
    Diverged,
    as_json,
    is_finished,
    move_out,
    open_run,
    preparing,
    training,
    writing,
)
from finetune.runs.manifest import require_undamaged, write_manifest

RECORD = "train.json"

TRAINED = "trained"
"""The dictionaries in the run's folder, from when they are trained until they are all measured."""

PASSES = 3
"""Times that the batches are read to measure a dictionary."""

DIVERGED = 1e6
"""Fraction of variance unexplained above which a dictionary has diverged; the mean alone leaves 1."""

TAPS = "taps"
"""The part of a model that puts out the activations of sites while dictionaries are trained."""


@checked
def train_dictionaries(config: DictionaryConfig) -> dict[Site, dict[str, Any]]:
    """Trains a dictionary for each site and writes it to `{config.output}/{site}`, in sparsify's format.

    Returns the record of each site, as in its train.json: settings, steps, tokens, and how faithful the
    dictionary on disk is to held-out text (to the first windows of the training text where there is none).

    While it runs, everything lies in `{config.output}.run`: dictionaries from when they are trained, before
    they are measured. `resume=True` goes on from there after an interruption.
    """
    config.check()
    if not config.resume:
        require_new(config.output)
    _require_sparsify()
    model = load_pretrained(config.model, device=find_device(config.device))
    sites = config.sites(model.config.num_hidden_layers)
    _n_features(config, model)
    settings = _settings(config)
    if is_finished(config.output, settings, config.resume, f"{sites[0]}/{RECORD}"):
        return _records(config.output, sites)
    tokenizer = load_tokenizer(config.model)
    with preparing(config.output) as run:
        open_run(config.output, settings, config.resume)
        windows = _windows(config, tokenizer, model.config.max_position_embeddings)
        batches = _held_out(config, tokenizer, windows)
    trained = run / TRAINED
    with training(run, looked_at=False):
        if not trained.exists():
            _train(model, windows, sites, config, run)
        require_undamaged(trained)
        _measure(model, windows, batches, sites, config, trained)
    trained.rename(run / FINISHED)
    move_out(run, config.output)
    return _records(config.output, sites)


def _settings(config: DictionaryConfig) -> dict[str, Any]:
    """The settings that decide what the dictionaries become, without the folders' whereabouts."""
    return as_json(config, leave_out=("output", "device", "resume"))


def _records(folder: Path, sites: Sequence[Site]) -> dict[Site, dict[str, Any]]:
    return {site: read_json(folder / str(site) / RECORD) for site in sites}


def _train(
    model: PreTrainedModel, windows: Subset, sites: Sequence[Site], config: DictionaryConfig, run: Path
) -> None:
    """Trains the dictionaries and puts them into the run's folder `trained`, all or none."""
    last = _fit(model, windows, sites, config, run)
    with new_folder(run / TRAINED) as folder, writing(run / TRAINED, MAKE_ROOM):
        for site in sites:
            dictionary = load_dictionary(last / _hookpoint(site))
            stored = dataclasses.replace(dictionary, site=site).to(getattr(torch, config.store))
            save_dictionary(stored, folder / str(site), format="sparsify")
        write_manifest(folder)


def _measure(
    model: PreTrainedModel,
    windows: Subset,
    batches: Sequence[Tensor],
    sites: Sequence[Site],
    config: DictionaryConfig,
    trained: Path,
) -> None:
    """Measures the dictionaries that have no record yet, and writes it beside each."""
    left = [site for site in sites if not (trained / str(site) / RECORD).exists()]
    with tqdm(total=PASSES * len(left) * len(batches) + len(batches), desc="measure", unit=" batches") as bar:
        watched = _Watched([batch.to(model.device) for batch in batches], bar)
        clean = clean_loss(model, watched) if left else 0.0
        for site in left:
            folder = trained / str(site)
            dictionary = load_dictionary(folder, device=model.device)
            fidelity = measure_fidelity(
                model, dictionary, watched, ablation=config.ablation, loss_clean=clean
            )
            if not fidelity.fvu < DIVERGED:
                raise Diverged(
                    f"{site}: training diverged: the dictionary misses the activations by {fidelity.fvu:.3g} "
                    f"times their variance; give a smaller learning_rate and start anew"
                )
            record = _record(config, len(windows), windows[0]["input_ids"].numel(), fidelity)
            write_json(folder / RECORD, record)


class _Watched(list[Tensor]):
    """Batches that move a bar whenever they are read."""

    def __init__(self, batches: Iterable[Tensor], bar: tqdm):
        super().__init__(batches)
        self.bar = bar

    def __iter__(self) -> Iterator[Tensor]:
        for batch in super().__iter__():
            yield batch
            self.bar.update()


def _fit(
    model: PreTrainedModel,
    windows: Subset,
    sites: Sequence[Site],
    config: DictionaryConfig,
    run: Path,
) -> Path:
    """Runs sparsify's trainer; returns its last checkpoint, which has a folder for each hookpoint."""
    import sparsify

    from finetune.dictionaries.trainer import DictionaryTrainer

    n_steps = len(windows) // config.batch_size
    precision = torch.get_float32_matmul_precision()
    with _tapped(model, sites), contextlib.redirect_stdout(io.StringIO()):  # it prints its settings
        trainer = DictionaryTrainer(
            sparsify.TrainConfig(
                sparsify.SparseCoderConfig(num_latents=_n_features(config, model), k=config.k),
                batch_size=config.batch_size,
                optimizer="signum",
                lr=config.learning_rate,
                auxk_alpha=config.dead_weight,
                dead_feature_threshold=config.dead_after,
                hookpoints=[_hookpoint(site) for site in sites],
                init_seeds=[config.seed],
                save_every=config.checkpoint_steps,
                log_to_wandb=False,
                save_dir=str(run),
            ),
            windows,
            model,
        )
        try:
            with decoder_by_device():
                trainer.fit()
        finally:
            torch.set_float32_matmul_precision(precision)  # it sets another, for good
    return run / f"checkpoint-{n_steps}"


@contextlib.contextmanager
def _tapped(model: nn.Module, sites: Sequence[Site]) -> Iterator[None]:
    """Gives the model a module for each site, an identity that the site's activations pass through."""
    taps = nn.ModuleDict({str(site): nn.Identity() for site in sites})
    with contextlib.ExitStack() as stack:
        base: nn.Module = model.base_model  # type: ignore[assignment]
        base.add_module(TAPS, taps)
        stack.callback(delattr, base, TAPS)
        for site in sites:
            stack.enter_context(watched(model, site, taps[str(site)]))
        yield


def _hookpoint(site: Site) -> str:
    return f"{TAPS}.{site}"


def _n_features(config: DictionaryConfig, model: PreTrainedModel) -> int:
    n_features = config.features or 4 * model.config.hidden_size
    if config.k > n_features:
        raise InputError(f"k is {config.k} with {n_features} features; expected at most as many")
    return n_features


class _Shuffled(Subset[Any]):
    """Windows in an order; sparsify selects the remaining ones where it goes on with a run."""

    def select(self, rows: Iterable[int]) -> Subset[Any]:
        return Subset(self.dataset, [self.indices[row] for row in rows])


def _windows(config: DictionaryConfig, tokenizer: PreTrainedTokenizerBase, context: int) -> Subset:
    """The windows of all sources, shuffled, as many as fill whole steps."""
    window = context if config.window is None else config.window
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
    whole = len(windows) // config.batch_size * config.batch_size
    return _Shuffled(windows, order[:whole].tolist())


def _held_out(
    config: DictionaryConfig, tokenizer: PreTrainedTokenizerBase, windows: Subset
) -> tuple[Tensor, ...]:
    """Batches of windows to measure on."""
    length = windows[0]["input_ids"].numel()
    most = max(1, config.validation_tokens // length)
    if config.validation is not None:
        ids = tokenize([read_plain_text(config.validation)], tokenizer, desc="tokenize validation")
        held_out = whole_windows(ids, length, tokenizer.bos_token_id)[:most]
        if not len(held_out):
            raise InputError(f"{config.validation}: {len(ids)} tokens; expected a window of {length}")
    else:
        held_out = torch.stack([windows[row]["input_ids"] for row in range(min(most, len(windows)))])
    return held_out.split(config.batch_size)


def _record(config: DictionaryConfig, n_windows: int, window: int, fidelity: Fidelity) -> dict[str, Any]:
    settings = _settings(config)
    return {
        "settings": settings,
        "steps": n_windows // config.batch_size,
        "tokens": n_windows * window,
        "measured_on": settings["validation"] or "training data",
        "fidelity": {
            **dataclasses.asdict(fidelity),
            "variance_explained": fidelity.variance_explained,
            "loss_recovered": fidelity.loss_recovered,
        },
        "versions": versions_of_run("eai-sparsify"),
    }


def _require_sparsify() -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints where triton is missing
            import sparsify  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"training dictionaries needs sparsify ({error}); install it with pip install 'bilinear-lm[sae]'"
        ) from error
