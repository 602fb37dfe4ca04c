"""Commands: what the dictionaries miss."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import has_graph, has_graph_of_model, training_hinders

ERRORS: tuple[Command, ...] = (
    Command("errors.train", "Train what is missing",
            "Set the Train dock up for the modules that are chosen in the Errors dock, or for "
            "those that miss most", "errors.train_missing", "Circuits", "", has_graph_of_model,
            "train", separator=True, hindered=training_hinders),
    Command("errors.show", "Show errors in the graph",
            "Emphasise the errors of the modules that are chosen in the Errors dock",
            "errors.show_in_graph", "Circuits", "", has_graph, "graph"),
)  # fmt: skip
