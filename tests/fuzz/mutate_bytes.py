"""Ways to spoil any file: its bytes, or something else in its place. Each takes a path and a generator."""

import os


def rewrite(change):
    """A mutation of a file from a function of its bytes."""

    def spoil(path, random):
        path.write_bytes(change(path.read_bytes(), random))

    return spoil


def flip_bits(data, random):
    flipped = bytearray(data)
    for _ in range(max(1, len(data) // 2000)):
        flipped[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(flipped)


def fill_with_zeros(data, random):
    start = random.randrange(len(data))
    return data[:start] + bytes(min(64, len(data) - start)) + data[start + 64 :]


def cut_out(data, random):
    start = random.randrange(len(data))
    return data[:start] + data[start + random.randrange(1, 200) :]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 132\n"

BYTES = {
    "truncated": rewrite(lambda data, random: data[: random.randrange(1, len(data))]),
    "last-byte-missing": rewrite(lambda data, random: data[:-1]),
    "bits-flipped": rewrite(flip_bits),
    "zeros-inside": rewrite(fill_with_zeros),
    "all-zeros": rewrite(lambda data, random: bytes(len(data))),
    "cut-out": rewrite(cut_out),
    "appended": rewrite(lambda data, random: data + random.randbytes(100)),
    "empty": rewrite(lambda data, random: b""),
    "random": rewrite(lambda data, random: random.randbytes(len(data))),
    "html": rewrite(lambda data, random: b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "lfs-pointer": rewrite(lambda data, random: LFS),
    "pickle": rewrite(lambda data, random: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n."),
    "zip": rewrite(lambda data, random: b"PK\x03\x04" + data),
}


def make_folder(path, random):
    path.unlink()
    path.mkdir()


def dangle(path, random):
    path.unlink()
    path.symlink_to("nowhere")


def loop(path, random):
    path.unlink()
    path.symlink_to(path.name)


def make_fifo(path, random):
    """A pipe, which blocks whoever opens it; nobody writes to it."""
    path.unlink()
    os.mkfifo(path)


def remove(path, random):
    path.unlink()


def forbid(path, random):
    path.chmod(0)


FILES = {
    "folder": make_folder,
    "dangling-link": dangle,
    "looping-link": loop,
    "fifo": make_fifo,
    "gone": remove,
}
"""Something else in the place of a file."""
