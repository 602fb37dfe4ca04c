"""Commands: training and evaluation."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.when import (
    always,
    can_train,
    can_view_prompt,
    has_comparison,
    has_model,
    training_alive,
)

TRAINING: tuple[Command, ...] = (
    Command("train.start", "Start training", "Train dictionaries with the settings of the Train "
            "dock", "train.start", "Train", "Ctrl+T", can_train, "train", True),
    Command("train.pause", "Pause or continue training",
            "Pause the training run, or let it go on", "train.toggle_pause", "Train",
            "Ctrl+Shift+T", training_alive, "pause"),
    Command("train.checkpoint", "Write a checkpoint now",
            "Write a checkpoint that the run can go on from", "train.checkpoint", "Train", "",
            training_alive, "save"),
    Command("train.stop", "Stop training", "Stop the run after a checkpoint", "train.stop",
            "Train", "", training_alive, "stop"),
    Command("train.open_checkpoint", "Open the run's checkpoint",
            "Write a checkpoint and open it as the replacement model, while training goes on",
            "checkpoints.open_newest", "Train", "Ctrl+Shift+K", training_alive, "open"),
    Command("train.trace_checkpoints", "Trace the prompt at each checkpoint",
            "Trace the prompt as it is now at every checkpoint of the run, to see the circuit come "
            "to be", "checkpoints.toggle_tracing", "Train", "", can_view_prompt, "graph",
            checkable=True),
    Command("train.compare", "Show the curves of a run…",
            "Choose the folder of a run and draw its curves, beside those that are shown",
            "train.compare_run", "Train", "", has_model, "plus"),
    Command("train.compare_none", "Show no other runs' curves",
            "Take away the curves of runs that were put beside", "train.compare_none", "Train", "",
            has_model, "close"),
    Command("train.resume", "Resume an unfinished run…",
            "Choose the folder of a run and go on where it stopped", "train.resume", "Train", "",
            can_train, "refresh", separator=True),
    Command("evaluate.show", "Evaluate replacement models…",
            "Choose replacement models, and text and prompts to measure them on",
            "train.show_evaluation", "Train", "Ctrl+Shift+E", always, "features",
            separator=True),
    Command("evaluate.run", "Start evaluation",
            "Measure the chosen replacement models on held-out text and prompts",
            "evaluate.start", "Train", "", has_model, "play"),
    Command("evaluate.export", "Export evaluation…",
            "Save what was measured as a table (CSV) or whole (JSON)", "evaluate.export", "Train",
            "", has_comparison, "download"),
)  # fmt: skip
