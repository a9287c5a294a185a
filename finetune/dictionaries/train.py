"""Training dictionaries of a model's activations, by sparsify (`eai-sparsify`, the extra `sae`).

sparsify trains all dictionaries together, on the activations of one forward pass of the model a step: topk
autoencoders with decoder rows of unit norm, on the fraction of variance unexplained (Gao et al.,
arXiv 2406.04093). It reads the outputs of named modules.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from bilinear_lm.arguments import checked
from bilinear_lm.checkpoints.load import load_pretrained
from bilinear_lm.checkpoints.tokenizer import load_tokenizer
from bilinear_lm.device import find_device
from bilinear_lm.dictionaries import load_dictionary, save_dictionary
from bilinear_lm.distributed import Worker, gather_texts, in_group, process_group, together
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, read_json, require_new, versions_of_run, write_json
from bilinear_lm.sites import Site, watched
from finetune.dictionaries.config import DictionaryConfig
from finetune.dictionaries.fidelity import Fidelity, clean_loss, measure_fidelity
from finetune.dictionaries.sparsify_kernels import decoder_by_device
from finetune.dictionaries.windows import held_out_batches, training_windows
from finetune.runs.folder import (
    FINISHED,
    MAKE_ROOM,
    Diverged,
    as_json,
    is_finished,
    move_out,
    open_run,
    preparing,
    run_folder_of,
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

_WHILE_TRAINING = timedelta(days=14)
"""Time that the other processes wait for the first, which trains."""

TAPS = "taps"
"""The part of a model that puts out the activations of sites while dictionaries are trained."""


@checked
def train_dictionaries(config: DictionaryConfig) -> dict[Site, dict[str, Any]]:
    """Trains a dictionary for each site and writes it to `{config.output}/{site}`, in sparsify's format.

    Returns the record of each site, as in its train.json: settings, steps, tokens, and how faithful the
    dictionary on disk is to held-out text (to the first windows of the training text where there is none).

    While it runs, everything lies in `{config.output}.run`: dictionaries from when they are trained, before
    they are measured. `resume=True` goes on from there after an interruption.

    Under torchrun the first process trains them and returns the records; all processes share the measuring.
    Any number of them goes on with a run.
    """
    config.check()
    if in_group():
        raise InputError(
            "train_dictionaries in a torch.distributed group; call it outside of one, since it makes its own "
            "of the processes that torchrun started"
        )
    device = find_device(config.device)
    trained = None if Worker.launched().rank else _trained(config, device)
    with process_group(device, _WHILE_TRAINING):
        _measure_together(config, device, trained)
    if trained is None:
        return {}
    if trained.run is not None:
        (trained.run / TRAINED).rename(trained.run / FINISHED)
        move_out(trained.run, config.output)
    return _records(config.output, trained.sites)


@dataclasses.dataclass(frozen=True)
class _Trained:
    """Dictionaries that are trained, and what they are measured with."""

    sites: Sequence[Site]
    model: PreTrainedModel
    batches: Sequence[Tensor] = ()
    """Held-out windows."""
    n_windows: int = 0
    """Windows that they are trained on."""
    run: Path | None = None
    """The folder of the run; None for one that was finished before."""


def _trained(config: DictionaryConfig, device: torch.device) -> _Trained:
    """Trains the dictionaries of a run, as far as it had not come."""
    if not config.resume:
        require_new(config.output)
    _require_sparsify()
    model = load_pretrained(config.model, device=device)
    sites = config.sites(model.config.num_hidden_layers)
    _n_features(config, model)
    settings = _settings(config)
    if is_finished(config.output, settings, config.resume, f"{sites[0]}/{RECORD}"):
        return _Trained(sites, model)
    tokenizer = load_tokenizer(config.model)
    with preparing(config.output) as run:
        open_run(config.output, settings, config.resume)
        windows = training_windows(config, tokenizer, model.config.max_position_embeddings)
        batches = held_out_batches(config, tokenizer, windows)
    with training(run, looked_at=False):
        if not (run / TRAINED).exists():
            _train(model, windows, sites, config, run)
        require_undamaged(run / TRAINED)
    return _Trained(sites, model, batches, len(windows), run)


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


def _measure_together(config: DictionaryConfig, device: torch.device, trained: _Trained | None) -> None:
    """Measures the dictionaries that have no record yet, which the first process has `trained`."""
    folder = run_folder_of(config.output) / TRAINED
    with together():
        ids, left = [], []
        if trained is not None and trained.run is not None:
            ids = [json.dumps(batch.tolist()) for batch in trained.batches]
            left = [str(site) for site in trained.sites if not (folder / str(site) / RECORD).exists()]
    ids, left = gather_texts(ids), gather_texts(left)
    if not left:
        return
    with together():
        model = load_pretrained(config.model, device=device) if trained is None else trained.model
        batches = [torch.tensor(json.loads(each), device=model.device) for each in ids]
    with training(folder.parent, trained is not None, looked_at=False):
        for site, fidelity in _measured(model, batches, left, config, folder):
            with together():
                if trained is not None:
                    window = trained.batches[0].shape[1]
                    record = _record(config, trained.n_windows, window, fidelity)
                    write_json(folder / site / RECORD, record)


def _measured(
    model: PreTrainedModel,
    batches: Sequence[Tensor],
    sites: Sequence[str],
    config: DictionaryConfig,
    trained: Path,
) -> Iterator[tuple[str, Fidelity]]:
    """How faithful the dictionary of each site is."""
    worker = Worker.own()
    total = (PASSES * len(sites) + 1) * len(worker.of(len(batches)))
    with tqdm(total=total, desc="measure", unit=" batches", disable=worker.rank > 0) as bar:
        watched = _Watched(batches, bar)
        clean = clean_loss(model, watched)
        for site in sites:
            dictionary = load_dictionary(trained / site, device=model.device)
            fidelity = measure_fidelity(
                model, dictionary, watched, ablation=config.ablation, loss_clean=clean
            )
            if not fidelity.fvu < DIVERGED:
                raise Diverged(
                    f"{site}: training diverged: the dictionary misses the activations by {fidelity.fvu:.3g} "
                    f"times their variance; give a smaller learning_rate and start anew"
                )
            yield site, fidelity


class _Watched(Sequence[Tensor]):
    """Batches that move a bar whenever some of them are taken to be read."""

    def __init__(self, batches: Sequence[Tensor], bar: tqdm):
        self.batches, self.bar = batches, bar

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: Any) -> Any:
        taken = self.batches[index]
        if isinstance(index, slice):
            self.bar.update(len(taken))
        return taken


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
