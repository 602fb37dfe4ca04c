"""What lanes run. Every function gets a context first and imports the core when it is called.

The window must show before torch is imported (two seconds and more), and must not stand still while
it is. Three things keep the event loop free meanwhile: torch's library is opened through a foreign
call that lets go of the interpreter's lock, the cycle collector is off (``ui.collector``), and
threads take turns every millisecond (``ui.app``). Together they bring the longest stall of a cold
import from 180 ms to 5 ms.
"""

from __future__ import annotations

import importlib
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import AttributionGraph, PrunedGraph
    from attention_studio.core.crm_quality import CRMComparison, EvaluationRequest
    from attention_studio.core.crm_trainer import CRMTrainer
    from attention_studio.core.dictionaries.crm_folder import CRMManifest
    from attention_studio.core.feature_extractor import FeatureReport
    from attention_studio.core.graph_settings import GraphSettings
    from attention_studio.core.loaded_model import LoadedModel
    from attention_studio.core.model_manager import ModelManager
    from attention_studio.core.model_records import (
        LayerInfo,
        MemoryEstimate,
        ModelConfig,
        ModelDescription,
        ModelEntry,
        PromptView,
    )
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.core.training_estimate import TrainEstimate
    from attention_studio.core.training_request import TrainRequest
    from attention_studio.core.training_traces import CheckpointTrace
    from attention_studio.utils.config import Settings
    from attention_studio.utils.progress import WorkContext

# One import at a time: the linker has a lock of its own, and a thread that waits for it inside an
# import keeps the interpreter's lock meanwhile, which stops the window.
_import_lock = threading.Lock()
_warm = False
# What lanes need sooner or later, imported while nothing else goes on.
_CORE = ("model_manager", "crm_trainer", "corpus", "feature_extractor", "graph_builder")


# -- getting ready --------------------------------------------------------------------------------


def warm_up(ctx: WorkContext, settings: Settings) -> None:
    """Import torch, transformers and the core without holding the interpreter's lock for long."""
    global _warm
    with _import_lock:
        if _warm:
            return
        from attention_studio.core.engine import start_engine

        start_engine(ctx, settings)
        for name in _CORE:
            ctx.check()
            importlib.import_module(f"attention_studio.core.{name}")
        _warm = True


def import_plots(_ctx: WorkContext) -> None:
    """Import pyqtgraph, which takes most of a second, off the main thread; see ``QtBindings`` for
    what has to come before."""
    with _import_lock:
        import pyqtgraph  # noqa: F401


@lru_cache(maxsize=4)
def _manager(settings: Settings) -> ModelManager:
    with _import_lock:
        from attention_studio.core.model_manager import ModelManager

    return ModelManager(settings=settings)


# -- models ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedBundle:
    """A loaded model and the description of its layers."""

    model: LoadedModel
    layers: tuple[LayerInfo, ...]


@dataclass(frozen=True)
class ModelOutlook:
    """What is known about a model before it is loaded.

    Both parts are None for a model that is not here, unless the hub was asked.
    """

    description: Optional[ModelDescription] = None
    estimate: Optional[MemoryEstimate] = None


def list_models(_ctx: WorkContext, settings: Settings) -> tuple[ModelEntry, ...]:
    """The models that have a name of their own, and whether they are here already."""
    with _import_lock:
        from attention_studio.core.model_sources import ModelSources

    return tuple(ModelSources(settings.cache_dir, settings).list_models())


def model_outlook(
    ctx: WorkContext, settings: Settings, config: ModelConfig, ask_hub: bool
) -> ModelOutlook:
    """Describe a model and estimate its memory without loading its weights.

    A model that is not here is looked up on the hub only if ``ask_hub``: the studio opens no
    connection that nobody asked for.
    """
    warm_up(ctx, settings)
    manager = _manager(settings)
    if not ask_hub and manager.sources.find(manager.sources.resolve(config), ctx) is None:
        return ModelOutlook()
    description = manager.describe(config, ctx)
    ctx.check()
    return ModelOutlook(description, manager.estimate_memory(config, ctx))


def fetch_model(ctx: WorkContext, settings: Settings, config: ModelConfig) -> Path:
    """Bring a model into the cache, without torch, on the ``io`` lane. Returns its folder."""
    with _import_lock:
        from attention_studio.core.model_sources import ModelSources

    sources = ModelSources(settings.cache_dir, settings)
    return sources.fetch(sources.resolve(config), ctx)


def load_model(ctx: WorkContext, settings: Settings, config: ModelConfig) -> LoadedBundle:
    """Load a model (and fetch it first, if that was not done)."""
    warm_up(ctx, settings)
    manager = _manager(settings)
    loaded = manager.load_model_sync(config, ctx)
    layers = manager.get_layer_info()
    return LoadedBundle(loaded, tuple(layers) if isinstance(layers, list) else (layers,))


def release_model(_ctx: WorkContext, settings: Settings) -> int:
    """Let the loaded model go. Returns the bytes that came free."""
    return _manager(settings).release()


def view_prompt(ctx: WorkContext, model: LoadedModel, text: str, top_k: int) -> PromptView:
    """The prompt as the model sees it, and the likeliest next tokens."""
    ctx.check()
    return model.next_tokens(text, top_k)


# -- replacement models and what is computed with them --------------------------------------------


@dataclass(frozen=True)
class OpenedCRM:
    """A replacement model and its manifest, and the folder that both came from."""

    crm: CompleteReplacementModel
    manifest: CRMManifest
    folder: Path


def open_crm(ctx: WorkContext, model: LoadedModel, folder: Path) -> OpenedCRM:
    """Load the transcoders in ``folder`` and put them to the model."""
    from attention_studio.core.dictionaries.crm_folder import load_manifest
    from attention_studio.core.replacement_model import CompleteReplacementModel

    ctx.progress(0, None, "Reading the transcoders")
    manifest = load_manifest(folder)
    ctx.check()
    crm = CompleteReplacementModel.from_folder(model, folder, ctx)
    return OpenedCRM(crm, manifest, folder)


def extract_features(
    ctx: WorkContext, crm: CompleteReplacementModel, prompt: str, top_k: int = 20
) -> FeatureReport:
    """The strongest features on a prompt."""
    from attention_studio.core.feature_extractor import FeatureExtractor

    ctx.progress(0, None, "Looking for active features")
    return FeatureExtractor(crm).extract_features(prompt, top_k=top_k, ctx=ctx)


@dataclass(frozen=True)
class TracedGraph:
    """A whole graph and the part of it that the thresholds leave."""

    graph: AttributionGraph
    pruned: PrunedGraph


def build_graph(
    ctx: WorkContext,
    crm: CompleteReplacementModel,
    prompt: str,
    settings: Optional[GraphSettings],
    thresholds: tuple[float, float],
) -> TracedGraph:
    """Trace a prompt and prune the graph."""
    from attention_studio.core.graph_builder import GraphBuilder
    from attention_studio.core.graph_settings import GraphSettings

    graph = GraphBuilder(crm).build(prompt, settings or GraphSettings(), ctx)
    ctx.check()
    return _ready(graph, thresholds)


def _ready(graph: AttributionGraph, thresholds: tuple[float, float]) -> TracedGraph:
    """A graph with all that the main thread asks of it, so that it finds the answers there."""
    graph.has("")  # has the names of its nodes gathered
    return TracedGraph(graph, graph.prune(*thresholds))


def load_graph(ctx: WorkContext, path: Path, thresholds: tuple[float, float]) -> TracedGraph:
    """Read a saved graph, or another tool's graph file."""
    with _import_lock:
        from attention_studio.core.interchange.opening import open_graph_file

    ctx.progress(0, None, "Reading the graph")
    graph = open_graph_file(path).graph
    ctx.check()
    return _ready(graph, thresholds)


def save_graph(
    ctx: WorkContext,
    graph: AttributionGraph,
    pruned: Optional[PrunedGraph],
    path: Path,
    validation: Optional[dict[str, Any]] = None,
) -> Path:
    """Write a graph, with the record of its validation if there is one. Returns the file."""
    from attention_studio.core.validation_report import ValidationFormatError, ValidationReport

    ctx.check()
    if validation is not None:
        # One that cannot be read is said to be so where it is shown; the graph is saved all the
        # same.
        with suppress(ValidationFormatError):
            graph = replace(graph, validation=ValidationReport.from_json(validation))
    graph.save(path, pruned)
    return path


# -- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreparedRun:
    """A trainer, ready to be driven on the main thread, what to say before it starts, and what was
    traced at its checkpoints before, if it is resumed."""

    trainer: CRMTrainer
    request: TrainRequest
    notes: tuple[str, ...]
    traces: tuple[CheckpointTrace, ...] = ()


@dataclass(frozen=True)
class RunOutlook:
    """What a run would cost, and what there is.

    ``memory`` and ``disk`` are bytes at the peak, with everything where the settings put it;
    ``kept_on_disk`` is the part of ``disk`` that spares memory.
    """

    estimate: TrainEstimate
    memory: int
    disk: int
    kept_on_disk: int
    free_memory: int
    free_disk: int
    notes: tuple[str, ...]


def _training_notes(model: LoadedModel) -> tuple[str, ...]:
    if model.info.device.startswith("mps"):
        return ("Training runs on the CPU in float32: it is not reliable on MPS.",)
    return ()


def estimate_run(
    ctx: WorkContext, settings: Settings, model: LoadedModel, request: TrainRequest
) -> RunOutlook:
    """Estimate memory, disk and time of a run."""
    from attention_studio.core.host_memory import available_ram
    from attention_studio.core.training_checks import buffer_on_disk, clt_on_disk
    from attention_studio.core.training_estimate import estimate_training

    config = request.config()
    ctx.check()
    estimate = estimate_training(model.info, config, _machine_speed())
    limit = settings.max_ram_gb
    kept = estimate.block_bytes if buffer_on_disk(estimate, config, limit) else 0
    kept += estimate.decoder_bytes if clt_on_disk(estimate, config, limit) else 0
    folder = request.out_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return RunOutlook(
        estimate,
        estimate.memory_bytes - kept,
        estimate.disk_bytes + kept,
        kept,
        available_ram(limit),
        shutil.disk_usage(folder).free,
        _training_notes(model),
    )


@lru_cache(maxsize=1)
def _machine_speed() -> float:
    from attention_studio.core.training_estimate import measure_flops

    return measure_flops()


def prepare_run(
    ctx: WorkContext, settings: Settings, model: LoadedModel, request: TrainRequest
) -> PreparedRun:
    """Read the text and make the trainer."""
    from attention_studio.core.training_request import prepare_training
    from attention_studio.core.training_traces import read_traces

    traces = read_traces(request.out_dir)
    trainer = prepare_training(model, request, settings.max_ram_gb, ctx)
    return PreparedRun(trainer, request, _training_notes(model), traces)


def read_run(_ctx: WorkContext, folder: Path) -> TrainRequest:
    """How the run in ``folder`` was set up, so that it can go on."""
    from attention_studio.core.training_request import read_request

    return read_request(folder)


# -- evaluation -----------------------------------------------------------------------------------


def evaluate_crms(
    ctx: WorkContext, model: LoadedModel, request: EvaluationRequest
) -> CRMComparison:
    """Measure replacement models on the same text and prompts."""
    from attention_studio.core.crm_comparison import compare_crms

    return compare_crms(model, request, ctx)


def save_comparison(ctx: WorkContext, comparison: CRMComparison, path: Path) -> Path:
    """Write what was measured, as CSV or JSON by the file's name. Returns the file."""
    ctx.check()
    comparison.save(path)
    return path
