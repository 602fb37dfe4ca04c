"""What interventions and verified edges mark in the graph, and which report belongs to it. Knows no
Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from attention_studio.core.edge_checks import Verdict
from attention_studio.core.trace_circumstances import DictionariesId, dictionaries_of
from attention_studio.ui.highlight import Highlight, Role
from attention_studio.ui.text import count

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph
    from attention_studio.core.edge_checks import EdgeReport
    from attention_studio.core.intervention_runs import InterventionRun

MAX_MOVED = 60
"""Of the features that moved, so many are marked in the graph: more are a cloud."""
MAX_EDGES = 4_000
"""So many verified edges are marked, the weightiest: more can be neither drawn at once nor read."""


def moved_features(run: InterventionRun) -> Highlight:
    """The features that an intervention moved most: weaker ones were stronger in the first of the
    two passes, stronger ones are so in the second."""
    found = sorted(run.features, key=lambda change: -abs(change.change))
    moved = [change for change in found if change.change][:MAX_MOVED]
    nodes = {c.feature: Role.FIRST if c.change < 0 else Role.SECOND for c in moved}
    return Highlight(f"Weaker (1) and stronger (2) by: {run.plan}", nodes)


def verified_edges(report: EdgeReport, verdicts: tuple[Verdict, ...]) -> Highlight:
    """The edges that were confirmed and refuted; unclear ones step back with those that nobody
    verified."""
    edges: dict[tuple[str, str], Role] = {}
    roles = {Verdict.CONFIRMED: Role.CONFIRMED, Verdict.REFUTED: Role.REFUTED}
    for source, target, verdict in zip(report.source, report.target, verdicts, strict=True):
        role = roles.get(verdict)
        if role is not None:
            edges[source, target] = role
            if len(edges) == MAX_EDGES:
                break
    confirmed, refuted = map(verdicts.count, (Verdict.CONFIRMED, Verdict.REFUTED))
    title = f"Verified edges: {count(confirmed)} confirmed, {count(refuted)} refuted"
    return Highlight(title, edges=edges)


def with_report(
    records: tuple[dict[str, Any], ...], record: dict[str, Any]
) -> tuple[dict[str, Any], ...]:
    """Records of verified edges or validations with a new one, in the place of an older one of the
    same graph and reach."""

    def is_replaced(old: dict[str, Any]) -> bool:
        return old.get("reach") == record.get("reach") and _same_graph(old, record)

    return (*(old for old in records if not is_replaced(old)), record)


def latest_report(
    records: tuple[dict[str, Any], ...], graph: AttributionGraph
) -> Optional[dict[str, Any]]:
    """The newest record of a graph's verified edges, or of its validation."""
    crm = dictionaries_of(graph)
    wanted = {
        "prompt": graph.prompt,
        "model_hash": graph.model_hash,
        "crm_name": crm.name,
        "crm_fingerprint": crm.fingerprint,
    }
    return next((record for record in records[::-1] if _same_graph(record, wanted)), None)


def _same_graph(record: dict[str, Any], wanted: dict[str, Any]) -> bool:
    if any(record.get(key) != wanted[key] for key in ("prompt", "model_hash")):
        return False
    return _dictionaries(record).means(_dictionaries(wanted))


def _dictionaries(record: dict[str, Any]) -> DictionariesId:
    # Records of older versions have no fingerprint.
    return DictionariesId(str(record.get("crm_name")), str(record.get("crm_fingerprint") or ""))
