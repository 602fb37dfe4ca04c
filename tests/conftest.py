"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from attention_studio.utils.logging import stop_logging

if TYPE_CHECKING:
    from attention_studio.core.model_manager import LoadedModel


@pytest.fixture(autouse=True, scope="session")
def the_power_stays_on() -> Iterator[None]:
    """Tests kill processes, never the machine: nobody need wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def logging_ends_with_the_test() -> Iterator[None]:
    """A test that starts the program must not leave a sink on the console that pytest lent it."""
    yield
    stop_logging()


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    """The real SmolLM2-135M, from the user's own cache so that it is fetched once per machine."""
    from attention_studio.core.downloads import NetworkError
    from attention_studio.core.model_manager import ModelManager

    try:
        return ModelManager().load_model_sync("smollm2-135m")
    except NetworkError as error:
        pytest.skip(f"SmolLM2 is neither cached nor within reach: {error}")
