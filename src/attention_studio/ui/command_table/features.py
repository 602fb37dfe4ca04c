"""Commands: features one by one, and dashboards about all of them."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import (
    always,
    has_crm,
    has_feature,
    has_store,
    training_hinders,
)

_MENU = "Circuits/Features"

FEATURES: tuple[Command, ...] = (
    Command("features.search", "Search features…",
            "Look for features by their labels, by what they promote and by their texts",
            "features.focus_search", _MENU, "Ctrl+Alt+F", has_store, "search", separator=True),
    Command("features.next", "Next feature",
            "Show the next of the features that the list holds", "features.go_next", _MENU,
            "Alt+Right", has_store, "chevron-right"),
    Command("features.previous", "Previous feature",
            "Show the one before of the features that the list holds", "features.go_previous",
            _MENU, "Alt+Left", has_store, "chevron-left"),
    Command("features.random", "Random feature",
            "Show any of the features that the list holds", "features.go_random", _MENU,
            "Alt+R", has_store, "dice"),
    Command("features.label", "Label the feature that is shown",
            "Say what the feature means that the Features dock shows", "features.edit_label",
            _MENU, "Shift+L", has_feature, "pencil"),
    Command("features.try_text", "Try a text on the feature",
            "Type a text to see where the feature fires in it", "features.try_text", _MENU, "",
            has_feature, "prompt"),
    Command("features.compare", "Keep the feature beside",
            "Keep this feature on the right, to compare those with it that you look at next",
            "features.compare", _MENU, "Alt+B", has_feature, "compare"),
    Command("features.compare_none", "Keep no feature beside",
            "Show one feature again", "features.compare_none", _MENU, "", has_feature, "close"),
    Command("features.build", "Build dashboards…",
            "Gather pages about every feature of the replacement model over a text",
            "features.show_builder", _MENU, "", has_crm, "play", separator=True),
    Command("features.build_start", "Start building dashboards",
            "Gather the pages as the form says", "builder.start", _MENU, "", has_crm, "play",
            hindered=training_hinders),
    Command("features.open_store", "Open dashboards…",
            "Open a folder of dashboards that were built before", "stores.open", _MENU, "",
            always, "open"),
    Command("features.import_store", "Import dashboards…",
            "Make dashboards of pages that circuit-tracer, Neuronpedia or SAEDashboard wrote",
            "transfers.bring", _MENU, "", always, "open"),
    Command("features.export_tracer", "Export dashboards for circuit-tracer…",
            "Write the pages of all features as circuit-tracer's viewer reads them",
            "transfers.send_to_tracer", _MENU, "", has_store, "save"),
    Command("features.export_neuronpedia", "Export dashboards for Neuronpedia…",
            "Write the pages of all features in the batches that Neuronpedia takes",
            "transfers.send_to_neuronpedia", _MENU, "", has_store, "save"),
    Command("features.close_store", "Close dashboards",
            "Let go of the dashboards that are open", "stores.close", _MENU, "", has_store,
            "close"),
)  # fmt: skip
