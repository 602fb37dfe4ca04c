"""When a command makes sense, and what it must wait for: the predicates of the table."""

from __future__ import annotations

from attention_studio.core.graph_notes import feature_of
from attention_studio.core.trace_circumstances import made_by
from attention_studio.ui.session import Session


def always(_session: Session) -> bool:
    """A command that always makes sense."""
    return True


def has_model(session: Session) -> bool:
    """A model is loaded."""
    return session.model is not None


def has_crm(session: Session) -> bool:
    """A replacement model is open."""
    return session.crm is not None


def can_measure_density(session: Session) -> bool:
    """A replacement model is open, and no graph of another one is shown."""
    crm, graph = session.crm, session.graph
    return crm is not None and (graph is None or made_by(graph, crm))


def has_feature(session: Session) -> bool:
    """A feature is looked at."""
    return session.feature is not None


def can_explain(session: Session) -> bool:
    """A feature is looked at, and its replacement model is open."""
    return session.feature is not None and session.crm is not None


def can_ask(session: Session) -> bool:
    """There is something to ask about."""
    return session.crm is not None or session.graph is not None


def has_agent_runs(session: Session) -> bool:
    """Some agent has worked in this workspace."""
    return bool(session.records.get("agent_run"))


def has_store(session: Session) -> bool:
    """Dashboards of the open replacement model are open."""
    return session.store is not None


def can_trace(session: Session) -> bool:
    """There is a prompt, and a replacement model to trace it with."""
    return session.crm is not None and bool(session.prompt.strip())


def can_view_prompt(session: Session) -> bool:
    """There is a prompt, and a model to show it to."""
    return session.model is not None and bool(session.prompt.strip())


def has_graph(session: Session) -> bool:
    """There is a graph."""
    return session.graph is not None


def has_workspace(session: Session) -> bool:
    """A workspace is open."""
    return session.workspace is not None


def has_workspace_graphs(session: Session) -> bool:
    """There is a graph in the workspace to go to."""
    view = session.workspace
    return view is not None and any(entry.key != view.current for entry in view.graphs)


def can_pick(session: Session) -> bool:
    """There is a graph, and another one in the workspace."""
    return session.graph is not None and has_workspace_graphs(session)


def has_workspace_graph(session: Session) -> bool:
    """The graph that is shown is in the workspace."""
    return session.workspace is not None and bool(session.workspace.current)


def can_retrace(session: Session) -> bool:
    """There is a graph, and a replacement model to trace another with."""
    return session.graph is not None and session.crm is not None


def has_graph_node(session: Session) -> bool:
    """A node of the graph is selected."""
    return session.graph is not None and session.selection is not None


def has_target_nodes(session: Session) -> bool:
    """Nodes of the graph are chosen, or one is selected."""
    return session.graph is not None and bool(session.chosen or session.selection)


def has_pins(session: Session) -> bool:
    """Some node is pinned."""
    return bool(session.pinned)


def has_chosen(session: Session) -> bool:
    """Some nodes are chosen together."""
    return bool(session.chosen)


def has_highlight(session: Session) -> bool:
    """A view emphasises something in the graph."""
    return session.highlight is not None


def has_attention(session: Session) -> bool:
    """It is known where heads look."""
    return session.attention is not None


def has_lens(session: Session) -> bool:
    """The residual stream was read."""
    return session.lens is not None


def has_patches(session: Session) -> bool:
    """Something is patched in the residual stream."""
    return session.lens is not None and bool(session.patches.patches)


def has_comparison(session: Session) -> bool:
    """Replacement models were measured."""
    return session.comparison is not None


def can_train(session: Session) -> bool:
    """A model is loaded and no run uses it."""
    return session.model is not None and session.training is None


def nothing_hinders(_session: Session) -> str:
    """Nothing to wait for."""
    return ""


def training_hinders(session: Session) -> str:
    """Training steps with the model: it must neither be replaced nor let go of."""
    return "" if session.training is None else "Training uses the model: stop the run first"


def training_alive(session: Session) -> bool:
    """A run goes on, or waits."""
    return session.training in ("running", "paused")


def can_undo(session: Session) -> bool:
    """There is something to take back."""
    return session.undo_stack.canUndo()


def can_redo(session: Session) -> bool:
    """There is something to make again."""
    return session.undo_stack.canRedo()


def has_graph_of_model(session: Session) -> bool:
    """There is a graph, and the model that is loaded is the one that it was traced in."""
    info, graph = session.model_info, session.graph
    return info is not None and graph is not None and graph.model_hash == info.weights_hash


def can_intervene(session: Session) -> bool:
    """There is a replacement model, and a prompt or a graph of one."""
    return session.crm is not None and (session.graph is not None or bool(session.prompt.strip()))


def can_add_selected(session: Session) -> bool:
    """A feature or a supernode is selected, and there is a replacement model to change it in."""
    name = session.selection
    if session.crm is None or name is None:
        return False
    return feature_of(name) is not None or session.notes.supernode(name) is not None


def can_add_chosen(session: Session) -> bool:
    """Features are chosen, and there is a replacement model to change them in."""
    return session.crm is not None and any(feature_of(name) for name in session.chosen)


def can_verify(session: Session) -> bool:
    """There is a graph, and the replacement model that it was traced with."""
    crm, graph = session.crm, session.graph
    if crm is None or graph is None or session.pruned is None:
        return False
    return made_by(graph, crm)


def has_runs(session: Session) -> bool:
    """Interventions were run."""
    return bool(session.records.get("intervention"))


def has_verified(session: Session) -> bool:
    """Edges were verified."""
    return bool(session.records.get("verification"))


def has_focused_group(session: Session) -> bool:
    """A supernode is selected, or a node of one, or only nodes of one are chosen."""
    return session.notes.focused_group(session.selection, session.chosen) is not None


def can_group(session: Session) -> bool:
    """At least two nodes are chosen."""
    return session.graph is not None and len(session.chosen) >= 2


def can_rename(session: Session) -> bool:
    """A supernode or a pinned feature is selected."""
    name = session.selection
    feature = name is not None and name in session.pinned and feature_of(name) is not None
    return feature or has_focused_group(session)


def can_take_out(session: Session) -> bool:
    """A node of a supernode is selected."""
    name = session.selection
    return name is not None and session.notes.supernode_of(name) is not None


def has_pinned_target(session: Session) -> bool:
    """Something of the subgraph is selected or chosen."""
    pinned = set(session.pinned)
    names = (session.selection, *session.chosen)
    return has_focused_group(session) or any(name in pinned for name in names)


def has_places(session: Session) -> bool:
    """Boxes of the subgraph were put somewhere by hand."""
    return bool(session.notes.places)
