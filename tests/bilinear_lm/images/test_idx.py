"""idx files against the format's description, written here byte by byte, and refusals of broken ones."""

import gzip
import struct

import numpy as np
import pytest
import torch

from bilinear_lm.errors import InputError
from bilinear_lm.images.idx import is_idx_folder, read_idx, read_idx_folder


def idx(numbers, kind=8):
    header = struct.pack(f">4B{numbers.ndim}I", 0, 0, kind, numbers.ndim, *numbers.shape)
    return header + numbers.astype(np.uint8).tobytes()


def write(folder, mark="-", end="", n=(6, 4), shape=((3, 2), (3, 2))):
    """The four files, and the arrays that they hold."""
    folder.mkdir(exist_ok=True)
    rng, made = np.random.default_rng(0), {}
    for split, size, by in zip(("train", "t10k"), n, shape, strict=True):
        made[split, "images"] = rng.integers(0, 256, (size, *by))
        made[split, "labels"] = np.arange(size) % 3
    for (split, kind), numbers in made.items():
        data = idx(numbers)
        name = f"{split}-{kind}{mark}idx{numbers.ndim}-ubyte{end}"
        (folder / name).write_bytes(gzip.compress(data) if end else data)
    return made


@pytest.mark.parametrize(("mark", "end"), [("-", ""), ("-", ".gz"), (".", ""), (".", ".gz")])
def test_a_folder_of_four_files(tmp_path, mark, end):
    made = write(tmp_path / "data", mark, end)
    data = read_idx_folder(tmp_path / "data")
    for split in ("train", "test"):
        source = {"train": "train", "test": "t10k"}[split]
        assert (getattr(data, f"{split}_images").numpy() == made[source, "images"]).all()
        assert (getattr(data, f"{split}_labels").numpy() == made[source, "labels"]).all()
    assert data.class_names == ("0", "1", "2")
    assert data.name == "data"
    images, _ = data.train()
    np.testing.assert_allclose(images.numpy(), made["train", "images"] / 255, atol=1e-7)
    assert is_idx_folder(tmp_path / "data")
    assert not is_idx_folder(tmp_path)


def test_the_real_files(shared):
    labels = read_idx(shared / "mnist" / "train-labels-idx1-ubyte.gz", axes=1)
    assert labels.shape == (60000,)
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]


IMAGES = idx(np.arange(12).reshape(2, 2, 3))
BROKEN = {
    "empty": (b"", "no idx file"),
    "text": (b"hello, world", "no idx file"),
    "labels": (idx(np.arange(3)), "1 axes, as labels have; expected 3 axes.*exchanged"),
    "of four axes": (idx(np.zeros((1, 1, 1, 1))), "4 axes; expected 3"),
    "floats": (struct.pack(">4B3I", 0, 0, 13, 3, 1, 1, 1) + b"1234", "float32 numbers; expected bytes"),
    "within its header": (IMAGES[:9], "cut off within its header"),
    "cut off": (IMAGES[:-1], r"11 bytes of numbers where its header says \[2, 2, 3\], 12"),
    "too long": (IMAGES + b"x", "more bytes of numbers"),
    "of none": (idx(np.zeros((0, 2, 3))), r"the header says \[0, 2, 3\]"),
    "enormous": (struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3), "the header says"),
    "large": (struct.pack(">4B3I", 0, 0, 8, 3, 2**16, 2**8, 2**9), "0 bytes of numbers"),
    "gzip cut off": (gzip.compress(IMAGES)[:-9], "no complete gzip"),
    "gzip damaged": (b"\x1f\x8b" + b"\x00" * 30, "no complete gzip"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        read_idx(tmp_path / "images")
    assert "\n" not in str(refusal.value)


def test_folders_that_lack_a_file_or_have_two_are_refused(tmp_path):
    write(tmp_path / "data")
    labels = tmp_path / "data" / "t10k-labels-idx1-ubyte"
    (tmp_path / "data" / "t10k-labels.idx1-ubyte").write_bytes(labels.read_bytes())
    with pytest.raises(InputError, match="both t10k-labels"):
        read_idx_folder(tmp_path / "data")
    (tmp_path / "data" / "t10k-labels.idx1-ubyte").unlink()
    labels.unlink()
    with pytest.raises(InputError, match=r"no t10k-labels-idx1-ubyte\[.gz\]"):
        read_idx_folder(tmp_path / "data")


def test_splits_of_other_sizes_are_refused(tmp_path):
    write(tmp_path / "data", shape=((3, 2), (2, 3)))
    with pytest.raises(InputError, match="training images of 3 × 2 pixels, test images of 2 × 3"):
        read_idx_folder(tmp_path / "data")


def test_labels_of_another_split_are_refused(tmp_path):
    write(tmp_path / "data")
    (tmp_path / "data" / "train-labels-idx1-ubyte").write_bytes(idx(torch.arange(4).numpy()))
    with pytest.raises(InputError, match=r"training labels \[4\] for 6 images"):
        read_idx_folder(tmp_path / "data")
