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
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import FileReadError, read_json, write_json_atomic

if TYPE_CHECKING:
    from attention_studio.core.attribution_graph import (
        AttributionGraph,
        GraphSettings,
        PrunedGraph,
    )
    from attention_studio.core.crm_trainer import CRMTrainer
    from attention_studio.core.dictionaries.crm_folder import CRMManifest
    from attention_studio.core.feature_extractor import FeatureReport
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
    from attention_studio.core.training_config import TrainConfig
    from attention_studio.core.training_estimate import TrainEstimate
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
    """Import pyqtgraph, which takes most of a second, off the main thread."""
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
    from attention_studio.core.attribution_graph import GraphSettings
    from attention_studio.core.graph_builder import GraphBuilder

    graph = GraphBuilder(crm).build(prompt, settings or GraphSettings(), ctx)
    ctx.check()
    return TracedGraph(graph, graph.prune(*thresholds))


def prune_graph(
    ctx: WorkContext, graph: AttributionGraph, thresholds: tuple[float, float]
) -> PrunedGraph:
    """The part of the graph that the thresholds leave."""
    ctx.check()
    return graph.prune(*thresholds)


def load_graph(ctx: WorkContext, path: Path, thresholds: tuple[float, float]) -> TracedGraph:
    """Read a saved graph."""
    with _import_lock:
        from attention_studio.core.attribution_graph import AttributionGraph

    ctx.progress(0, None, "Reading the graph")
    graph = AttributionGraph.load(path)
    ctx.check()
    return TracedGraph(graph, graph.prune(*thresholds))


def save_graph(
    ctx: WorkContext, graph: AttributionGraph, pruned: Optional[PrunedGraph], path: Path
) -> Path:
    """Write a graph. Returns the file."""
    ctx.check()
    graph.save(path, pruned)
    return path


# -- training -------------------------------------------------------------------------------------


RUN_FILE = "run.json"
_MAX_RUN_BYTES = 1 << 20


class RunFileError(StudioError):
    """A folder does not say how its training run was set up."""


@dataclass(frozen=True)
class TrainRequest:
    """What the Train dock asks for. ``settings`` are fields of ``TrainConfig`` by name."""

    sources: tuple[str, ...]
    heldout_sources: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...]
    out_dir: Path
    resume: bool = False


@dataclass(frozen=True)
class PreparedRun:
    """A trainer, ready to be driven on the main thread, and what to say before it starts."""

    trainer: CRMTrainer
    request: TrainRequest
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RunOutlook:
    """What a run would cost, and what there is."""

    estimate: TrainEstimate
    free_memory: int
    free_disk: int
    notes: tuple[str, ...]


def _train_config(settings: tuple[tuple[str, Any], ...]) -> TrainConfig:
    from pydantic import ValidationError

    from attention_studio.core.training_checks import TrainSettingsError
    from attention_studio.core.training_config import TrainConfig

    try:
        return TrainConfig(**dict(settings))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise TrainSettingsError(
            "These training settings do not go together",
            f"{field}: {message}" if field else message,
        ) from None


def _training_notes(model: LoadedModel) -> tuple[str, ...]:
    if model.info.device.startswith("mps"):
        return ("Training runs on the CPU in float32: it is not reliable on MPS.",)
    return ()


def estimate_run(
    ctx: WorkContext, settings: Settings, model: LoadedModel, request: TrainRequest
) -> RunOutlook:
    """Estimate memory, disk and time of a run."""
    from attention_studio.core.host_memory import available_ram
    from attention_studio.core.training_estimate import estimate_training

    config = _train_config(request.settings)
    ctx.check()
    estimate = estimate_training(model.info, config, _machine_speed())
    folder = request.out_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return RunOutlook(
        estimate,
        available_ram(settings.max_ram_gb),
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
    from attention_studio.core.corpus import CorpusError, build_corpus, split_corpus
    from attention_studio.core.crm_trainer import CRMTrainer

    config = _train_config(request.settings)
    if not request.sources:
        raise CorpusError(
            "There is no text to train on",
            "",
            "Add files or a folder, or let the model write samples",
        )
    ctx.progress(0, None, "Reading the text")
    # A little more than one pass needs, so that held-out text can be set aside.
    enough = config.tokens + 2 * config.heldout_tokens
    corpus = build_corpus(model, request.sources, config.seq_len, enough, config.seed, ctx)
    if request.heldout_sources:
        heldout = build_corpus(
            model,
            request.heldout_sources,
            config.seq_len,
            2 * config.heldout_tokens,
            config.seed,
            ctx,
        )
    else:
        corpus, heldout = split_corpus(corpus, config.heldout_tokens, config.seed)
    ctx.check()
    trainer = CRMTrainer(
        model,
        corpus,
        heldout,
        config,
        request.out_dir,
        resume=request.resume,
        max_ram_gb=settings.max_ram_gb,
    )
    _write_run(request)
    return PreparedRun(trainer, request, _training_notes(model))


def _write_run(request: TrainRequest) -> None:
    request.out_dir.mkdir(parents=True, exist_ok=True)
    write_json_atomic(
        request.out_dir / RUN_FILE,
        {
            "sources": list(request.sources),
            "heldout_sources": list(request.heldout_sources),
            "settings": {key: _plain(value) for key, value in request.settings},
        },
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def read_run(_ctx: WorkContext, folder: Path) -> TrainRequest:
    """How the run in ``folder`` was set up, so that it can go on.

    Raises:
        RunFileError: the folder holds no run of this window.
    """
    try:
        stored = read_json(folder / RUN_FILE, _MAX_RUN_BYTES)
    except FileReadError as error:
        raise RunFileError(
            f"{folder.name} holds no run that can be resumed here",
            str(error),
            "Choose the folder that an unfinished run was writing to",
        ) from error
    try:
        settings = {
            str(key): tuple(value) if isinstance(value, list) else value
            for key, value in dict(stored["settings"]).items()
        }
        return TrainRequest(
            sources=tuple(str(source) for source in stored["sources"]),
            heldout_sources=tuple(str(source) for source in stored["heldout_sources"]),
            settings=tuple(settings.items()),
            out_dir=folder,
            resume=True,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunFileError(
            f"{folder / RUN_FILE} is damaged", f"{type(error).__name__}: {error}"
        ) from error
