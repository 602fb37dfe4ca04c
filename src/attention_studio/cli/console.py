"""What the headless commands share: what they report, progress, and opening models and CRMs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, TextIO, Union

from attention_studio.utils.config import Settings
from attention_studio.utils.errors import StudioError
from attention_studio.utils.paths import BUILT_IN_CRMS, crm_folder
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.corpus import TokenCorpus
    from attention_studio.core.model_manager import LoadedModel, ModelManager
    from attention_studio.core.replacement_model import CompleteReplacementModel

GIB = 1 << 30
_DEMO = "demo"


class UsageError(StudioError):
    """The words of a command do not fit together."""


@dataclass(frozen=True)
class Report:
    """What a command found: ``data`` for ``--json``, ``lines`` for people."""

    data: dict[str, Any]
    lines: list[str]


class ConsoleContext(WorkContext):
    """Progress on stderr: one line that is written over on a terminal, a line now and then else."""

    def __init__(self, quiet: bool) -> None:
        super().__init__()
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._last = 0.0
        self._text = ""
        self.on_cancel: Optional[Callable[[], None]] = None
        """Called by the first ``cancel`` in its stead, for work with an orderly end of its own."""

    def cancel(self) -> None:
        """Ask the work to end in good order if it can, else (or the second time) to stop."""
        if self.on_cancel is not None:
            orderly, self.on_cancel = self.on_cancel, None
            orderly()
        else:
            super().cancel()

    def progress(self, done: float, total: Optional[float], text: str = "") -> None:
        """Show progress, at most ten times a second on a terminal and every ten seconds else."""
        now = time.monotonic()
        stage = text.split(":", 1)[0]
        wait = 0.1 if self._terminal else 10.0
        if self._quiet or (now - self._last < wait and stage == self._text):
            return
        self._last, self._text = now, stage
        share = f" {100 * done / total:3.0f}%" if total else ""
        say(f"\r\033[K{text}{share}" if self._terminal else f"{text}{share}\n", sys.stderr)

    def finish(self) -> None:
        """Clear the progress line."""
        if self._terminal and self._text:
            say("\r\033[K", sys.stderr)


def say(text: str, stream: TextIO) -> None:
    """Write ``text`` and whatever waits to be written; nothing more once nobody reads the stream.

    A reader that has seen enough (``| head -1``) is no failure: the work goes on, and what it
    writes afterwards goes nowhere.
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # Python flushes once more as it ends, and what is buffered can only be written somewhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def model_manager(settings: Settings) -> ModelManager:
    """The manager of models, on the person's cache."""
    from attention_studio.core.model_manager import ModelManager

    return ModelManager(settings=settings)


def load_model(
    arguments: argparse.Namespace,
    settings: Settings,
    ctx: WorkContext,
    name: Optional[str] = None,
) -> LoadedModel:
    """The model ``name``, or the one that the arguments name."""
    from attention_studio.core.model_manager import ModelConfig

    config = ModelConfig(
        name=name or arguments.model,
        device=arguments.device or "auto",
        dtype=arguments.dtype or "auto",
        allow_remote_code=arguments.allow_remote_code,
    )
    return model_manager(settings).load_model_sync(config, ctx)


def open_crm(
    arguments: argparse.Namespace, loaded: LoadedModel, ctx: WorkContext
) -> CompleteReplacementModel:
    """The CRM that the arguments name, or that comes with the model, put to the model.

    Raises:
        UsageError: none is named and none comes with the model.
    """
    from attention_studio.core.replacement_model import CompleteReplacementModel

    name = arguments.crm or loaded.info.name
    if arguments.crm is None and name not in BUILT_IN_CRMS:
        raise UsageError(
            f"No replacement model comes with {name}", "", "name the folder of one with --crm"
        )
    return CompleteReplacementModel.from_folder(loaded, crm_folder(name), ctx)


def open_corpus(
    arguments: argparse.Namespace, loaded: LoadedModel, ctx: WorkContext
) -> TokenCorpus:
    """The text that the arguments name, or that the demo brings along.

    Raises:
        UsageError: none is named, and the model is not the demo's.
        CorpusError: it cannot be used.
        Cancelled: through ``ctx``.
    """
    if arguments.text:
        from attention_studio.core.corpus import build_corpus

        length = min(arguments.seq_len, loaded.info.context_length)
        return build_corpus(loaded, arguments.text, length, arguments.tokens, ctx=ctx)
    if loaded.info.name != _DEMO:
        raise UsageError("There is no text to read", "", "name some with --text")
    from attention_studio.demo.known_features import demo_corpus

    return demo_corpus(loaded, arguments.tokens)


def positive(text: str) -> int:
    """For argparse: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def not_negative(text: str) -> int:
    """For argparse: a whole number of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number


def token_words(text: str) -> Union[str, int]:
    """A token as a person gives it: its text, or its id behind a #."""
    is_id = text.startswith("#") and text[1:].isdecimal() and len(text) < 20
    return int(text[1:]) if is_id else text
