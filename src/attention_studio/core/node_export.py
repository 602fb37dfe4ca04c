"""Rows of the node table as text for spreadsheets."""

from __future__ import annotations

import math
from collections.abc import Iterable

from attention_studio.core.node_query import NodeView
from attention_studio.core.node_table import KIND_WORDS

HEADS = (
    "name", "kind", "node", "position", "token", "label", "remark", "group", "activation",
    "influence", "density", "probability",
)  # fmt: skip


def as_tsv(view: NodeView, rows: Iterable[int]) -> str:
    """Nodes as lines of tab-separated cells, a line of heads first; what is not known is empty.

    Tabs and line ends within a cell become spaces, so that every node stays on its line.
    """
    table = view.table
    lines = ["\t".join(HEADS)]
    for row in rows:
        position = int(table.position[row])
        density = float("nan") if view.density is None else float(view.density[row])
        cells = (
            table.names[row],
            KIND_WORDS[int(table.kind[row])],
            table.titles[row],
            str(position),
            table.tokens[position],
            view.labels[row],
            view.remarks[row],
            view.groups[row],
            _figure(float(table.activation[row])),
            _figure(float(table.influence[row])),
            _figure(density),
            _figure(float(table.probability[row])),
        )
        lines.append("\t".join(_clean(cell) for cell in cells))
    return "\n".join(lines) + "\n"


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _clean(text: str) -> str:
    return " ".join(text.replace("\t", " ").splitlines()) if text else ""
