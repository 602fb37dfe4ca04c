"""Which chat model agents ask: the endpoint where one is set, else the model in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Optional

from attention_studio.agents.backends.records import Backend
from attention_studio.utils.config import Settings

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

Kind = Literal["auto", "endpoint", "local"]


def choose_backend(
    settings: Settings, kind: Kind = "auto", loaded: Optional[LoadedModel] = None
) -> Backend:
    """The chat model to ask. Nothing is asked, opened or loaded yet, but torch may be imported: the
    window calls this on a lane.

    Args:
        settings: which endpoint, which model.
        kind: ``auto`` takes the endpoint where its address is set and the studio is not offline.
        loaded: the model in memory, which is shared if it is the one that agents ask.

    Raises:
        BackendError: ``endpoint``, and the settings name none or none of its models.
    """
    online = settings.agent_url is not None and not settings.offline
    if kind == "endpoint" or (kind == "auto" and online):
        from attention_studio.agents.backends.openai_compatible import OpenAICompatible

        return OpenAICompatible.from_settings(settings)
    from attention_studio.agents.backends.local_chat import LocalChat

    return LocalChat.from_settings(settings, loaded)
