"""Checkpoints of a training run: written whole or not at all, and checked before they are used.

    checkpoints/step_00000050/state.json           settings, position, history, hashes
    checkpoints/step_00000050/mlp_00.safetensors   weights, Adam's moments, silence counters

There is no generator to save: every random draw of a run is a function of the seed and of a
counter (the layer, the pass over the text, the block), so the position says it all.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from attention_studio.core.distributed import Peers
from attention_studio.core.sites import Site
from attention_studio.core.training_config import RESULT_FREE_FIELDS
from attention_studio.core.training_events import SiteMetrics
from attention_studio.core.training_modules import TrainedModule
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import (
    FileReadError,
    atomic_folder,
    explain_write_errors,
    read_json,
    remove_leftovers,
    sha256_file,
    write_json_atomic,
)
from attention_studio.utils.progress import WorkContext

CHECKPOINT_FOLDER = "checkpoints"
_STATE_NAME = "state.json"
_FORMAT_VERSION = 2
_NAME = re.compile(r"step_(\d{8,})")
_MAX_STATE_BYTES = 256 << 20


class CheckpointError(StudioError):
    """A checkpoint is damaged; names the file and what is wrong with it."""


class ResumeMismatchError(StudioError):
    """A run would be resumed with other settings, another text or another model."""


@dataclass
class Progress:
    """How far a run is, apart from its weights.

    Attributes:
        step: batches done.
        tokens: activations trained on, per layer.
        block, batch: the next batch to train on: index of its block, and its place in there.
        affine_fvu: held-out FVU of the best affine map, by module.
        history: a row per module and evaluation.
        overall: of the last evaluation, with all modules spliced in: loss recovered and KL.
    """

    step: int = 0
    tokens: int = 0
    block: int = 0
    batch: int = 0
    affine_fvu: dict[Site, float] = field(default_factory=dict)
    history: list[SiteMetrics] = field(default_factory=list)
    overall: dict[str, Optional[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunIdentity:
    """What a run is of. A resumed run must have the same.

    ``settings`` are the JSON form of the ``TrainConfig``; ``sources`` name everything else that
    decides the weights (hashes of texts and model, the types of harvest and selection, the device).
    """

    settings: Mapping[str, Any]
    sources: Mapping[str, str]

    def check_same(self, settings: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
        """Compare with what a checkpoint or a manifest says.

        Raises:
            ResumeMismatchError: names the first field that differs, or a setting that was not there
                yet when the run was made.
        """
        ours = {k: v for k, v in self.settings.items() if k not in RESULT_FREE_FIELDS}
        for what, mine, theirs, names in (
            ("settings", ours, settings, ours.keys()),
            ("sources", self.sources, sources, {**self.sources, **sources}.keys()),
        ):
            for name in names:
                if what == "settings" and name not in theirs:
                    raise ResumeMismatchError(
                        "The run cannot be resumed: it was made by an older version",
                        f"that did not have the setting {name}",
                        "Finish it with that version, or train into another folder",
                    )
                if name not in mine or name not in theirs or theirs[name] != mine[name]:
                    raise ResumeMismatchError(
                        f"The run cannot be resumed: {_readable(name)} differs",
                        f"the run was started with {theirs.get(name)!r}, now it is "
                        f"{mine.get(name)!r}",
                        f"Resume with the {what} of the start, or train into another folder",
                    )


def write_checkpoint(
    out_dir: Path,
    identity: RunIdentity,
    progress: Progress,
    modules: Sequence[TrainedModule],
    ctx: Optional[WorkContext] = None,
    peers: Optional[Peers] = None,
) -> Path:
    """Write a checkpoint; the older ones go once it is complete.

    With ``peers`` each process writes its ``modules`` into the same folder, which all must see.

    Raises:
        FileWriteError: the disk is full, the folder is read-only, and the like; the older
            checkpoint is still there.
        Cancelled: through ``ctx``, between two files.
        LostProcessError: another process is gone; the older checkpoint is still there.
    """
    folder = out_dir / CHECKPOINT_FOLDER
    path = folder / f"step_{progress.step:08d}"
    if peers is not None and not peers.is_first:
        temporary = folder / str(peers.gather(None)[0])
        peers.gather(_write_files(temporary, modules, ctx))
        peers.barrier()  # the first process has published it
        return path
    remove_leftovers(folder, older_than_seconds=0)
    with atomic_folder(path) as temporary:
        if peers is not None:
            peers.gather(temporary.name)
        written = _write_files(temporary, modules, ctx)
        files: dict[str, str] = {}
        steps: dict[str, int] = {}
        for one in [written] if peers is None else peers.gather(written):
            files.update(one["files"])
            steps.update(one["optimizer_steps"])
        write_json_atomic(
            temporary / _STATE_NAME,
            {
                "format_version": _FORMAT_VERSION,
                "settings": dict(identity.settings),
                "sources": dict(identity.sources),
                "optimizer_steps": steps,
                "files": files,
                "progress": _written(progress),
            },
        )
    for old in _checkpoints(out_dir):
        if old != path:
            shutil.rmtree(old, ignore_errors=True)
    if peers is not None:
        peers.barrier()
    return path


def _write_files(
    folder: Path, modules: Sequence[TrainedModule], ctx: Optional[WorkContext]
) -> dict[str, dict[str, Any]]:
    """Write the tensors of ``modules``; returns what the checkpoint's description says of them."""
    if not folder.is_dir():
        raise CheckpointError(
            f"This process does not see the folder {folder}",
            "another process of the run has just made it",
            "Let all processes write to one folder that they share",
        )
    files: dict[str, str] = {}
    for i, module in enumerate(modules):
        if ctx is not None:
            ctx.check()
            ctx.progress(i, len(modules), "Writing a checkpoint")
        for stem, tensors in module.tensors().items():
            file = folder / f"{stem}.safetensors"
            contiguous = {name: t.contiguous().cpu() for name, t in tensors.items()}
            with explain_write_errors(file):
                safetensors.torch.save_file(contiguous, file)
            files[file.name] = sha256_file(file)
    return {"files": files, "optimizer_steps": {module.name: module.steps for module in modules}}


def latest_checkpoint(out_dir: Path) -> Optional[Path]:
    """The newest complete checkpoint of a run, or None."""
    found = _checkpoints(out_dir)
    return found[-1] if found else None


def remove_checkpoints(out_dir: Path) -> None:
    """Delete all checkpoints of a run."""
    shutil.rmtree(out_dir / CHECKPOINT_FOLDER, ignore_errors=True)


def read_identity(path: Path) -> RunIdentity:
    """Read of which run a checkpoint is.

    Raises:
        CheckpointError: it is damaged.
    """
    state = _read_state(path)
    return RunIdentity(state["settings"], state["sources"])


def read_progress(path: Path, identity: Optional[RunIdentity] = None) -> Progress:
    """Read how far a checkpoint is, after checking that it belongs to this run (None: to any).

    Raises:
        CheckpointError: it is damaged.
        ResumeMismatchError: it is of another run.
    """
    state = _read_state(path)
    if identity is not None:
        identity.check_same(state["settings"], state["sources"])
    content = state["progress"]
    try:
        return Progress(
            step=int(content["step"]),
            tokens=int(content["tokens"]),
            block=int(content["block"]),
            batch=int(content["batch"]),
            affine_fvu={
                site_named(name): float(fvu) for name, fvu in content["affine_fvu"].items()
            },
            history=[read_metrics(row) for row in content["history"]],
            overall=dict(content["overall"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path / _STATE_NAME, f"progress: {error}") from error


def read_modules(
    path: Path, modules: Sequence[TrainedModule], ctx: Optional[WorkContext] = None
) -> None:
    """Copy a checkpoint's tensors into ``modules``.

    Raises:
        CheckpointError: it is damaged.
        Cancelled: through ``ctx``, between two modules.
    """
    described = _read_state(path)
    for i, module in enumerate(modules):
        if ctx is not None:
            ctx.check()
            ctx.progress(i, len(modules), "Reading the checkpoint")
        for stem, targets in module.tensors().items():
            file = path / f"{stem}.safetensors"
            _restore(file, described["files"].get(file.name), targets)
        steps = described["optimizer_steps"].get(module.name)
        if not isinstance(steps, int):
            raise _damaged(path / _STATE_NAME, f"optimizer_steps has no {module.name}")
        module.steps = steps


def _restore(file: Path, sha256: Any, targets: Mapping[str, Tensor]) -> None:
    """Copy a file's tensors into ``targets``, one at a time: a file may be larger than memory."""
    if not file.is_file():
        raise _damaged(file, "it is missing")
    if sha256_file(file) != sha256:
        raise _damaged(file, "it is not the file that was saved")
    try:
        with safetensors.safe_open(file, framework="pt") as stream:
            names = set(stream.keys())
            for name, target in targets.items():
                source = stream.get_tensor(name) if name in names else None
                if source is None or source.shape != target.shape or source.dtype != target.dtype:
                    raise _damaged(file, f"tensor {name} is missing or of another shape")
                with torch.no_grad():
                    target.copy_(source)
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(file, str(error)) from error


def _written(progress: Progress) -> dict[str, Any]:
    """As JSON can hold it: modules by name."""
    content = asdict(progress)
    content["affine_fvu"] = {site.name: fvu for site, fvu in progress.affine_fvu.items()}
    content["history"] = [written_metrics(row) for row in progress.history]
    return content


def written_metrics(row: SiteMetrics) -> dict[str, Any]:
    """Held-out metrics as JSON can hold them."""
    return {**asdict(row), "site": row.site.name}


def read_metrics(row: Mapping[str, Any]) -> SiteMetrics:
    """The inverse of ``written_metrics``.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    return SiteMetrics(
        **{
            **row,
            "site": site_named(row["site"]),
            "density": tuple(row["density"]),
            "errors": tuple(row["errors"]),
        }
    )


def site_named(name: str) -> Site:
    """The inverse of ``Site.name``."""
    kind, _, layer = str(name).rpartition("_")
    if kind == "attention":
        return Site(int(layer), "attention")
    if kind == "mlp":
        return Site(int(layer), "mlp")
    raise ValueError(f"{name!r} is no module")


def _checkpoints(out_dir: Path) -> list[Path]:
    folder = out_dir / CHECKPOINT_FOLDER
    if not folder.is_dir():
        return []
    found = [
        (int(match.group(1)), entry)
        for entry in folder.iterdir()
        if (match := _NAME.fullmatch(entry.name)) and entry.is_dir()
    ]
    return [entry for _, entry in sorted(found)]


def _read_state(path: Path) -> dict[str, Any]:
    file = path / _STATE_NAME
    try:
        state = read_json(file, _MAX_STATE_BYTES)
    except FileReadError as error:
        raise CheckpointError(error.what, error.why, "Delete it and start over") from error
    if not isinstance(state, dict) or state.get("format_version") != _FORMAT_VERSION:
        raise _damaged(file, "it has no format_version that this program reads")
    for name in ("settings", "sources", "optimizer_steps", "files", "progress"):
        if not isinstance(state.get(name), dict):
            raise _damaged(file, f"{name} is missing")
    return state


def _damaged(file: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint file {file} cannot be used",
        why,
        "Delete the checkpoints folder to start the run over",
    )


def _readable(name: str) -> str:
    return f"the {name.replace('_', ' ')} ({name})"
