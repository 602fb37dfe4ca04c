"""A studio whose settings name an endpoint on this machine, scripted by the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from attention_studio.ui.app import Studio, build_studio
from attention_studio.utils.config import Settings
from tests.chat_server import ChatServer, serve_chat
from tests.ui.conftest import tear_down


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """The endpoint."""
    with serve_chat() as made:
        yield made


@pytest.fixture
def online(server: ChatServer, tmp_path: Path, qtbot: QtBot) -> Iterator[Studio]:
    """A studio whose settings name it, with a price."""
    settings = Settings(
        cache_dir=tmp_path / "cache", state_dir=tmp_path / "state", threads=1,
        agent_url=server.url, agent_model="scripted", agent_price_in=1.0, agent_price_out=2.0,
        agent_max_tokens=200_000,
    )  # fmt: skip
    made = build_studio(settings)
    with qtbot.waitExposed(made.window):
        made.window.show()
    yield made
    tear_down(made)
