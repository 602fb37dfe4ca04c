"""Every command of the studio, by area; ``COMMANDS`` has them in the order of the menus."""

from __future__ import annotations

from attention_studio.ui.command import Command
from attention_studio.ui.command_table.agents import AGENTS
from attention_studio.ui.command_table.attention import ATTENTION
from attention_studio.ui.command_table.circuits import CIRCUITS
from attention_studio.ui.command_table.comparing import COMPARING, PATHS
from attention_studio.ui.command_table.editing import EDITING
from attention_studio.ui.command_table.errors import ERRORS
from attention_studio.ui.command_table.features import FEATURES
from attention_studio.ui.command_table.figures import FIGURES
from attention_studio.ui.command_table.files import FILES, LEAVING
from attention_studio.ui.command_table.helping import HELPING
from attention_studio.ui.command_table.intervening import INTERVENING
from attention_studio.ui.command_table.models import MODELS
from attention_studio.ui.command_table.nodes import NODES
from attention_studio.ui.command_table.scripting import SCRIPTING
from attention_studio.ui.command_table.subgraph import SUBGRAPH
from attention_studio.ui.command_table.training import TRAINING
from attention_studio.ui.command_table.views import GOING, LAYOUTS, LOOKS, SHOWN
from attention_studio.ui.command_table.workspaces import WORKSPACES

COMMANDS: tuple[Command, ...] = (
    *FILES,
    *FIGURES,
    *WORKSPACES,
    *LEAVING,
    *EDITING,
    *SCRIPTING,
    *LAYOUTS,
    *SHOWN,
    *LOOKS,
    *GOING,
    *MODELS,
    *TRAINING,
    *CIRCUITS,
    *FEATURES,
    *AGENTS,
    *SUBGRAPH,
    *NODES,
    *INTERVENING,
    *PATHS,
    *COMPARING,
    *ERRORS,
    *ATTENTION,
    *HELPING,
)
