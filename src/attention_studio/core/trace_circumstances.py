"""What a graph was made with: versions, number format, device, dictionaries.

Kept with the graph, so that one traced again elsewhere can be told apart by more than its edges;
and whether a replacement model is the one that a graph was made with.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import attention_studio

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.replacement_model import CompleteReplacementModel

_LIBRARIES = ("torch", "transformers", "numpy")
MAX_CIRCUMSTANCES = 100
MAX_TEXT = 1_000


class DictionariesId(NamedTuple):
    """What tells the dictionaries of one replacement model from those of another.

    Attributes:
        name: what they go by, such as the name of their folder. Two may have the same one.
        fingerprint: identifies their weights, see ``CRMManifest.fingerprint``; "": not known.
    """

    name: str
    fingerprint: str = ""

    def means(self, other: DictionariesId) -> bool:
        """Whether both are the same dictionaries: where both fingerprints are known these alone
        tell, whatever the names are. Where one is not known (files of older versions and of other
        tools, dictionaries that never were in a folder) the names do, as there is nothing else."""
        if self.fingerprint and other.fingerprint:
            return self.fingerprint == other.fingerprint
        return self.name == other.name


def dictionaries_of(graph: AttributionGraph) -> DictionariesId:
    """The dictionaries that a graph was made with, as far as it tells."""
    return DictionariesId(graph.crm_name, graph.made_with.get("dictionaries", ""))


def is_about(
    graph: Optional[AttributionGraph], prompt: str, model_hash: str, dictionaries: DictionariesId
) -> bool:
    """Whether what was found out about a prompt, a model's weights and dictionaries is about what
    a graph shows."""
    if graph is None or (graph.prompt, graph.model_hash) != (prompt, model_hash):
        return False
    return dictionaries_of(graph).means(dictionaries)


def made_by(graph: AttributionGraph, crm: CompleteReplacementModel) -> bool:
    """Whether a replacement model is the one that a graph was made with: the same weights of the
    model, and the same dictionaries (``DictionariesId.means``). A graph that does not say of which
    weights it is was made by none that is known."""
    same_model = graph.model_hash == crm.loaded.info.weights_hash
    return same_model and dictionaries_of(graph).means(crm.dictionaries_id)


def circumstances(replacement: CompleteReplacementModel) -> dict[str, str]:
    """What graphs are made with now, by name.

    ``dictionaries`` identifies the dictionaries' weights (``CRMManifest.fingerprint``), "" for
    those that never were in a folder; ``dtype`` and ``device`` are those of the loaded model;
    ``threads`` are torch's, on which the order of sums depends.
    """
    import torch

    info = replacement.loaded.info
    return {
        "dictionaries": replacement.fingerprint,
        "dtype": info.dtype,
        "device": info.device,
        "threads": str(torch.get_num_threads()),
        **versions(),
        "system": f"{platform.system()} {platform.machine()}",
    }


@lru_cache(maxsize=1)
def versions() -> Mapping[str, str]:
    """Versions of the studio, of the libraries that numbers depend on, and of Python, by name."""
    found = {name: _version(name) for name in _LIBRARIES}
    told = {"attention-studio": attention_studio.__version__, **found}
    return MappingProxyType({**told, "python": platform.python_version()})


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # as of a library that was put beside us by hand
        return "unknown"


def read_circumstances(value: Any) -> dict[str, str]:
    """What a file says a graph was made with.

    Raises:
        ValueError: it is no mapping of short texts.
    """
    if not isinstance(value, dict) or len(value) > MAX_CIRCUMSTANCES:
        raise ValueError("what the graph was made with is no short list")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError("what the graph was made with is no text")
        if max(len(name), len(text)) > MAX_TEXT:
            raise ValueError("what the graph was made with is too long")
    return dict(value)
