"""What nodes are called in sentences: in the history, in lists of notes, in messages.

Made from a node's name alone, so that it can be said of nodes that a graph no longer has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.graph_notes import GraphNotes

_OTHERS = re.compile(r"(?:([LA][0-9]+)/)?P([0-9]+)/(error|token|logit)(?:/([0-9-]+))?")


def node_words(name: str, notes: GraphNotes, tokens: Sequence[str] = ()) -> str:
    """A node in words: ``capital (L12 #1043 at “Dallas”)``, ``L3 #7 at position 2``.

    A name that nobody gives (of a feature without a position, or of nothing) is left as it is, but
    for its label.

    Args:
        name: as ``AttributionGraph.node_name`` has it.
        notes: where labels are.
        tokens: of the prompt; without them positions are numbers.
    """

    def place(position: int) -> str:
        token = tokens[position].strip() if position < len(tokens) else ""
        return f"“{token}”" if token and token.isprintable() else f"position {position}"

    found = FeatureName.read(name)
    if found is not None and isinstance(found.position, int):
        words = f"{found.site.label} #{found.latent} at {place(found.position)}"
        label = notes.label_of(name)
        return f"{label} ({words})" if label else words
    other = _OTHERS.fullmatch(name)
    if other is None:
        return name
    module, position, kind, index = other.groups()
    if kind == "error":
        return f"{module} error at {place(int(position))}"
    if kind == "token":
        return f"token {place(int(position))}"
    return f"output {index}"
