"""Reading JSON and safetensors strictly, and writing files and folders all or nothing."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from bilinear_lm.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns errors of the disk while `path` is read into an InputError about the file or folder."""
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else path
        raise InputError(
            f"{where}: cannot be read ({error.strerror or error}); expected a file or folder that can be, "
            "check its permissions and the disk"
        ) from error


def own_file(folder: Path, name: str) -> Path:
    """The file of this name in a folder; InputError where it lies outside the folder.

    For names that are written in the folder's own files.

    Absolute names, `..` and links out of the folder are refused. A snapshot of the hub's cache is made of
    links to the blobs beside it, which count as its own.
    """
    path = folder / name
    leaves = Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name
    if leaves or not lies_inside(folder, path):
        link = "" if leaves else f", a link to {os.path.realpath(path)}"
        raise InputError(
            f"{folder}: {name!r} lies outside the folder{link}; expected a file of the folder itself, put it "
            "there"
        )
    return path


def lies_inside(folder: Path, path: Path) -> bool:
    """Whether a path lies in a folder once links are followed, or among the blobs of the hub's cache."""
    # A link to itself has no end, which `Path.resolve` makes an error of.
    root = Path(os.path.realpath(folder))
    snapshot = next((part for part in (root, *root.parents) if part.parent.name == "snapshots"), None)
    roots = [root] if snapshot is None else [root, snapshot.parent.parent / "blobs"]
    return any(Path(os.path.realpath(path)).is_relative_to(each) for each in roots)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error}); the file is damaged, fetch it again") from error
    except ValueError as error:  # a whole number of thousands of digits
        raise InputError(f"{path}: a number in it has too many digits; expected those of a model") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deep to be read; expected the JSON of a model") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def read_text(path: Path) -> str:
    """The text of a UTF-8 file."""
    require_content(path, "expected one there")
    try:
        with reading(path):
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}); expected a file of text") from error


_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def require_content(path: Path, expected: str) -> None:
    """Raises InputError unless there is a file that can be read and is not the pointer that Git LFS left."""
    with reading(path):
        if not path.is_file():
            raise InputError(f"{path}: no such file; {expected}")
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise InputError(
            f"{path}: a pointer of Git LFS instead of the file, which was not fetched; run git lfs pull "
            "where it was cloned"
        )


def read_tensors(path: Path, names: Iterable[str] | None = None, finite: bool = True) -> dict[str, Tensor]:
    """All tensors of one safetensors file, or some, in the precision of the file, and finite unless asked."""
    with _open_safetensors(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
    _refuse_complex([name for name, value in tensors.items() if value.is_complex()], path)
    if finite:
        require_finite(tensors, path)
    return tensors


@contextmanager
def _open_safetensors(path: Path, framework: str) -> Iterator[Any]:
    require_content(path, "expected a safetensors file there")
    try:
        with reading(path), safe_open(path, framework=framework) as file:
            yield file
    except SafetensorError as error:
        raise InputError(
            f"{path}: not a complete safetensors file ({error}); it is truncated or damaged, fetch it again"
        ) from error


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of the tensors of one safetensors file, from its header alone."""
    with _open_safetensors(path, "np") as file:  # which loads no torch
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        _refuse_complex([name for name, part in slices.items() if part.get_dtype().startswith("C")], path)
        return {name: tuple(part.get_shape()) for name, part in slices.items()}


def _refuse_complex(names: list[str], where: Path) -> None:
    """Raises InputError for complex tensors, of which a cast to real numbers would keep half."""
    if names:
        raise InputError(f"{where}: complex numbers in {', '.join(names[:5])}; expected real weights")


def require_finite(tensors: dict[str, Tensor], where: Path | str) -> None:
    """Raises InputError with the names of the tensors that hold NaN or infinity."""
    broken = [name for name, value in tensors.items() if not _finite(value).all()]
    if broken:
        raise InputError(
            f"{where}: NaN or infinity in {_listed(broken)}; expected finite weights, fetch or train it again"
        )


def require_floating(tensors: dict[str, Tensor], where: Path | str) -> None:
    """Raises InputError with the names of the tensors that hold whole, boolean or complex numbers."""
    odd = [name for name, value in tensors.items() if not value.is_floating_point()]
    if odd:
        kind = str(tensors[odd[0]].dtype).removeprefix("torch.")
        raise InputError(
            f"{where}: {kind} numbers in {_listed(odd)}; expected floating-point weights, convert them with "
            "what wrote them"
        )


def require_representable(tensors: dict[str, Tensor], dtype: torch.dtype, where: Path | str) -> None:
    """Raises InputError with the names of the tensors whose numbers are too large for `dtype`."""
    import torch

    most = torch.finfo(dtype).max
    wide = {name: value for name, value in tensors.items() if torch.finfo(value.dtype).max > most}
    large = [name for name, value in wide.items() if (_finite(value) & ~_finite(value.to(dtype))).any()]
    if large:
        kind = str(dtype).removeprefix("torch.")
        raise InputError(
            f"{where}: {_listed(large)} beyond {most:.3g}, the largest {kind}; expected smaller weights, "
            "choose a wider dtype"
        )


def _finite(value: Tensor) -> Tensor:
    # Torch tells it of few of the types of one byte.
    return (value.float() if value.dtype.itemsize == 1 else value).isfinite()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@contextmanager
def _clear_refusal(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose another output path"
        ) from error
    except SafetensorError as error:  # a disk that fills up while safetensors writes
        raise InputError(f"{path}: cannot be written ({error}); choose another output path") from error


def is_file(path: Path) -> bool:
    """Whether a file lies at `path`; raises InputError where that cannot be told."""
    with _clear_refusal(path):
        return path.is_file()


def require_new(path: Path) -> None:
    """Raises InputError unless `path` is absent or an empty folder."""
    with _clear_refusal(path):
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if taken:
        raise InputError(
            f"{path}: exists already; expected a new or empty folder, choose another or delete it"
        )


def require_writable(path: Path) -> None:
    """Raises InputError unless a file can be written at `path`; to be asked before long work."""
    with _clear_refusal(path):
        _require_replaceable(path)
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass


def _require_replaceable(path: Path) -> None:
    """Raises InputError for a folder, a device or a pipe, in whose place a file would be put."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected the name of a file to write")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no ordinary file; expected the name of a file to write")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes `path` when the block ends, or vanishes when the block raises."""
    require_new(path)
    with _clear_refusal(path), _parents_of(path):
        draft = _draft(path)
        try:
            draft.mkdir(mode=0o700)
            yield draft
            # Temporary folders, and files that safetensors writes, are readable by their owner only.
            draft.chmod(0o777 & ~_umask())
            for file in draft.rglob("*"):
                file.chmod((0o777 if file.is_dir() else 0o666) & ~_umask())
            if path.is_dir():
                path.rmdir()
            draft.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    with _clear_refusal(path), _parents_of(path):
        _require_replaceable(path)
        draft = _draft(path)
        try:
            with draft.open("xb") as file:
                file.write(data)
            draft.chmod(0o666 & ~_umask())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def _parents_of(path: Path) -> Iterator[None]:
    """Makes the folders above `path`, and removes the new ones again where they stay empty."""
    new = [parent for parent in path.absolute().parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in new:
            with suppress(OSError):  # it holds what others wrote
                folder.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a file of UTF-8 text whole or not at all."""
    write_bytes(path, text.encode())


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors, from any device, into one safetensors file, whole or not at all."""
    from safetensors.torch import save

    on_cpu = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    write_bytes(path, save(on_cpu, {"format": "pt"}))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes an object as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _draft(path: Path) -> Path:
    """A new path for a draft of `path`, which is not made yet; removes drafts of processes that were killed.

    A draft is named after the machine and the process that fill it, `.NAME.MACHINE-PROCESS.RANDOM`. Its name
    is known before it is there, so that an interrupt just after it was made leaves nothing.
    """
    machine = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())
    drafts = re.compile(rf"\.{re.escape(path.name)}\.{machine}-(\d+)\.\w+")
    for sibling in path.parent.iterdir():
        match = drafts.fullmatch(sibling.name)
        if match is None or _is_running(int(match[1])):
            continue
        if sibling.is_dir():
            shutil.rmtree(sibling, ignore_errors=True)
        else:
            sibling.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{machine}-{os.getpid()}.{secrets.token_hex(4)}")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def told(source: str | os.PathLike[str]) -> str:
    """The name of a checkpoint, a dictionary or a text in files that are written: no place on a machine.

    Of an absolute path its last part; a relative one, or what is on the hub, as it was given.

    >>> told("/home/somebody/models/tiny"), told("models/tiny"), told("owner/tiny")
    ('tiny', 'models/tiny', 'owner/tiny')
    """
    given = os.fspath(source)
    return Path(given).name if Path(given).is_absolute() or given.startswith("~") else given


def versions(*packages: str) -> dict[str, str]:
    """Versions of packages, by default of those that compute the numbers: bilinear-lm and torch."""
    return {package: version(package) for package in packages or ("bilinear-lm", "torch")}


def versions_of_run(*more: str) -> dict[str, str]:
    """Versions for the record of a run, by import names: bilinear_lm, torch, transformers and `more`."""
    packages = ("bilinear-lm", "torch", "transformers", *more)
    return {package.replace("-", "_"): of_it for package, of_it in versions(*packages).items()}
