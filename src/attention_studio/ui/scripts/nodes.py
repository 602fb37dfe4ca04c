"""Queries for nodes, as calls of the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attention_studio.ui.scripts.steps import Steps
    from attention_studio.ui.scripts.table import Source


def _find(steps: Steps, source: Source) -> None:
    session, script = source.session, steps.script
    noted = not session.notes.empty
    steps.need("graph", "pruned", *(("notes",) if noted else ()))
    find = script.use("attention_studio.core.node_query", "find_nodes")
    notes = ", notes" if noted else ""
    script.assign("found", f"{find}(graph, {session.query!r}, pruned{notes})")
    steps.show("found")


NODE_SCRIPTS: Mapping[str, Callable[[Steps, Source], None]] = {
    "nodes.query": _find,
    "nodes.highlight": _find,
    "nodes.copy": _find,
}
"""By id of the command: what the query finds. A density that was measured is not part of it."""
