"""What commands do, as calls of the core.

``SCRIPTS`` has a writer for every command that computes, opens or saves something. Of commands
without one it is the work that they gave to a lane when they were last run (``recorded_script``),
or a script that opens the window and runs them there (``window_script``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from attention_studio.core.script_text import ScriptError, ScriptWriter
from attention_studio.core.trace_circumstances import made_by
from attention_studio.ui.demo_opener import MODEL, PROMPT
from attention_studio.ui.scripts.agents import AGENT_SCRIPTS
from attention_studio.ui.scripts.features import FEATURE_SCRIPTS
from attention_studio.ui.scripts.interventions import INTERVENTION_SCRIPTS
from attention_studio.ui.scripts.looking import LOOKING_SCRIPTS
from attention_studio.ui.scripts.nodes import NODE_SCRIPTS
from attention_studio.ui.scripts.steps import Steps
from attention_studio.ui.widgets.features_dock import TOP_K as FEATURES
from attention_studio.ui.widgets.prompt_dock import TOP_K as CANDIDATES
from attention_studio.utils.paths import BUILT_IN_CRMS

if TYPE_CHECKING:
    from attention_studio.ui.commands import Commands
    from attention_studio.ui.session import Session

_CORE = "attention_studio.core"


@dataclass(frozen=True)
class Source:
    """What a writer may ask: what the window holds, and what its forms say."""

    session: Session
    commands: Commands

    def handler(self, command_id: str) -> Any:
        """The dock, or the part of it, that carries out a command."""
        return getattr(self.commands.handler(command_id), "__self__", None)


Writer = Callable[[Steps, Source], None]


def _load_model(steps: Steps, source: Source) -> None:
    steps.load_model(source.handler("model.load").config())
    steps.show("model.info")


def _fetch_model(steps: Steps, source: Source) -> None:
    steps.need("settings")
    script = steps.script
    sources = script.use(f"{_CORE}.model_sources", "ModelSources")
    config = script.value(source.handler("model.fetch").config())
    script.assign("sources", f"{sources}(settings.cache_dir, settings)")
    script.assign("folder", f"sources.fetch(sources.resolve({config}))")
    steps.show("folder")


def _look_up_model(steps: Steps, source: Source) -> None:
    steps.need("manager")
    config = steps.script.value(source.handler("model.look_up").config())
    steps.script.assign("config", config)
    steps.script.assign("description", "manager.describe(config)")
    steps.script.assign("estimate", "manager.estimate_memory(config)")
    steps.show("description, estimate")


def _release_model(steps: Steps, _source: Source) -> None:
    steps.need("model")
    steps.script.assign("freed", "manager.release()")
    steps.show("freed")


def _next_tokens(steps: Steps, source: Source) -> None:
    steps.need("model")
    steps.script.assign("view", f"model.next_tokens({source.session.prompt!r}, {CANDIDATES})")
    steps.show("view.candidates")


def _open_crm(steps: Steps, _source: Source) -> None:
    steps.need("crm")
    steps.show("crm.name")


def _open_demo(steps: Steps, source: Source) -> None:
    from attention_studio.core.graph_settings import GraphSettings
    from attention_studio.core.model_records import ModelConfig

    steps.load_model(ModelConfig(MODEL))
    steps.open_crm(BUILT_IN_CRMS[MODEL])
    steps.trace(source.session.prompt.strip() or PROMPT, GraphSettings())
    steps.need("pruned")
    steps.show("graph.summary()")


def _extract(steps: Steps, source: Source) -> None:
    steps.need("crm")
    extractor = steps.script.use(f"{_CORE}.feature_extractor", "FeatureExtractor")
    prompt = source.session.prompt
    steps.script.assign(
        "features", f"{extractor}(crm).extract_features({prompt!r}, top_k={FEATURES})"
    )
    steps.show("[(one.site.label, one.index, one.activation) for one in features.overall]")


def _build_graph(steps: Steps, source: Source) -> None:
    from attention_studio.core.graph_settings import GraphSettings

    session = source.session
    graph, crm = session.graph, session.crm
    traced = (
        graph is not None
        and crm is not None
        and made_by(graph, crm)
        and graph.prompt.strip() == session.prompt.strip()
    )
    if traced:
        # As it was traced: for a contrast, or as much as fits.
        steps.need("graph")
    else:
        steps.trace(session.prompt, GraphSettings())
    steps.need("pruned")
    steps.show("graph.summary()")


def _open_graph(steps: Steps, _source: Source) -> None:
    steps.need("pruned")
    steps.show("graph.summary()")


def _save_graph(steps: Steps, _source: Source) -> None:
    steps.need("pruned")
    path = steps.script.use("pathlib", "Path")
    steps.script.line(f'graph.save({path}("graph.safetensors"), pruned)')


def _train(steps: Steps, source: Source) -> None:
    steps.need("model", "settings")
    _run_training(steps, source.handler("train.start").form.request())


def _resume(steps: Steps, source: Source) -> None:
    from dataclasses import replace

    steps.need("model", "settings")
    _run_training(steps, replace(source.handler("train.resume").form.request(), resume=True))


def _run_training(steps: Steps, request: Any) -> None:
    script = steps.script
    prepare = script.use(f"{_CORE}.training_request", "prepare_training")
    drive = script.use(f"{_CORE}.training_driver", "run_to_end")
    script.assign("request", script.value(request))
    script.assign("trainer", f"{prepare}(model, request, settings.max_ram_gb)")
    script.assign("folder", f"{drive}(trainer)")
    steps.show("folder")


def _evaluate(steps: Steps, source: Source) -> None:
    request = source.handler("evaluate.run").request()
    if not request.folders or not request.sources:
        raise ScriptError(
            "There is nothing to evaluate yet",
            "the form names no replacement model, or no text",
            "add them under “Evaluate” in the Train dock",
        )
    steps.need("model")
    compare = steps.script.use(f"{_CORE}.crm_comparison", "compare_crms")
    steps.script.assign("request", steps.script.value(request))
    steps.script.assign("comparison", f"{compare}(model, request)")
    steps.show("[crm.summary() for crm in comparison.crms]")


def _export_evaluation(steps: Steps, source: Source) -> None:
    _evaluate(steps, source)
    path = steps.script.use("pathlib", "Path")
    steps.script.line(f'comparison.save({path}("evaluation.json"))')


def _everything(steps: Steps, _source: Source) -> None:
    steps.everything()


def _with_notes(steps: Steps, _source: Source) -> None:
    steps.need("graph", "pruned", "notes")
    steps.show("notes.pinned")


def _selection(steps: Steps, source: Source) -> None:
    steps.need("graph", "pruned")
    steps.script.assign("selection", repr(source.session.selection))
    steps.script.assign("chosen", steps.script.value(source.session.chosen))
    steps.show("selection, chosen")


SCRIPTS: Mapping[str, Writer] = {
    "model.load": _load_model,
    "model.fetch": _fetch_model,
    "model.look_up": _look_up_model,
    "model.release": _release_model,
    "prompt.run": _next_tokens,
    "crm.open": _open_crm,
    "demo.open": _open_demo,
    "features.extract": _extract,
    "graph.build": _build_graph,
    "graph.open": _open_graph,
    "graph.save": _save_graph,
    "train.start": _train,
    "train.resume": _resume,
    "evaluate.run": _evaluate,
    "evaluate.export": _export_evaluation,
    "graph.pin": _with_notes,
    "graph.unpin_all": _with_notes,
    "graph.clear_selection": _selection,
    "edit.undo": _everything,
    "edit.redo": _everything,
    **FEATURE_SCRIPTS,
    **AGENT_SCRIPTS,
    **INTERVENTION_SCRIPTS,
    **LOOKING_SCRIPTS,
    **NODE_SCRIPTS,
}
"""By id of the command. What is undone or pinned is written as what has come of it."""

_STATE = ("nodes.", "chosen.", "notes.", "subgraph.", "history.", "workspace.")
"""Areas whose commands change what a person has made: their script is how to get there."""


@dataclass(frozen=True)
class Recorded:
    """Work that a command gave to a lane, as source: a call, and what of the window it needs."""

    module: str
    function: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    imports: tuple[tuple[str, str], ...]


def command_script(command_id: str, source: Source, recorded: Optional[Recorded] = None) -> str:
    """Return a script that does what a command does now.

    Args:
        command_id: which command.
        source: the window.
        recorded: the work that it gave to a lane when it was run last.

    Raises:
        ScriptError: the script would have nothing to begin with.
    """
    command = source.commands.command(command_id)
    script = ScriptWriter(command.text.rstrip("…"))
    steps = Steps(script, source.session)
    writer = SCRIPTS.get(command_id)
    if writer is not None:
        writer(steps, source)
    elif recorded is not None:
        _write_recorded(steps, recorded)
    elif command_id.startswith(_STATE) and source.session.graph is not None:
        steps.everything()
    else:
        _write_window(script, command_id)
    return script.text()


def session_script(source: Source) -> str:
    """Return a script that gets to all that the window holds.

    Raises:
        ScriptError: it holds nothing, or nobody knows how something came to be.
    """
    script = ScriptWriter("What the window held")
    Steps(script, source.session).everything()
    return script.text()


def record(function: Callable[..., Any], arguments: tuple[Any, ...], session: Session) -> Recorded:
    """Write down work for a lane: what the window holds by name, everything else by value.

    Raises:
        ScriptError: an argument is neither.
    """
    held = {
        id(value): name
        for name, value in (
            ("model", session.model),
            ("crm", session.crm),
            ("graph", session.graph),
            ("pruned", session.pruned),
            ("notes", session.notes),
            ("settings", session.settings),
        )
        if value is not None
    }
    script = ScriptWriter("")
    written = []
    for value in arguments:
        name = held.get(id(value))
        written.append(name if name is not None else script.value(value, work=True))
    needs = tuple(dict.fromkeys(held[id(value)] for value in arguments if id(value) in held))
    return Recorded(
        str(function.__module__), str(function.__name__), tuple(written), needs, script.imports
    )


def _write_recorded(steps: Steps, recorded: Recorded) -> None:
    steps.need("ctx", *recorded.needs)
    if recorded.needs == ():
        steps.need("manager")
    for module, name in recorded.imports:
        steps.script.use(module, name, work=True)
    function = steps.script.use(recorded.module, recorded.function, work=True)
    steps.script.assign("result", f"{function}({', '.join(('ctx', *recorded.arguments))})")
    steps.show("result")


def _write_window(script: ScriptWriter, command_id: str) -> None:
    script.note("This command concerns the window alone: the script opens one and runs it there.")
    run = script.use("attention_studio.ui.app", "run", work=True)
    script.line(f"raise SystemExit({run}(commands=({command_id!r},)))")
