"""Interventions, verified edges and validated graphs, as calls of the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attention_studio.core.script_text import ScriptError
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from attention_studio.ui.scripts.steps import Steps
    from attention_studio.ui.scripts.table import Source

_CORE = "attention_studio.core"


def _run(steps: Steps, source: Source) -> None:
    try:
        plan = source.handler("intervene.run").asked_plan()
    except StudioError as error:
        raise ScriptError(error.what, error.why, error.todo) from None
    steps.need("crm")
    run = steps.script.use(f"{_CORE}.intervention_running", "run_plan")
    steps.script.assign("plan", steps.script.value(plan))
    steps.script.assign("run", f"{run}(crm, plan)")
    steps.show("run.next_tokens")


def _verify(steps: Steps, source: Source) -> None:
    from attention_studio.core.edge_verification import CONTROLS

    dock: Any = source.handler("intervene.verify")
    panel, script = dock.verify_panel, steps.script
    steps.need("crm", "graph", "pruned")
    choose = script.use(f"{_CORE}.edge_choice", "choose_edges")
    verify = script.use(f"{_CORE}.edge_verification", "verify_edges")
    nodes = script.value(dock.scope_nodes())
    script.assign(
        "choice",
        f"{choose}(graph, pruned, {panel.asked_scope!r}, {nodes}, {panel.limit.value()})",
    )
    script.assign("report", f"{verify}(crm, graph, choice, {panel.asked_reach!r}, {CONTROLS}, 0)")
    steps.show(f"report.agreement, report.verdicts({panel.share})")


def _validate(steps: Steps, source: Source) -> None:
    panel, script = source.handler("intervene.validate").validate_panel, steps.script
    steps.need("crm", "graph")
    validate = script.use(f"{_CORE}.validation", "validate")
    groups = panel.groups()
    with_groups = f", groups={script.value(groups)}" if groups else ""
    script.assign(
        "report",
        f"{validate}(crm, graph.prompt, {panel.samples.value()}, {panel.seed.value()}"
        f"{with_groups})",
    )
    steps.show("report.logits, report.features, report.control")


INTERVENTION_SCRIPTS: Mapping[str, Callable[[Steps, Source], None]] = {
    "intervene.run": _run,
    "intervene.switch_off": _run,
    "intervene.verify": _verify,
    "intervene.validate": _validate,
}
"""By id of the command. What is switched off at once is written as the form says it then."""
