"""What a folder of another tool turned out to hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

from attention_studio.core.dictionaries.clt import CrossLayerTranscoder
from attention_studio.core.dictionaries.foreign.checked import UnsupportedDictionaryError
from attention_studio.core.dictionaries.foreign.hooks import HookPair, NormalizedHook, input_map
from attention_studio.core.dictionaries.foreign.weights import (
    Dictionary,
    read_layer_through,
    read_through,
)
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.sites import Site

Tool = Literal["circuit-tracer", "saelens", "sparsify", "llamascopium"]
TOOLS: tuple[Tool, ...] = ("circuit-tracer", "saelens", "sparsify", "llamascopium")


@dataclass(frozen=True)
class ForeignDictionary:
    """One dictionary of another tool. Its configuration was read; its weights are not yet.

    Attributes:
        path: its file or folder, for messages.
        hooks: where it reads and writes, once per module that it replaces.
        width: tells how many numbers it reads and writes (``d_model``), from configurations and
            headers.
        read: reads the weights into a folded dictionary of ours that computes what the tool's
            does, on the tool's inputs.
    """

    path: Path
    hooks: tuple[HookPair, ...]
    width: Callable[[], int]
    read: Callable[[], Dictionary]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The modules that it replaces, in the order of the forward pass."""
        return tuple(hook.site for hook in self.hooks)

    def load(
        self,
        adapter: Optional[ModelAdapter] = None,
        normalized: Optional[NormalizedHook] = None,
    ) -> Dictionary:
        """The dictionary on this program's inputs: after the norm, gain and bias applied.

        Args:
            adapter: the model; needed where the tool reads before the norm's gain.
            normalized: what ``hook_normalized`` meant, needed for models with LayerNorms.

        Raises:
            ForeignFormatError: its files are damaged; names file and tensor.
            UnsupportedDictionaryError: it is not of this model's shape, is larger than memory, or
                cannot be converted.
            UnfoldedDictionaryError: its training scales are missing.
        """
        if adapter is not None:
            self._check_width(adapter)
        maps = [input_map(self.path, hook, adapter, normalized) for hook in self.hooks]
        dictionary = self.read()
        for position, through in enumerate(maps):
            if through is None:
                continue
            if isinstance(dictionary, CrossLayerTranscoder):
                read_layer_through(dictionary, position, through)
            else:
                read_through(dictionary, through)
        return dictionary

    def _check_width(self, adapter: ModelAdapter) -> None:
        width = self.width()
        if width != adapter.d_model:
            raise UnsupportedDictionaryError(
                f"{self.path} is for another model",
                f"it reads {width} numbers, and the model's residual stream has {adapter.d_model}",
            )


@dataclass(frozen=True)
class ForeignDictionaries:
    """Everything in a folder of another tool.

    Attributes:
        tool: which tool's.
        folder: where.
        dictionaries: ascending by site; no site occurs twice.
        model_name: the model as the tool calls it, empty if it does not say.
    """

    tool: Tool
    folder: Path
    dictionaries: tuple[ForeignDictionary, ...]
    model_name: str

    @property
    def sites(self) -> tuple[Site, ...]:
        """All modules that have a dictionary, in the order of the forward pass."""
        return tuple(sorted(site for item in self.dictionaries for site in item.sites))
