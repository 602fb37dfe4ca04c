"""Fixtures that several files of unit tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph


@pytest.fixture(scope="session")
def graph() -> AttributionGraph:
    """The graph of a tiny model with transcoders. Tests change copies of it."""
    from attention_studio.core.graph_builder import GraphBuilder
    from tests.crms import replacement
    from tests.tiny import PROMPT

    return GraphBuilder(replacement()).build(PROMPT)
