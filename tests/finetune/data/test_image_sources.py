"""Images of datasets as they were written, and refusals of what is no data of grey images."""

import numpy as np
import pytest

from bilinear_lm.errors import InputError
from finetune.choices import ImageSelection
from finetune.data.image_sources import read_images


@pytest.fixture(scope="module")
def written():
    rng = np.random.default_rng(0)
    return {
        split: rng.integers(0, 256, (n, 5, 4), dtype=np.uint8) for split, n in (("train", 9), ("test", 6))
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory, written):
    """The same images by save_to_disk, in Parquet, and as files in folders named after the classes."""
    import datasets
    from PIL import Image

    datasets.disable_progress_bars()
    root = tmp_path_factory.mktemp("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["a", "b", "c"]),
            "n": datasets.Value("int64"),
        }
    )
    splits = datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {
                    "picture": [Image.fromarray(image) for image in images],
                    "kind": [i % 3 for i in range(len(images))],
                    "n": [i % 2 for i in range(len(images))],
                },
                features=features,
            )
            for split, images in written.items()
        }
    )
    splits.save_to_disk(str(root / "saved"))
    (root / "parquet").mkdir()
    for split, rows in splits.items():
        rows.to_parquet(root / "parquet" / f"{split}.parquet")
        for i, image in enumerate(written[split]):
            folder = root / "files" / split / "abc"[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:02}.png")
    datasets.enable_progress_bars()
    return root


@pytest.mark.parametrize("name", ["saved", "parquet", "files"])
def test_datasets(folders, written, name):
    data = read_images(str(folders / name))
    assert data.class_names == ("a", "b", "c")
    order = np.argsort(np.arange(9) % 3, kind="stable") if name == "files" else np.arange(9)
    assert (data.train_images.numpy() == written["train"][order]).all()
    assert data.train_labels.tolist() == (order % 3).tolist()
    assert data.test_images.shape == (6, 5, 4)


def test_columns_and_splits_that_are_chosen(folders, written):
    chosen = ImageSelection(train_split="test", test_split="train", label_column="n")
    data = read_images(str(folders / "parquet"), chosen)
    assert (data.train_images.numpy() == written["test"]).all()
    assert data.class_names == ("0", "1")


@pytest.mark.parametrize(
    ("name", "selection", "message"),
    [
        (
            "saved",
            {"test_split": "held"},
            "the splits are train, test, choose with --test-split",
        ),
        ("parquet", {"test_split": "held"}, "Bad split: held.*--test-split"),
        ("parquet", {"image_column": "pixels"}, "no column pixels; the columns are picture, kind, n"),
        ("parquet", {"image_column": "n"}, "row 1 of train: a int; expected a grey image"),
        (
            "saved",
            {"label_column": "picture"},
            "a PngImageFile in picture; expected the number",
        ),
        ("saved", {"subset": "b"}, "saved without subsets"),
    ],
)
def test_choices_that_are_not_there_are_refused(folders, name, selection, message):
    with pytest.raises(InputError, match=message):
        read_images(str(folders / name), ImageSelection(**selection))


def test_images_in_colour_and_of_several_sizes_are_refused(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name, image in (("a", Image.new("RGB", (4, 4))), ("b", Image.new("L", (4, 4)))):
            (tmp_path / "colour" / split / name).mkdir(parents=True)
            image.save(tmp_path / "colour" / split / name / "0.png")
        for size in (4, 5):
            (tmp_path / "sizes" / split / str(size)).mkdir(parents=True)
            Image.new("L", (size, 4)).save(tmp_path / "sizes" / split / str(size) / "0.png")
    with pytest.raises(InputError, match="row 1 of train: an image in mode RGB; expected a grey image"):
        read_images(str(tmp_path / "colour"))
    with pytest.raises(InputError, match="images of 4 × 4 and 4 × 5 pixels"):
        read_images(str(tmp_path / "sizes"))


def test_other_sources_are_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="is a file; expected a folder of idx files"):
        read_images(str(tmp_path / "file"))
    missing = "void: neither digits, nor a folder of idx files, nor a folder or hub name that holds a dataset"
    with pytest.raises(InputError, match=missing):
        read_images(str(tmp_path / "void"))
    with pytest.raises(InputError, match="digits: is read whole"):
        read_images("digits", ImageSelection(train_split="all"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.txt").write_text("text")
    with pytest.raises(InputError, match="files of text; expected a dataset with a column of images"):
        read_images(str(tmp_path / "texts"))
