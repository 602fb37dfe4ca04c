"""ModelManager: find, fetch, load, describe and release a language model."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Union

import torch
from huggingface_hub import errors as hub_errors
from loguru import logger
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from attention_studio.core.loaded_model import (
    EmptyPromptError,
    LoadedModel,
    ModelReleasedError,
    PromptTooLongError,
    tensor_bytes,
)
from attention_studio.core.memory import (
    SPREAD,
    DeviceError,
    ModelMemoryError,
    ModelShape,
    device_budgets,
    dtype_of,
    estimate_memory,
    max_memory,
    refuse,
    shape_of,
)
from attention_studio.core.model_families import SUPPORTED_FAMILIES, UnsupportedModelError
from attention_studio.core.model_files import (
    ModelFileError,
    read_model_config,
    weight_facts,
    weight_files,
)
from attention_studio.core.model_records import (
    LayerInfo,
    MemoryEstimate,
    ModelConfig,
    ModelDescription,
    ModelEntry,
    ModelInfo,
    PromptView,
    TokenProbability,
)
from attention_studio.core.model_sources import ModelSources, ResolvedModel
from attention_studio.core.tokenizer_loading import load_tokenizer
from attention_studio.utils.config import Settings, load_settings
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

__all__ = [
    "DeviceError",
    "EmptyPromptError",
    "LayerInfo",
    "LoadedModel",
    "MemoryEstimate",
    "ModelConfig",
    "ModelDescription",
    "ModelEntry",
    "ModelFileError",
    "ModelInfo",
    "ModelManager",
    "ModelMemoryError",
    "ModelReleasedError",
    "PromptTooLongError",
    "PromptView",
    "RemoteCodeError",
    "TokenProbability",
]

ModelName = Union[str, Path, ModelConfig]

# What transformers raises on configurations and weights that contradict themselves or each other.
_LOAD_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ImportError,
    RuntimeError,
    ZeroDivisionError,
    SafetensorError,
    *([hub_errors.StrictDataclassError] if hasattr(hub_errors, "StrictDataclassError") else []),
)


class RemoteCodeError(StudioError):
    """The model needs Python code of its own, which was not allowed to run."""


class ModelManager:
    """Loads one model at a time and knows about all others.

    Loading and releasing are safe from any thread and wait for each other.

    Args:
        cache_dir: where models are kept; by default that of ``settings``.
        settings: by default those of the environment and ``.env``.
    """

    def __init__(
        self,
        cache_dir: Optional[Union[Path, str]] = None,
        settings: Optional[Settings] = None,
    ) -> None:
        self._settings = settings if settings is not None else load_settings()
        folder = self._settings.cache_dir if cache_dir is None else Path(cache_dir)
        self.cache_dir = folder.expanduser().absolute()
        self.sources = ModelSources(self.cache_dir, self._settings)
        self._lock = threading.RLock()
        self._current: Optional[LoadedModel] = None
        _quieten_libraries()
        torch.set_num_threads(self._settings.thread_count)

    @property
    def current(self) -> Optional[LoadedModel]:
        """The model in memory, or None."""
        return self._current

    # ---- getting a model -----------------------------------------------------------------------

    async def load_model(self, model: ModelName, ctx: Optional[WorkContext] = None) -> LoadedModel:
        """``load_model_sync`` on a worker thread. Cancelling the task cancels the work."""
        context = ctx or WorkContext()
        try:
            return await asyncio.to_thread(self.load_model_sync, model, context)
        except asyncio.CancelledError:
            context.cancel()
            raise

    def load_model_sync(self, model: ModelName, ctx: Optional[WorkContext] = None) -> LoadedModel:
        """Fetch the model if it is not here, check that it fits, and load it.

        The model loaded before is released first, but only after everything that can be checked
        without loading has been checked.

        Raises:
            UnknownModelError, GatedModelError: no such model, or it is not handed out.
            NetworkError, DownloadError: it cannot be fetched.
            ModelFileError: its files are damaged or contradict each other.
            RemoteCodeError: it needs code of its own, and that was not allowed.
            UnsupportedModelError: its family is unknown.
            ModelMemoryError: it does not fit; the error lists settings that would.
            DeviceError: the device or dtype does not exist here.
            FileWriteError: the disk is full.
            Cancelled: through ``ctx``, at any stage.
        """
        ctx = ctx or WorkContext()
        config = self._with_defaults(model)
        resolved = self.sources.resolve(config)
        folder = self.sources.fetch(resolved, ctx)
        with self._lock:
            ctx.check()
            ctx.progress(0, None, f"Opening {resolved.name}")
            model_config = self._open_config(folder, config)
            files = weight_files(folder)
            shape = shape_of(model_config, weight_facts(files).n_parameters)
            digest = self.sources.hashes.weights_hash(files, ctx)
            estimate = self._estimate(shape, config)
            if not estimate.fits:
                raise refuse(resolved.name, estimate)
            ctx.check()
            self.release()
            loaded = self._load(folder, resolved, config, model_config, estimate, digest, ctx)
            self._current = loaded
        info = loaded.info
        logger.info(
            f"Loaded {info.name} ({info.family}, {info.n_parameters / 1e6:.0f}M parameters, "
            f"{info.dtype}) on {info.device}"
        )
        return loaded

    def fetch(self, name: ModelName, ctx: Optional[WorkContext] = None) -> Path:
        """Make a model ready to load, without loading it, and return its folder.

        Raises:
            See ``ModelSources.fetch``.
        """
        return self.sources.fetch(self.sources.resolve(name), ctx)

    def release(self) -> int:
        """Forget the model in memory and give its memory back.

        Returns:
            The bytes that became free: less than the model has if something else still holds it.
        """
        with self._lock:
            loaded, self._current = self._current, None
            if loaded is None or loaded.released:
                return 0
            total = tensor_bytes(loaded.model)
            watched: list[tuple[weakref.ref[Any], int]] = [
                (weakref.ref(tensor), int(tensor.numel() * tensor.element_size()))
                for tensor in [*loaded.model.parameters(), *loaded.model.buffers()]
            ]
            name = loaded.info.name
            loaded.close()
            del loaded
            free_memory()
            held = sum(size for reference, size in watched if reference() is not None)
            if held:
                logger.warning(f"{held:,} bytes of {name} are still in use elsewhere")
            return total - held

    # ---- knowing about models ------------------------------------------------------------------

    def list_models(self) -> list[ModelEntry]:
        """Built-in models and everything in the cache. Needs no network."""
        return self.sources.list_models()

    def describe(self, name: ModelName, ctx: Optional[WorkContext] = None) -> ModelDescription:
        """What can be known without the weights; asks the hub for ``config.json`` if need be.

        Raises:
            As ``load_model_sync``, as far as it applies.
        """
        ctx = ctx or WorkContext()
        config = self._with_defaults(name)
        resolved = self.sources.resolve(config)
        folder = self.sources.find(resolved, ctx)
        model_config, shape = self._shape(resolved, folder, config, ctx)
        return ModelDescription(
            name=resolved.name,
            source=resolved.hub_id if folder is None else self.sources.source_of(folder),
            family=str(model_config.model_type),
            n_layers=shape.n_layers,
            d_model=shape.d_model,
            n_heads=shape.n_heads,
            vocab_size=shape.vocab_size,
            context_length=shape.context_length,
            n_parameters=shape.n_parameters,
            folder=folder,
        )

    def estimate_memory(
        self, config: ModelName, ctx: Optional[WorkContext] = None
    ) -> MemoryEstimate:
        """What the model would need and what there is; the present model counts as free.

        Raises:
            As ``describe``.
        """
        ctx = ctx or WorkContext()
        wanted = self._with_defaults(config)
        resolved = self.sources.resolve(wanted)
        folder = self.sources.find(resolved, ctx)
        _, shape = self._shape(resolved, folder, wanted, ctx)
        return self._estimate(shape, wanted)

    def get_layer_info(self, layer: Optional[int] = None) -> Union[LayerInfo, list[LayerInfo]]:
        """One layer of the model in memory, or all of them.

        Raises:
            ModelReleasedError: no model is loaded.
            StudioError: there is no such layer.
        """
        loaded = self._current
        if loaded is None:
            raise ModelReleasedError("No model is loaded", "", "Load one first")
        if layer is not None:
            return loaded.layer_info(layer)
        return [loaded.layer_info(index) for index in range(loaded.info.n_layers)]

    # ---- the steps of loading ------------------------------------------------------------------

    def _with_defaults(self, model: ModelName) -> ModelConfig:
        if isinstance(model, Path):
            model = ModelConfig(name=model.name, path=model)
        elif isinstance(model, str):
            model = ModelConfig(name=model)
        if model.device == "auto":
            model = replace(model, device=self._settings.device)
        if model.dtype == "auto":
            model = replace(model, dtype=self._settings.dtype)
        return model

    def _open_config(self, folder: Path, config: ModelConfig) -> Any:
        raw = read_model_config(folder)
        _check_remote_code(raw, config)
        try:
            opened = AutoConfig.from_pretrained(
                str(folder), trust_remote_code=config.allow_remote_code, local_files_only=True
            )
        except _LOAD_ERRORS as error:
            _check_family(str(raw["model_type"]))
            raise _damaged(folder / "config.json", error) from error
        _check_family(str(opened.model_type))
        return opened

    def _shape(
        self,
        resolved: ResolvedModel,
        folder: Optional[Path],
        config: ModelConfig,
        ctx: WorkContext,
    ) -> tuple[Any, ModelShape]:
        if folder is not None:
            opened = self._open_config(folder, config)
            return opened, shape_of(opened, weight_facts(weight_files(folder)).n_parameters)
        raw = self.sources.read_config(resolved, ctx)
        _check_remote_code(raw, config)
        _check_family(str(raw.get("model_type")))
        try:
            opened = AutoConfig.for_model(**raw)
            with torch.device("meta"):  # shapes only, no memory
                skeleton = AutoModelForCausalLM.from_config(opened)
        except _LOAD_ERRORS as error:
            raise _damaged(Path("config.json"), error) from error
        return opened, shape_of(opened, sum(p.numel() for p in skeleton.parameters()))

    def _estimate(self, shape: ModelShape, config: ModelConfig) -> MemoryEstimate:
        budgets = device_budgets(self._settings)
        current = self._current
        if current is not None and not current.released:
            for parameter in current.model.parameters():
                device = str(parameter.device)
                if device in budgets:
                    budgets[device] += parameter.numel() * parameter.element_size()
        return estimate_memory(shape, config, budgets)

    def _load(
        self,
        folder: Path,
        resolved: ResolvedModel,
        config: ModelConfig,
        model_config: Any,
        estimate: MemoryEstimate,
        digest: str,
        ctx: WorkContext,
    ) -> LoadedModel:
        placement: dict[str, Any] = {}
        if estimate.device == SPREAD:
            placement["device_map"] = "auto"
            placement["max_memory"] = max_memory(device_budgets(self._settings))
        elif estimate.device != "cpu":
            placement["device_map"] = {"": estimate.device}
        try:
            tokenizer = load_tokenizer(
                folder, str(model_config.model_type), ctx, config.allow_remote_code
            )
            ctx.check()
            with _loading_progress(ctx, f"Loading {resolved.name}"):
                model, report = AutoModelForCausalLM.from_pretrained(
                    str(folder),
                    dtype=dtype_of(estimate.dtype),
                    use_safetensors=True,
                    trust_remote_code=config.allow_remote_code,
                    local_files_only=True,
                    output_loading_info=True,
                    **placement,
                )
            ctx.check()
        except torch.cuda.OutOfMemoryError as error:
            free_memory()
            raise refuse(resolved.name, estimate) from error
        except _LOAD_ERRORS as error:
            free_memory()
            raise _damaged(folder, error) from error
        missing = sorted(report["missing_keys"])
        if missing:
            # transformers would fill the gaps with random numbers.
            raise ModelFileError(
                f"{folder} lacks weights that its config.json asks for",
                f"{len(missing)} tensors are missing, the first is {missing[0]}",
                "Fetch or copy the model again",
            )
        source = self.sources.source_of(folder)
        return LoadedModel.build(model, tokenizer, resolved.name, source, digest)


def free_memory() -> None:
    """Collect garbage and give cached device memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _check_family(family: str) -> None:
    if family not in SUPPORTED_FAMILIES:
        raise UnsupportedModelError.of(family)


def _check_remote_code(raw: dict[str, Any], config: ModelConfig) -> None:
    # Models that transformers has since learned still carry the note; they need no code.
    known = str(raw.get("model_type")) in CONFIG_MAPPING_NAMES
    if raw.get("auto_map") and not known and not config.allow_remote_code:
        raise RemoteCodeError(
            f"{config.name} brings Python code of its own",
            "code from a model can do anything on this machine, so it does not run unasked",
            "If you trust its author, load it with allow_remote_code",
        )


def _damaged(path: Path, error: Exception) -> ModelFileError:
    reason = str(error).strip().splitlines()
    return ModelFileError(
        f"{path} cannot be loaded",
        f"{type(error).__name__}: {reason[0] if reason else 'no reason given'}",
        "The files are damaged or contradict each other; fetch or copy the model again",
    )


@contextmanager
def _loading_progress(ctx: WorkContext, text: str) -> Iterator[None]:
    """Report each weight that transformers loads, and stop between two when asked to."""
    set_hook: Optional[Callable[[Any], Any]] = getattr(transformers_logging, "set_tqdm_hook", None)
    if set_hook is None:  # before transformers 5: no progress, and a cancel waits for the load
        yield
        return
    thread = threading.get_ident()

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != thread or not args:
            return factory(*args, **kwargs)
        return _watched(list(args[0]), ctx, text)

    previous = set_hook(hook)
    try:
        yield
    finally:
        set_hook(previous)


def _watched(items: list[Any], ctx: WorkContext, text: str) -> Iterator[Any]:
    for done, item in enumerate(items):
        ctx.check()
        ctx.progress(done, len(items), text)
        yield item


def _quieten_libraries() -> None:
    # Their progress bars and handlers would write over our console; their records go to whoever
    # listens at the root (utils.logging does).
    transformers_logging.disable_progress_bar()
    for name in ("transformers", "huggingface_hub"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
