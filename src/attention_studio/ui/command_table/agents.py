"""Commands: agents that say what features mean."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import (
    always,
    can_ask,
    can_explain,
    has_agent_runs,
    has_graph,
    training_hinders,
)

_MENU = "Circuits/Agents"

AGENTS: tuple[Command, ...] = (
    Command("agents.explain", "Explain this feature",
            "Say in a few words what the feature that is looked at stands for, with evidence and "
            "scores on texts that nobody has seen", "agents.explain", _MENU, "Ctrl+Alt+E",
            can_explain, "agents", separator=True, hindered=training_hinders),
    Command("agents.score", "Score this explanation",
            "Hold the explanation that you typed against texts on which the feature fires and is "
            "silent", "agents.score", _MENU, "", can_explain, "verify",
            hindered=training_hinders),
    Command("agents.type", "Type an explanation…",
            "Say what the feature stands for in words of your own, to have them scored",
            "agents.type_explanation", _MENU, "", can_explain, "pencil"),
    Command("agents.estimate", "Estimate what explaining takes",
            "Count the questions and tokens that explaining this feature takes at most; no model "
            "is asked", "agents.estimate", _MENU, "", can_explain, "info",
            hindered=training_hinders),
    Command("agents.describe", "Describe this circuit",
            "Tell how the open graph comes to its answer, in sentences that are held against the "
            "graph and against interventions; what does not hold is struck", "agents.describe",
            _MENU, "Ctrl+Alt+D", has_graph, "agents", hindered=training_hinders),
    Command("agents.estimate_story", "Estimate what describing takes",
            "Count the questions and tokens that describing this circuit takes, and time an "
            "intervention; no model is asked", "agents.estimate_story", _MENU, "", has_graph,
            "info", hindered=training_hinders),
    Command("agents.ask", "Ask about this workspace",
            "Have a model answer the question that you typed, with tools that look at what is "
            "open; without a question, go to its field", "agents.ask", _MENU, "Ctrl+Alt+Q",
            can_ask, "agents"),
    Command("agents.accept", "Accept the proposed change",
            "Make the change that is chosen among those that the model proposed; can be undone",
            "agents.accept", _MENU, "", has_agent_runs, "check"),
    Command("agents.use_supernodes", "Use the story's supernodes",
            "Group the nodes of the open graph as the shown story does; can be undone",
            "agents.use_supernodes", _MENU, "", has_graph, "group"),
    Command("agents.stop", "Stop the agent",
            "Stop what an agent does; what was said until then is kept", "agents.stop", _MENU, "",
            always, "stop"),
    Command("agents.use_label", "Use as label",
            "Call the feature what the shown explanation calls it; can be undone",
            "agents.use_label", _MENU, "", has_agent_runs, "check"),
    Command("agents.transcript", "Show the transcript",
            "Show all that was asked and answered in the run that is shown",
            "agents.show_transcript", _MENU, "", has_agent_runs, "log", separator=True),
    Command("agents.save_transcript", "Save the transcript…",
            "Write the transcript of the run that is shown as JSON; a run can be done again from "
            "it without a model", "agents.save_transcript", _MENU, "", has_agent_runs, "save"),
    Command("agents.delete_run", "Delete this run",
            "Throw the run that is shown away, with its transcript; can be undone",
            "agents.delete_run", _MENU, "", has_agent_runs, "trash"),
)  # fmt: skip
