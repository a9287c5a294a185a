"""Eigenvectors of many output directions, streamed to disk, in a run that can be killed and resumed.

The directions are cut into parts of fixed ranges (see `analysis.spectra.eigen_folder`). A part is computed
by itself from the seed, so what a resumed run writes does not depend on where the first one was stopped, nor
on how many processes share the parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from analysis.spectra.eigen import Method, default_tolerance, eigendecompose, require_decomposable
from analysis.spectra.eigen_folder import SETTINGS, n_parts, part_path, read_part, write_part
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.distributed import gather_texts, together
from bilinear_lm.errors import InputError
from bilinear_lm.files import is_file, read_json, require_new, versions, write_json
from bilinear_lm.numerics.rescaling import norms
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor

FOREIGN = 1e-2
"""Residuals above this share of the largest eigenvalue are no rounding: the pair is of another matrix."""

PART_SIZE = 256
"""Directions of a part, the most that a kill loses: half a minute of a CPU at d_in = 1024."""


@shown
@dataclass(frozen=True)
class EigenRun:
    """The settings of a run, saved as settings.json: everything that decides the bytes of the parts."""

    axes: list[int]
    """[n], the number of directions."""
    part_size: int
    k: int
    method: Method
    tolerance: float
    seed: int
    d_in: int
    d_mlp: int
    d_out: int
    dtype: str
    device: str
    tensor_sha256: str
    directions_sha256: str
    versions: dict[str, str] = field(default_factory=versions)


@checked
def eigendecompose_to_folder(
    tensor: BilinearTensor,
    u: Float[Tensor, "n d_out"],
    folder: Path,
    k: int,
    *,
    method: Method = "auto",
    tolerance: float | None = None,
    seed: int = 0,
    part_size: int = PART_SIZE,
    resume: bool = False,
    about: dict[str, Any] | None = None,
) -> None:
    """Writes the k largest eigenpairs of each direction to a folder; `load_decomposition` reads them.

    The numbers are those of `eigendecompose`. With `resume` a folder that a killed run left behind is
    finished: parts that are there stay, and an InputError names the settings that are not the same.
    `about` is kept in settings.json for readers and compared with nothing.

    The processes of a torch.distributed group share the parts, in a folder that all of them see. Parts that
    are done stay when one of them is killed; any number of processes finishes the run with `resume`.
    """
    tolerance = default_tolerance(tensor.dtype) if tolerance is None else tolerance
    require_decomposable(tensor, u, k, method, tolerance, seed)
    if u.ndim != 2:
        raise InputError(f"output directions of shape {list(u.shape)}; expected [n, {tensor.d_out}]")
    got, expected = f"{len(u)} output directions in parts of {part_size}", "at least one in each"
    require_count(len(u), got, expected)
    require_count(part_size, got, expected)
    run = EigenRun(
        axes=[len(u)],
        part_size=part_size,
        k=k,
        method=method,
        tolerance=tolerance,
        seed=seed,
        d_in=tensor.d_in,
        d_mlp=tensor.d_mlp,
        d_out=tensor.d_out,
        dtype=str(tensor.dtype).removeprefix("torch."),
        device=tensor.device.type,
        tensor_sha256=_sha256(tensor.W_gate, tensor.W_in, tensor.W_out),
        directions_sha256=_sha256(u),
    )
    missing = _begun(folder, run, about or {}, resume, tensor, u)
    with together() as worker:
        own = missing[worker.rank :: worker.world]
        done = len(u) - _n_directions(missing, run)
        total, hidden = done + _n_directions(own, run), worker.rank > 0
        with tqdm(total=total, desc="eigenvectors", unit="direction", disable=hidden) as bar:
            bar.update(done)
            for index in own:
                directions = u[index * part_size :][:part_size]
                eigen = eigendecompose(tensor, directions, k, method=method, tolerance=tolerance, seed=seed)
                with _full_disk(folder, shared=worker.world > 1):
                    write_part(folder, index, eigen)
                bar.update(len(directions))


def _begun(
    folder: Path, run: EigenRun, about: dict[str, Any], resume: bool, tensor: BilinearTensor, u: Tensor
) -> list[int]:
    """The parts that are missing in the folder of the run, which the first of several processes prepares."""
    missing: list[int] = []
    with together() as worker:
        if not worker.rank:
            _begin(folder, run, about, resume)
            _require_own_parts(folder, run, tensor, u)
            parts = range(n_parts(len(u), run.part_size))
            missing = [index for index in parts if not part_path(folder, index).exists()]
    with together():
        if worker.rank:
            _require_same(folder, run)
    return [int(index) for index in gather_texts(map(str, missing))]


def _n_directions(parts: list[int], run: EigenRun) -> int:
    return sum(min(run.part_size, run.axes[0] - index * run.part_size) for index in parts)


@contextmanager
def _full_disk(folder: Path, shared: bool) -> Iterator[None]:
    """Where a part cannot be written: parts stay, to be resumed; a folder of settings alone goes."""
    try:
        yield
    except InputError as error:
        if shared or [path.name for path in folder.iterdir()] != [SETTINGS]:
            raise InputError(f"{error}, or make room and finish this one with resume (--resume)") from error
        (folder / SETTINGS).unlink()
        folder.rmdir()
        raise


def _begin(folder: Path, run: EigenRun, about: dict[str, Any], resume: bool) -> None:
    """A folder with the run's settings in it: new, or the one to resume, which must have the same."""
    if not resume:
        require_unbegun(folder)
    if folder.is_dir():
        _remove_drafts(folder)
    if (folder / SETTINGS).exists():
        _require_same(folder, run)
    else:
        require_new(folder)
        write_json(folder / SETTINGS, asdict(run) | {"about": about})


def require_unbegun(folder: Path) -> None:
    """Raises InputError unless `folder` is absent or empty; one in which a run began can be resumed."""
    if is_file(folder / SETTINGS):
        raise InputError(
            f"{folder}: exists already, with a run in it; finish that one with resume (--resume), choose "
            "another folder or delete it"
        )
    require_new(folder)


def _require_own_parts(folder: Path, run: EigenRun, tensor: BilinearTensor, u: Tensor) -> None:
    """Raises InputError for a part that is there and is not what this run writes.

    The first direction of each part is checked: the eigenpairs of another layer or direction do not fit.
    """
    shape, n = {"k": run.k, "d_in": run.d_in, "dtype": run.dtype}, run.axes[0]
    known = [part_path(folder, index) for index in range(n_parts(n, run.part_size))]
    for path in sorted(folder.glob("part-*.safetensors")):
        if path not in known:
            raise InputError(f"{path}: not a part of this run, which has {len(known)}; delete it and resume")
        index = known.index(path)
        start = index * run.part_size
        part = read_part(folder, index, min(run.part_size, n - start), shape)
        values, vectors = part.values[0].to(u), part.vectors[0].to(u)  # [k], [k, d_in]
        errors = vectors @ tensor.interaction_matrix(u[start]) - values.unsqueeze(-1) * vectors
        if not norms(errors, -1).max() <= FOREIGN * values[0].abs():
            raise InputError(
                f"{path}: its vectors are no eigenvectors of this layer along direction {start}; it belongs "
                "to another run, delete it and resume"
            )


def _remove_drafts(folder: Path) -> None:
    """Files that a kill left half-written."""
    for name in (SETTINGS, "part-"):
        for draft in folder.glob(f".{name}*"):
            draft.unlink()


def _require_same(folder: Path, run: EigenRun) -> None:
    before, now = read_json(folder / SETTINGS), asdict(run)
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        changes = "; ".join(f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in differing)
        raise InputError(
            f"{folder}: cannot be resumed with other settings ({changes}); give the same ones, or choose "
            "another folder"
        )


def _sha256(*tensors: Tensor) -> str:
    """Hash of the numbers, on whatever device, and of their shapes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(list(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
