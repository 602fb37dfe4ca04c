"""What a person takes over of what agents say: labels, supernodes, proposed changes.

Each is one step that can be undone. What cannot be taken over is said in a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.graph_notes import MAX_TEXT
from attention_studio.ui.feature_labels import FeatureLabelling, whose
from attention_studio.ui.feature_view import FeatureView
from attention_studio.ui.session_desk import graph_key
from attention_studio.ui.story_links import with_supernodes
from attention_studio.ui.widgets.message_bar import Message
from attention_studio.utils.errors import StudioError

if TYPE_CHECKING:
    from attention_studio.agents.circuit_story import Story
    from attention_studio.agents.explanations import FeatureVerdict
    from attention_studio.agents.proposals import GraphProposal
    from attention_studio.ui.jobs import JobRunner
    from attention_studio.ui.session import Session


def take_label(
    session: Session, runner: JobRunner, run: dict[str, Any], verdict: FeatureVerdict
) -> Optional[Message]:
    """Call the feature that ``run`` is about what the explanation calls it."""
    name = FeatureName.read(str(run.get("feature", "")))
    if name is None or not isinstance(name.latent, int):
        return None
    if run.get("crm") != whose(session):
        return Message(
            "warning", f"{name} is not a feature of what is open",
            "the run is about another replacement model", "Open that one first",
        )  # fmt: skip
    said = verdict.chosen.explanation
    text = " ".join((said.label or said.sentence).split())
    view = FeatureView(name.site, name.latent)
    labelling = FeatureLabelling.of(session, runner)
    if not text or not labelling.can_label(view):
        return Message(
            "warning", f"{view.name} cannot be given this label",
            "it is neither in the open graph nor in open dashboards",
            "Trace a prompt on which it fires, or build dashboards",
        )  # fmt: skip
    labelling.label(view, text[:MAX_TEXT])
    return None


def take_supernodes(session: Session, story: Optional[Story]) -> Optional[Message]:
    """Group the nodes of the open graph as a story does."""
    graph = session.graph
    if story is None or graph is None:
        return Message("info", "No story of this graph is shown", "", "Describe the circuit first")
    notes, count = with_supernodes(session.notes, story, graph)
    if count:
        session.set_notes(notes, f"Group {count} supernodes of a story")
    return None


def accept_proposal(session: Session, proposal: Optional[GraphProposal]) -> Optional[Message]:
    """Make a proposed change."""
    if proposal is None:
        return Message("info", "No change is proposed", "", "Let the model propose some")
    graph, said = session.graph, proposal.proposal
    if graph is None or proposal.graph != graph_key(session):
        return Message(
            "info", f"The change is for the graph {proposal.graph}", "another one is open",
            "Open it first, then accept",
        )  # fmt: skip
    gone = [node for node in said.nodes if not graph.has(node)]
    if gone:
        return Message("info", f"{gone[0]} is not in the graph any more", "", "Ask again")
    if said.made_in(session.notes):
        return None
    try:
        notes = said.applied(session.notes)
    except StudioError as error:
        return Message.of(error)
    words = f" “{said.text}”" if said.text else ""
    session.set_notes(notes, f"Accept: {said.kind} {said.nodes[0]}{words}")
    return None
