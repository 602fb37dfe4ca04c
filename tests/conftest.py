"""Fixtures that several rooms share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from attention_studio.core.model_manager import LoadedModel


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    """The real SmolLM2-135M, from the user's own cache so that it is fetched once per machine."""
    from attention_studio.core.downloads import NetworkError
    from attention_studio.core.model_manager import ModelManager

    try:
        return ModelManager().load_model_sync("smollm2-135m")
    except NetworkError as error:
        pytest.skip(f"SmolLM2 is neither cached nor within reach: {error}")
