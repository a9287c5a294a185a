"""Training dictionaries of a tiny model, from text to folders that load."""

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bilinear_lm import InputError, Site, load_dictionary
from bilinear_lm.checkpoints import save_folder
from finetune.dictionaries.config import DictionaryConfig
from finetune.dictionaries.fidelity import measure_fidelity

pytest.importorskip("sparsify", reason="needs the extra sae: pip install 'bilinear-lm[sae]'")

import finetune.dictionaries.train
import finetune.dictionaries.trainer
from finetune.dictionaries.train import train_dictionaries

from ...bilinear_lm.tiny_families import tiny_family


@pytest.fixture
def config(tmp_path, make_model, tiny_tokenizer):
    model = make_model(d_vocab=len(tiny_tokenizer))
    save_folder(model, tiny_tokenizer, tmp_path / "model")
    generator = random.Random(0)
    words = ["a cat", "a dog", "the park", "ran to", "saw", "a big red ball", "was happy", "upon a time"]
    stories = [" ".join(generator.choices(words, k=12)) for _ in range(300)]
    (tmp_path / "train.txt").write_text("\n<|endoftext|>\n".join(stories[:280]))
    (tmp_path / "held-out.txt").write_text("\n".join(stories[280:]))
    return DictionaryConfig(
        model=str(tmp_path / "model"),
        output=tmp_path / "dictionaries",
        data=(str(tmp_path / "train.txt"),),
        features=48,
        k=6,
        validation=tmp_path / "held-out.txt",
        batch_size=8,
        learning_rate=0.02,
        device="cpu",
    )


def test_a_run_learns_and_leaves_folders_that_load(config, tmp_path):
    records = train_dictionaries(config)
    sites = [Site(layer, point) for layer in (0, 1) for point in ("mlp-in", "mlp-out")]
    assert list(records) == sites
    assert sorted(path.name for path in config.output.iterdir()) == [str(site) for site in sites]
    for site, record in records.items():
        folder = config.output / str(site)
        assert sorted(path.name for path in folder.iterdir()) == ["cfg.json", "sae.safetensors", "train.json"]
        assert json.loads((folder / "train.json").read_text()) == record
        found = record["fidelity"]
        assert found["fvu"] < 0.35
        assert found["variance_explained"] == pytest.approx(1 - found["fvu"])
        assert found["loss_recovered"] > 0.5
        assert found["active_features"] <= 6
        dictionary = load_dictionary(folder, site=site, d_in=16)
        assert (dictionary.n_feat, dictionary.k) == (48, 6)
        torch.testing.assert_close(dictionary.decoder.norm(dim=-1), torch.ones(48), atol=0.2, rtol=0)
    settings = records[sites[0]]["settings"]
    assert (settings["model"], settings["data"], settings["validation"]) == (
        "model",
        ["train.txt"],
        "held-out.txt",
    )


def test_every_point_and_the_same_again(config, tmp_path):
    points = ("resid-pre", "attn-out", "resid-mid", "mlp-in", "mlp-out", "resid-post")
    config = dataclasses.replace(config, layers=(1,), points=points, max_tokens=2000, validation=None)
    records = train_dictionaries(config)
    assert [str(site) for site in records] == [f"1-{point}" for point in points]
    assert {record["measured_on"] for record in records.values()} == {"training data"}
    assert all(record["fidelity"]["fvu"] < 0.9 for record in records.values())
    again = dataclasses.replace(config, output=tmp_path / "again", store="float16")
    train_dictionaries(again)
    for site in records:
        a, b = (load_dictionary(folder / str(site)) for folder in (config.output, again.output))
        assert torch.equal(a.encoder.half().float(), b.encoder)


@pytest.mark.parametrize("family", ["Gemma2", "Olmo2", "Granite"])
def test_families_that_normalise_or_scale_what_they_add(config, tiny_tokenizer, family):
    special = {"residual_multiplier": 0.3} if family == "Granite" else {}
    model = tiny_family(family, vocab_size=len(tiny_tokenizer), **special)
    seen = {}
    sites = [Site(1, point) for point in ("resid-pre", "attn-out", "resid-mid", "mlp-out", "resid-post")]
    with finetune.dictionaries.train._tapped(model, sites), torch.no_grad():
        for name, tap in model.base_model.taps.items():
            tap.register_forward_hook(lambda _, __, x, name=name: seen.__setitem__(name, x.clone()))
        model(torch.arange(12).unsqueeze(0))
    pre, attention, mid, mlp, post = (seen[str(site)] for site in sites)
    assert torch.equal(pre + attention, mid)
    assert torch.equal(mid + mlp, post)
    assert not hasattr(model.base_model, "taps")
    other = Path(config.model).with_name("other")
    save_folder(model, tiny_tokenizer, other)
    records = train_dictionaries(
        dataclasses.replace(config, model=str(other), layers=(1,), k=24, max_tokens=6000)
    )
    assert all(record["fidelity"]["fvu"] < 0.7 for record in records.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ()}, "no data given"),
        ({"points": ()}, "no points given"),
        ({"k": 0}, "k is 0; expected a positive number"),
        ({"k": 49}, "k is 49 with 48 features"),
        ({"layers": (2,)}, "layer 2 does not exist; the model has layers 0 to 1"),
        ({"window": 100}, "window is 100; expected 2 to 32, the model's context"),
        ({"window": 0}, "window is 0; expected 2 to 32, the model's context"),
        ({"max_tokens": 100}, "2 windows of 32 tokens; expected at least one batch of 8"),
    ],
)
def test_bad_settings(config, change, message):
    with pytest.raises(InputError, match=message):
        train_dictionaries(dataclasses.replace(config, **change))
    assert not list(config.output.parent.glob("dictionaries*"))


def test_without_sparsify(config, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sparsify", None)
    with pytest.raises(InputError, match=r"install it with pip install 'bilinear-lm\[sae\]'"):
        train_dictionaries(config)


@pytest.fixture
def small(config):
    """A run of twelve steps on one layer, with checkpoints after 3, 7 and 11."""
    return dataclasses.replace(config, layers=(1,), max_tokens=3_200, checkpoint_steps=4, dead_after=500)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WHOLE = {}


def whole(config):
    """What the same run leaves without interruption."""
    if not WHOLE:
        output = config.output.with_name("whole")
        train_dictionaries(dataclasses.replace(config, output=output))
        WHOLE.update(contents(output))
    return WHOLE


def resumed(config):
    """Resumes the run, which is then as if it had never been interrupted, and leaves nothing else."""
    records = train_dictionaries(dataclasses.replace(config, resume=True))
    assert contents(config.output) == whole(config)
    assert not config.output.with_name("dictionaries.run").exists()
    return records


def interrupted(config, module, name, calls, monkeypatch):
    """Stops a run in the call of a function after `calls` of them; returns its folder."""
    real, left = getattr(module, name), iter(range(calls))

    def stopping(*args, **kwargs):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            train_dictionaries(config)
    assert not config.output.exists()
    return config.output.with_name("dictionaries.run")


def test_stopped_while_training(small, monkeypatch):
    run = interrupted(small, finetune.dictionaries.trainer.DictionaryTrainer, "save", 2, monkeypatch)
    assert {path.name for path in run.iterdir()} == {"settings.json", "checkpoint-3", "checkpoint-7"}
    with pytest.raises(InputError, match=r"dictionaries\.run: an interrupted run is there; add --resume"):
        train_dictionaries(small)
    with pytest.raises(InputError, match=r"other settings \(k was 6, is 5\)"):
        train_dictionaries(dataclasses.replace(small, k=5, resume=True))
    resumed(small)


def test_a_damaged_checkpoint(small, monkeypatch, capsys):
    run = interrupted(small, finetune.dictionaries.trainer.DictionaryTrainer, "save", 2, monkeypatch)
    (run / "checkpoint-7" / "optimizer_0.pt").write_bytes(b"")
    resumed(small)
    told = capsys.readouterr().err
    assert "checkpoint-7 is damaged (optimizer_0.pt has 0 bytes, expected" in told
    assert "going on from checkpoint-3" in told


def test_stopped_while_measuring(small, monkeypatch):
    """What is trained is not trained again, and what is measured not measured again."""
    run = interrupted(small, finetune.dictionaries.train, "measure_fidelity", 1, monkeypatch)
    assert (run / "trained" / "1-mlp-in" / "train.json").is_file()
    measured = []

    def measure(model, dictionary, *args, **kwargs):
        measured.append(str(dictionary.site))
        return measure_fidelity(model, dictionary, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(finetune.dictionaries.train, "_fit", lambda *args: pytest.fail("trained again"))
        patch.setattr(finetune.dictionaries.train, "measure_fidelity", measure)
        resumed(small)
    assert measured == ["1-mlp-out"]


def test_trained_dictionaries_that_are_damaged(small, monkeypatch):
    run = interrupted(small, finetune.dictionaries.train, "measure_fidelity", 0, monkeypatch)
    weights = run / "trained" / "1-mlp-out" / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"trained: damaged \(1-mlp-out/sae\.safetensors has .* start anew"):
        train_dictionaries(dataclasses.replace(small, resume=True))


def test_stopped_between_the_last_step_and_the_dictionaries(small, monkeypatch):
    """The last checkpoint is the result: training that goes on from it would round its weights once more."""
    run = interrupted(small, finetune.dictionaries.train, "save_dictionary", 1, monkeypatch)
    assert (run / "checkpoint-12").is_dir()
    assert not (run / "trained").exists()
    resumed(small)


@pytest.mark.parametrize("name", ["move_out", "_records"])
def test_stopped_behind_the_end(small, name, monkeypatch):
    if name == "move_out":
        interrupted(small, finetune.dictionaries.train, name, 0, monkeypatch)
    else:
        train_dictionaries(small)
        run = small.output.with_name("dictionaries.run")
        run.mkdir()
        settings = finetune.dictionaries.train._settings(small)
        (run / "settings.json").write_text(json.dumps(settings))
    resumed(small)


def test_killed_while_measuring(small, tmp_path):
    """Nothing is left but the run's folder, from which it goes on."""
    (tmp_path / "tmp").mkdir()
    given = [small.model, "-o", str(small.output), "--data", *small.data, "--layers", "1", "--features", "48"]
    given += ["--k", "6", "--validation", str(small.validation), "--learning-rate", "0.02", "--device", "cpu"]
    given += ["--max-tokens", "3200", "--checkpoint-steps", "4", "--dead-after", "500"]
    command = [sys.executable, "-m", "bilinear_lm", "dictionaries", *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    run = small.output.with_name("dictionaries.run")
    try:
        while not (run / "trained").exists():
            assert process.poll() is None
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"dictionaries.run", "held-out.txt", "model", "tmp", "train.txt"}
    assert not list((tmp_path / "tmp").iterdir())
    resumed(small)


def test_sites_are_described_once(small):
    twice = dataclasses.replace(small, layers=(1, 0, 1), points=("mlp-out", "mlp-out"))
    assert [str(site) for site in twice.sites(2)] == ["1-mlp-out", "0-mlp-out"]


def test_tokens_are_those_that_were_read(small, monkeypatch):
    """Windows that do not fill a step are left out, which would weigh as much as a whole one."""
    given = []

    def train(model, windows, *rest):
        given.append(windows)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune.dictionaries.train, "_train", train)
    with pytest.raises(KeyboardInterrupt):
        train_dictionaries(dataclasses.replace(small, batch_size=7))
    (windows,) = given
    assert len(windows) % 7 == 0
    assert len(windows) > 90
    record = finetune.dictionaries.train._record(small, len(windows), 32, FIDELITY)
    assert record["tokens"] == sum(window["input_ids"].numel() for window in windows)


FIDELITY = finetune.dictionaries.train.Fidelity(0.5, 3.0, 0, 2.0, 3.0, 2.0, "zero", 100)


def test_an_ablation_that_changes_nothing():
    assert FIDELITY.loss_recovered is None
    assert dataclasses.replace(FIDELITY, loss_ablated=4.0).loss_recovered == 0.5


def test_the_clean_loss_is_measured_once(small, monkeypatch):
    real, measured = finetune.dictionaries.train.clean_loss, []

    def clean_loss(model, batches):
        measured.append(real(model, list(batches)))
        return measured[-1]

    monkeypatch.setattr(finetune.dictionaries.train, "clean_loss", clean_loss)
    records = train_dictionaries(small)
    assert len(measured) == 1
    assert {record["fidelity"]["loss_clean"] for record in records.values()} == set(measured)


@pytest.mark.parametrize(("rate", "said"), [(1e9, "misses the activations by"), (3e38, "training diverged")])
def test_training_that_diverges(small, rate, said):
    with pytest.raises(InputError, match=f"training diverged.*{said}|{said}"):
        train_dictionaries(dataclasses.replace(small, learning_rate=rate))
    assert not list(small.output.parent.glob("dictionaries*"))


def test_weights_too_large_for_float16(small):
    with pytest.raises(InputError, match=r"beyond 6\.55e\+04, the largest float16"):
        train_dictionaries(dataclasses.replace(small, learning_rate=1e5, store="float16"))
    assert not small.output.exists()


def test_a_full_disk(small, monkeypatch):
    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", no_space)
        with pytest.raises(InputError, match=r"checkpoint-3: cannot be written .*; earlier .* with --resume"):
            train_dictionaries(small)
    run = small.output.with_name("dictionaries.run")
    assert [path.name for path in run.iterdir()] == ["settings.json"]
    resumed(small)
