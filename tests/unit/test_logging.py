from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from pydantic import SecretStr

from attention_studio.utils.config import Settings
from attention_studio.utils.logging import (
    REDACTED,
    add_sink,
    configure_logging,
    redact,
    register_secret,
)

SECRET = "hf_aB3/+x secret"


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was written to stderr since the last call."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def settings_in(folder: Path, **values: Any) -> Settings:
    return Settings(_env_file=None, state_dir=folder, **values)  # type: ignore[call-arg]


def test_no_sink_sees_a_secret(tmp_path: Path, console: Callable[[], str]) -> None:
    path = configure_logging(settings_in(tmp_path, hf_token=SecretStr(SECRET)))
    assert path is not None
    seen: list[str] = []
    remove = add_sink(lambda level, line: seen.append(f"{level} {line}"))
    try:
        logger.info(f"token {SECRET} sent")
        logger.info("token {} sent", SECRET)
        logger.bind(token=SECRET).warning("bound")
        logging.getLogger("somewhere").warning("standard %s", SECRET)
        logger.info("https://hub/?t=hf_aB3%2F%2Bx%20secret")
        try:
            raise ValueError(f"cannot log in with {SECRET}")
        except ValueError as error:
            logger.exception("login failed")
            logger.opt(exception=error).error("again")
    finally:
        remove()
    for text in (path.read_text(encoding="utf-8"), console(), "\n".join(seen)):
        assert SECRET not in text
        assert "%2F%2Bx" not in text
        assert text.count(REDACTED) >= 6
        assert "ValueError: cannot log in with " + REDACTED in text
        assert "standard" in text
    count = len(seen)
    logger.info("after removal")
    assert len(seen) == count


def test_secret_registered_later(tmp_path: Path, console: Callable[[], str]) -> None:
    configure_logging(settings_in(tmp_path))
    register_secret("found-in-a-file")
    logger.info("x found-in-a-file y")
    assert f"x {REDACTED} y" in console()
    assert redact("found-in-a-file") == REDACTED


def test_level_and_repeated_configuration(tmp_path: Path, console: Callable[[], str]) -> None:
    configure_logging(settings_in(tmp_path, log_level="warning"))
    path = configure_logging(settings_in(tmp_path, log_level="warning"))
    assert path is not None
    logger.info("quiet")
    logger.warning("loud")
    for text in (console(), path.read_text(encoding="utf-8")):
        assert "quiet" not in text
        assert text.count("loud") == 1


def test_without_console(tmp_path: Path, console: Callable[[], str]) -> None:
    path = configure_logging(settings_in(tmp_path), console=False)
    logger.info("hello {braces} <tag>")
    assert console() == ""
    assert path is not None
    assert "hello {braces} <tag>" in path.read_text(encoding="utf-8")


def test_unwritable_folder_does_not_stop_the_studio(
    tmp_path: Path, console: Callable[[], str]
) -> None:
    (tmp_path / "file").write_text("")
    assert configure_logging(settings_in(tmp_path / "file")) is None
    assert "without a file" in console()
