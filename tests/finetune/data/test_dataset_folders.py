"""Folders of files and saved datasets as sources: documents by what the files are, or one line."""

import gzip
import json
import shutil

import datasets
import pytest

from finetune.data.sources import END_OF_TEXT

from .reading import CARD, READ, ROWS, read, refusal


def test_a_folder_of_texts_is_read_as_its_files_are(write, tmp_path):
    write("texts/a.txt", f"\ufeff  One.\nMore.\n{END_OF_TEXT}\nTwo.\n")
    write("texts/deep/b.txt", "Three.\n\nFour.\n")
    assert read(tmp_path / "texts") == ["  One.\nMore.", "Two.", "Three.\n\nFour."]
    write("packed/a.txt.gz", gzip.compress(f"One.\nMore.\n{END_OF_TEXT}\nTwo.".encode()))
    assert read(tmp_path / "packed") == ["One.\nMore.", "Two."]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_folder_of_files_with_columns(tmp_path, kind):
    data = datasets.Dataset.from_dict(
        {"text": ["One.", " ", "  Two."], "body": ["a", "b", "c"], "id": [1, 2, 3]}
    )
    (tmp_path / "data").mkdir()
    write = {"jsonl": data.to_json, "csv": data.to_csv, "parquet": data.to_parquet}[kind]
    write(tmp_path / "data" / f"train.{kind}")
    shutil.copy(tmp_path / "data" / f"train.{kind}", tmp_path / "data" / f"test.{kind}")
    assert read(tmp_path / "data") == ["One.", "  Two."]
    assert read(tmp_path / "data", split="test", column="body") == ["a", "b", "c"]
    assert "body" in refusal(tmp_path / "data", column="title")
    said = refusal(tmp_path / "data", split="valid")
    assert "train" in said
    assert "test" in said


def test_folders_of_which_a_part_would_be_left_out(write, tmp_path):
    write("kinds/a.txt", "One.")
    write("kinds/b.jsonl", ROWS)
    assert "kinds: a.txt would be left out beside train: 1 file" in refusal(tmp_path / "kinds")
    write("named/train-ride.txt", "One.")
    write("named/story.txt", "Two.")
    assert "named: story.txt would be left out" in refusal(tmp_path / "named")
    write("only/test.txt", "One.")
    assert "only: no split train; the splits are test, choose with --split" in refusal(tmp_path / "only")
    write("odd[1]/a.txt", "One.")
    assert "a folder with *, ? or [ in its name" in refusal(tmp_path / "odd[1]")
    (tmp_path / "void").mkdir()
    assert "void: neither a text file, nor a folder or hub name" in refusal(tmp_path / "void")


def test_subsets_of_a_folder(write, tmp_path):
    write("data/README.md", CARD)
    write("data/en/a.jsonl", ROWS)
    write("data/fr/a.jsonl", '{"text": "Un."}\n')
    assert read(tmp_path / "data", subset="en") == READ
    assert read(tmp_path / "data", subset="fr", split="test") == ["Un."]
    assert "available configs: ['en', 'fr']" in refusal(tmp_path / "data")
    assert "Available: ['en', 'fr']" in refusal(tmp_path / "data", subset="de")
    assert "no split train; the splits are test" in refusal(tmp_path / "data", subset="fr")


@pytest.mark.parametrize("kind", ["saved", "dict"])
def test_documents_of_a_saved_dataset(tmp_path, kind):
    data = datasets.Dataset.from_dict({"text": ["One.", " ", "  Two."], "id": [1, 2, 3]})
    if kind == "dict":
        data = datasets.DatasetDict({"train": data, "test": data.select([2])})
    data.save_to_disk(tmp_path / "data")
    assert read(tmp_path / "data") == ["One.", "  Two."]
    assert "columns text, id; expected one named body" in refusal(tmp_path / "data", column="body")
    assert "row 1 has 1 (int) in 'id'" in refusal(tmp_path / "data", column="id")
    assert "without subsets" in refusal(tmp_path / "data", subset="en")
    if kind == "dict":
        assert read(tmp_path / "data", split="test") == ["  Two."]
        assert "no split valid; the splits are train, test" in refusal(tmp_path / "data", split="valid")
        shutil.rmtree(tmp_path / "data" / "train")
        (tmp_path / "data" / "dataset_dict.json").write_text('{"splits": ["test"]}')
        assert "no split train; the splits are test" in refusal(tmp_path / "data")
    else:
        assert "without splits" in refusal(tmp_path / "data", split="train")


def test_saved_datasets_that_are_damaged_or_lead_elsewhere(tmp_path):
    datasets.Dataset.from_dict({"text": ["One."]}).save_to_disk(tmp_path / "good")
    state = json.loads((tmp_path / "good" / "state.json").read_text())
    [part] = state["_data_files"]

    def broken(name, text):
        shutil.copytree(tmp_path / "good", tmp_path / name)
        (tmp_path / name / "state.json").write_text(text)
        return refusal(tmp_path / name)

    elsewhere = {"_data_files": [{"filename": "../good/" + part["filename"]}]}
    assert "which lies outside of it" in broken("outside", json.dumps(state | elsewhere))
    assert "cannot be read" in broken("gone", json.dumps(state | {"_data_files": [{"filename": "none"}]}))
    assert "not valid JSON" in broken("cut", "{")
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["../good"]}')
    assert "which lies outside of it" in refusal(tmp_path / "dict", split="../good")
    shutil.copytree(tmp_path / "good", tmp_path / "short")
    arrow = tmp_path / "short" / part["filename"]
    arrow.write_bytes(arrow.read_bytes()[:200])
    assert "cannot be read as a dataset" in refusal(tmp_path / "short")


def test_folders_that_lead_elsewhere(write, tmp_path):
    outside = write("text.txt", "One.")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a.txt").symlink_to(outside)
    assert "a.txt, which lies outside of it; give that file itself" in refusal(tmp_path / "linked")
    write("named/README.md", "---\nconfigs:\n- config_name: en\n  data_files: ../text.txt\n---\n")
    write("named/b.txt", "Two.")
    assert "text.txt, which lies outside of it" in refusal(tmp_path / "named")
    snapshot = tmp_path / "cache" / "snapshots" / "0123"  # as the hub's cache keeps a dataset
    snapshot.mkdir(parents=True)
    write("cache/blobs/ab", "Three.")
    (snapshot / "a.txt").symlink_to("../../blobs/ab")
    assert read(snapshot) == ["Three."]
