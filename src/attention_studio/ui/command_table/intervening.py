"""Commands: interventions, verified edges and validated graphs."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import (
    can_add_chosen,
    can_add_selected,
    can_intervene,
    can_verify,
    has_runs,
    has_verified,
)

_MENU = "Circuits/Interventions"

INTERVENING: tuple[Command, ...] = (
    Command("intervene.add_selected", "Intervene on the selected node",
            "Add the selected feature or supernode to what an intervention changes",
            "intervene.add_selected", _MENU, "I", can_add_selected, "intervene",
            separator=True),
    Command("intervene.add_chosen", "Intervene on the chosen nodes",
            "Add the chosen features, as one group, to what an intervention changes",
            "intervene.add_chosen", _MENU, "Shift+I", can_add_chosen, "intervene"),
    Command("intervene.switch_off", "Switch off the selected node",
            "See at once what the model does without the selected feature or supernode",
            "intervene.switch_off", _MENU, "Ctrl+Shift+I", can_add_selected, "intervene"),
    Command("intervene.run", "Run intervention",
            "Change the features and see what the model does", "intervene.run", _MENU,
            "Ctrl+I", can_intervene, "play"),
    Command("intervene.clear", "New intervention", "Forget the changes and begin anew",
            "intervene.clear", _MENU, "", can_intervene),
    Command("intervene.show_effects", "Show what the intervention moved",
            "Mark in the graph which features became weaker and which stronger",
            "intervene.show_effects", _MENU, "", has_runs, "graph"),
    Command("intervene.open_run", "Open the marked intervention",
            "Show an intervention of the history again, with its settings",
            "intervene.open_run", _MENU, "", has_runs, "open"),
    Command("intervene.delete_run", "Delete the marked intervention",
            "Throw an intervention of the history away", "intervene.delete_run", _MENU, "",
            has_runs, "trash"),
    Command("intervene.verify", "Verify edges",
            "Take features out of the model, one at a time, and see whether the edges of the graph "
            "say what happens", "intervene.verify", _MENU, "Ctrl+Shift+V", can_verify,
            "verify", separator=True),
    Command("intervene.show_edges", "Show verified edges",
            "Mark in the graph which edges were confirmed and which refuted",
            "intervene.show_edges", _MENU, "", has_verified, "graph"),
    Command("intervene.validate", "Validate graph",
            "Take features out of the model, one at a time, and see how far what the graph "
            "predicts for the next tokens and for features downstream comes true",
            "intervene.validate", _MENU, "Ctrl+Alt+V", can_verify, "verify"),
)  # fmt: skip
