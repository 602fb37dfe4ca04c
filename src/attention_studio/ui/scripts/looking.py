"""Attention, the logit lens, paths and comparisons, as calls of the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from attention_studio.core.script_text import ScriptError
from attention_studio.ui.work_paths import ANY_TOKEN

if TYPE_CHECKING:
    from attention_studio.ui.scripts.steps import Steps
    from attention_studio.ui.scripts.table import Source

_CORE = "attention_studio.core"


def _attention(steps: Steps, source: Source) -> None:
    session = source.session
    steps.need("model", *(("crm",) if session.crm_folder is not None else ()))
    view = steps.script.use(f"{_CORE}.attention_heads", "view_attention")
    crm = "crm" if session.crm_folder is not None else "None"
    steps.script.assign("attention", f"{view}(model, {session.prompt!r}, {crm})")
    steps.show("attention.tokens")


def _lens(steps: Steps, source: Source) -> None:
    steps.need("model")
    read = steps.script.use(f"{_CORE}.logit_lens", "read_lens")
    steps.script.assign("lens", f"{read}(model, {source.session.prompt!r})")
    steps.show("lens.tokens")


def _patches(steps: Steps, source: Source) -> None:
    patches = source.session.patches
    if not patches.patches:
        _lens(steps, source)
        return
    steps.need("model")
    apply = steps.script.use(f"{_CORE}.logit_lens", "apply_patches")
    steps.script.assign("patches", steps.script.value(patches))
    steps.script.assign("outcome", f"{apply}(model, patches)")
    steps.show("outcome")


def _paths(steps: Steps, source: Source) -> None:
    answer = source.handler("paths.find").answer
    if answer is None:
        raise ScriptError(
            "No paths were looked for yet",
            "the Paths dock does not say where they begin and end",
            "choose both, or let it find some first",
        )
    query, script = answer.query, steps.script
    steps.need("graph", "pruned")
    if query.source == ANY_TOKEN:
        numpy = script.use("numpy", "flatnonzero")
        kind = script.use(f"{_CORE}.attribution_graph", "NodeKind")
        script.assign("sources", f"{numpy}(graph.nodes.kind == {kind}.EMBEDDING).tolist()")
    else:
        script.assign("sources", f"[graph.find({query.source!r})]")
    script.assign("target", f"graph.find({query.target!r})")
    among = "pruned" if query.shown else "None"
    script.assign("found", f"graph.strongest_paths(sources, target, {query.k}, {among})")
    steps.show("[[graph.node_name(node) for node in path.nodes] for path in found.paths]")


def _rerun(steps: Steps, _source: Source) -> None:
    steps.need("crm")
    if steps.kept_graph() is None:
        steps.need("graph")
    else:
        steps.open_kept_graph()
    rerun = steps.script.use(f"{_CORE}.graph_rerun", "rerun_graph")
    steps.script.assign("rerun", f"{rerun}(graph, crm)")
    steps.show("rerun.comparison.to_json()")


LOOKING_SCRIPTS: Mapping[str, Callable[[Steps, Source], None]] = {
    "attention.look": _attention,
    "lens.read": _lens,
    "lens.put": _patches,
    "lens.remove": _patches,
    "lens.clear": _patches,
    "lens.reopen": _patches,
    "paths.find": _paths,
    "paths.from_selected": _paths,
    "paths.to_selected": _paths,
    "paths.show": _paths,
    "compare.rerun": _rerun,
}
"""By id of the command. What is patched is written as it is then."""
