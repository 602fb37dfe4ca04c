"""Logging through loguru: one rotating file, the console, and whoever else wants to listen.

Secrets are taken out in one place, before any sink sees a record: the patcher below rewrites the
message, the bound values and the traceback. So a sink that is added later is covered as well.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union
from urllib.parse import quote

from loguru import logger

from attention_studio.utils.config import Settings
from attention_studio.utils.files import explain_write_errors
from attention_studio.utils.paths import log_dir

if TYPE_CHECKING:
    from loguru import Message, Record

REDACTED = "[secret]"

_FILE_FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {name}:{line} {message}{extra[trace]}\n"
_CONSOLE_FORMAT = "<level>{level: <7}</level> {message}{extra[trace]}\n"

# Libraries that report every request or every file at INFO.
_CHATTY = tuple("httpx httpx2 httpcore httpcore2 urllib3 filelock asyncio matplotlib PIL".split())

_lock = threading.Lock()
_secrets: set[str] = set()
_sinks: list[int] = []


def register_secret(value: str) -> None:
    """Keep ``value`` (and its form in a web address) out of every log from now on."""
    if value:
        with _lock:
            _secrets.update((value, quote(value, safe="")))


def redact(text: str) -> str:
    """``text`` with every registered secret replaced."""
    with _lock:
        secrets = sorted(_secrets, key=len, reverse=True)
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text


def configure_logging(settings: Settings, console: bool = True) -> Optional[Path]:
    """Send logs to a rotating file below ``settings.state_dir`` and, if wanted, to stderr.

    May be called again; the sinks of the last call are replaced. Sinks of ``add_sink`` stay.
    Records of the standard ``logging`` module and warnings are routed here too.

    Returns:
        The log file, or None if its folder cannot be written (logging then goes on without it,
        since a read-only home must not keep the studio from starting).
    """
    from attention_studio.utils.files import FileWriteError

    for secret in settings.secrets():
        register_secret(secret)
    _remove_default_sink()
    stop_logging()
    logger.configure(patcher=_patch)
    if console and sys.stderr is not None:  # pythonw has none
        _sinks.append(
            logger.add(
                sys.stderr,
                level=settings.log_level,
                format=_console_format,
                diagnose=False,
                backtrace=False,
            )
        )
    path: Optional[Path] = log_dir(settings.state_dir) / "attention-studio.log"
    assert path is not None
    try:
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _sinks.append(
                logger.add(
                    path,
                    level=settings.log_level,
                    format=_file_format,
                    rotation="5 MB",
                    retention=5,
                    encoding="utf-8",
                    diagnose=False,
                    backtrace=False,
                )
            )
    except FileWriteError as error:
        logger.warning(f"Logging goes on without a file. {error}")
        path = None
    _route_standard_logging()
    return path


def stop_logging() -> None:
    """Take the console's and the file's sinks away. Sinks of ``add_sink`` stay."""
    while _sinks:
        logger.remove(_sinks.pop())


def add_sink(
    sink: Callable[[str, str], None], level: Union[str, int] = "INFO"
) -> Callable[[], None]:
    """Call ``sink(level_name, line)`` for every record, on the thread that logs.

    Returns:
        A function that takes the sink away again.
    """

    def write(message: Message) -> None:
        sink(message.record["level"].name, str(message).rstrip("\n"))

    logger.configure(patcher=_patch)
    number = logger.add(write, level=level, format=_file_format, diagnose=False, backtrace=False)

    def remove() -> None:
        logger.remove(number)

    return remove


def _remove_default_sink() -> None:
    # loguru starts with a sink numbered 0 that writes to stderr with variable values in
    # tracebacks. It is gone after the first call.
    try:
        logger.remove(0)
    except ValueError:
        return


def _patch(record: Record) -> None:
    record["message"] = redact(record["message"])
    extra: dict[Any, Any] = record["extra"]
    for key, value in list(extra.items()):
        if isinstance(value, str):
            extra[key] = redact(value)
    trace = ""
    caught = record["exception"]
    if caught is not None and caught.value is not None:
        lines = traceback.format_exception(caught.type, caught.value, caught.traceback)
        trace = "\n" + redact("".join(lines)).rstrip("\n")
        # Sinks would format the exception once more, from the raw values.
        record["exception"] = None
    extra["trace"] = trace


def _file_format(record: Record) -> str:
    del record  # a format function, unlike a string, keeps loguru from adding "{exception}"
    return _FILE_FORMAT


def _console_format(record: Record) -> str:
    del record
    return _CONSOLE_FORMAT


class _ToLoguru(logging.Handler):
    """Hands records of the standard library's logging to loguru, with the right origin."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: Union[str, int] = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        frame, depth = inspect.currentframe(), 0
        while frame is not None and (depth == 0 or frame.f_code.co_filename == logging.__file__):
            frame, depth = frame.f_back, depth + 1
        logger.opt(depth=depth, exception=record.exc_info).log(level, record.getMessage())


def _route_standard_logging() -> None:
    root = logging.getLogger()
    if not any(isinstance(handler, _ToLoguru) for handler in root.handlers):
        root.addHandler(_ToLoguru())
    if root.level in (logging.NOTSET, logging.WARNING):
        root.setLevel(logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
