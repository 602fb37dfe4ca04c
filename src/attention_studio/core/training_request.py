"""How a training run was asked for, kept beside its checkpoints, so that anyone can go on with it.

The window and the headless command make the same request, write the same ``run.json`` and build
the trainer by the same function: a run that one of them began, the other can resume. No torch
here, so that the window can make requests before torch is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pydantic import ValidationError

from attention_studio.core.training_config import TrainConfig, TrainSettingsError
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import (
    FileReadError,
    explain_write_errors,
    read_json,
    write_json_atomic,
)
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.corpus import TokenCorpus
    from attention_studio.core.crm_trainer import CRMTrainer
    from attention_studio.core.distributed import Peers
    from attention_studio.core.loaded_model import LoadedModel

RUN_FILE = "run.json"
_MAX_RUN_BYTES = 1 << 20


class RunFileError(StudioError):
    """A folder does not say how its training run was set up."""


@dataclass(frozen=True)
class TrainRequest:
    """What someone asks to be trained.

    Attributes:
        model: the model's name, as it is loaded by; empty if it was made in memory.
        sources, heldout_sources: files, folders, ``hub:OWNER/NAME`` or ``samples:N``; without
            held-out sources a part of the others is set aside.
        settings: fields of ``TrainConfig`` by name; the others keep their defaults.
        out_dir: becomes the CRM's folder.
        resume: go on from the last checkpoint in ``out_dir``.
    """

    model: str
    sources: tuple[str, ...]
    heldout_sources: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...]
    out_dir: Path
    resume: bool = False

    def config(self) -> TrainConfig:
        """The settings, checked.

        Raises:
            TrainSettingsError: names the field.
        """
        return train_config(dict(self.settings))

    def write(self) -> None:
        """Write ``run.json``, sources as absolute paths.

        Raises:
            FileWriteError: the disk is full, the folder is read-only, and the like.
        """
        with explain_write_errors(self.out_dir):
            self.out_dir.mkdir(parents=True, exist_ok=True)
        write_json_atomic(
            self.out_dir / RUN_FILE,
            {
                "model": _absolute(self.model),
                "sources": [_absolute(source) for source in self.sources],
                "heldout_sources": [_absolute(source) for source in self.heldout_sources],
                # All of them, so that another version's defaults cannot change the run.
                "settings": self.config().model_dump(mode="json"),
            },
        )


def read_request(folder: Path) -> TrainRequest:
    """How the run in ``folder`` was set up, as a request to resume it.

    Raises:
        RunFileError: the folder holds no run, or its description is damaged.
    """
    path = Path(folder) / RUN_FILE
    try:
        stored = read_json(path, _MAX_RUN_BYTES)
    except FileReadError as error:
        raise RunFileError(
            f"{folder} holds no run that can be resumed",
            str(error),
            "Choose the folder that an unfinished run was writing to",
        ) from error
    try:
        settings = {
            str(name): tuple(value) if isinstance(value, list) else value
            for name, value in dict(stored["settings"]).items()
        }
        return TrainRequest(
            model=str(stored["model"]),
            sources=tuple(str(source) for source in stored["sources"]),
            heldout_sources=tuple(str(source) for source in stored["heldout_sources"]),
            settings=tuple(settings.items()),
            out_dir=Path(folder),
            resume=True,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunFileError(
            f"{path} is damaged",
            f"{type(error).__name__}: {error}",
            "Give the model, the text and the settings again, together with the wish to resume",
        ) from error


def train_config(settings: Mapping[str, Any]) -> TrainConfig:
    """Settings by name, checked.

    Raises:
        TrainSettingsError: names the field and what is wrong with it.
    """
    try:
        return TrainConfig(**settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise TrainSettingsError(
            "These training settings do not go together",
            f"{field}: {message}" if field else message,
        ) from None


def prepare_training(
    loaded: LoadedModel,
    request: TrainRequest,
    max_ram_gb: Optional[float] = None,
    ctx: Optional[WorkContext] = None,
    peers: Optional[Peers] = None,
) -> CRMTrainer:
    """Read the texts, make the trainer, and write down the request beside what it will make.

    With ``peers`` each process does so, and the first one writes.

    Raises:
        CorpusError: there is no text, or too little.
        TrainSettingsError: the settings do not fit together, or not the model.
        ExistingRunError, ResumeMismatchError, CheckpointError, TrainingMemoryError: see
            ``CRMTrainer``.
        Cancelled: through ``ctx``.
    """
    from attention_studio.core.crm_trainer import CRMTrainer

    config = request.config()
    if ctx is not None:
        ctx.progress(0, None, "Reading the text")
    fetched = any(s.startswith("hub:") for s in (*request.sources, *request.heldout_sources))
    with peers.first_of_the_machine() if peers is not None and fetched else nullcontext():
        corpus, heldout = _texts(loaded, request, config, ctx)
    if ctx is not None:
        ctx.check()
    trainer = CRMTrainer(
        loaded,
        corpus,
        heldout,
        config,
        request.out_dir,
        resume=request.resume,
        max_ram_gb=max_ram_gb,
        peers=peers,
    )
    with ExitStack() as undo:
        undo.callback(trainer.close)
        if peers is None or peers.is_first:
            replace(request, model=request.model or loaded.info.name).write()
        undo.pop_all()
    return trainer


def _texts(
    loaded: LoadedModel, request: TrainRequest, config: TrainConfig, ctx: Optional[WorkContext]
) -> tuple[TokenCorpus, TokenCorpus]:
    """The text to train on and the held-out text."""
    from attention_studio.core.corpus import CorpusError, build_corpus, split_corpus

    if not request.sources:
        raise CorpusError(
            "There is no text to train on",
            "",
            "Add files or a folder, or let the model write samples",
        )
    # A little more than one pass needs, so that held-out text can be set aside.
    enough = config.tokens + 2 * config.heldout_tokens
    corpus = build_corpus(loaded, request.sources, config.seq_len, enough, config.seed, ctx)
    if not request.heldout_sources:
        return split_corpus(corpus, config.heldout_tokens, config.seed)
    heldout = build_corpus(
        loaded, request.heldout_sources, config.seq_len, 2 * config.heldout_tokens, config.seed, ctx
    )
    return corpus, heldout


def _absolute(source: str) -> str:
    """A path that stays right in another working directory; names of other kinds as they are."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
