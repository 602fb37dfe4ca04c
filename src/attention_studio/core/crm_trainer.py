"""CRMTrainer: trains dictionaries for every module that is asked for, from one harvest of text.

The trainer is an iterator of micro-steps, each a few milliseconds long, so that a window can drive
it from its event loop without freezing; headless, ``run_to_end`` drives it in a plain loop. What
takes longer comes out as ``OffThread`` work for the driver to run elsewhere. Nothing depends on
time or on who drives: same settings, texts, model and number of threads, same weights, bit for bit
on a CPU, in one go or resumed after a kill.

Several processes can share a run (``core.division``). Then all of them iterate over the same events
and do their parts of the work; who has a module measures it and writes its files.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from loguru import logger

from attention_studio.core.activations import (
    ActivationBlock,
    ActivationSource,
    BlockBuffer,
    choose_harvest_dtype,
)
from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.distributed import Peers
from attention_studio.core.division import divide, divided_batches
from attention_studio.core.evaluation import Evaluator
from attention_studio.core.harvest_model import harvest_adapter
from attention_studio.core.host_memory import GIB, available_ram
from attention_studio.core.memory import give_back_weights
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.sites import Site
from attention_studio.core.training_checkpoint import RunIdentity, read_modules
from attention_studio.core.training_checks import (
    ExistingRunError,
    TrainingDivergedError,
    TrainingMemoryError,
    buffer_on_disk,
    check_fit,
    check_memory,
    check_peers,
    clt_on_disk,
    diverged,
    training_device,
)
from attention_studio.core.training_config import (
    StepSettings,
    TrainConfig,
    TrainSettingsError,
    k_at,
    learning_rate_at,
)
from attention_studio.core.training_driver import run_to_end
from attention_studio.core.training_estimate import TrainEstimate, estimate_training
from attention_studio.core.training_evaluation import RunEvaluator
from attention_studio.core.training_events import (
    Evaluated,
    Finished,
    MicroStep,
    OffThread,
    SiteMetrics,
    StepDone,
    StepMetrics,
    Stopped,
    TrainEvent,
)
from attention_studio.core.training_folder import RunFolder
from attention_studio.core.training_modules import TrainedModule, dictionaries_of
from attention_studio.core.training_selection import choose_selection_dtype
from attention_studio.core.training_setup import ModuleFactory
from attention_studio.core.training_step import StepResult
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

_GoesToDisk = Callable[[TrainEstimate, TrainConfig, Optional[float]], bool]

__all__ = [
    "CRMTrainer",
    "Evaluated",
    "ExistingRunError",
    "Finished",
    "MicroStep",
    "OffThread",
    "SiteMetrics",
    "StepDone",
    "Stopped",
    "TrainConfig",
    "TrainEstimate",
    "TrainEvent",
    "TrainSettingsError",
    "TrainingDivergedError",
    "TrainingMemoryError",
    "estimate_training",
    "run_to_end",
]


class CRMTrainer:
    """One training run. Iterate over it once; see ``core.training_events`` for what comes out.

    Args:
        loaded: the model.
        corpus, heldout: texts to train on and to measure on; rows of ``config.seq_len`` tokens.
        config: the settings.
        out_dir: becomes the CRM's folder; holds the checkpoints meanwhile.
        resume: go on from the run's last checkpoint, or start if it never wrote one.
        max_ram_gb: memory that this process may use, GiB; None: what the machine has.
        peers: processes that share the run; all must be given the same of everything else.

    Raises:
        TrainSettingsError: layers the model does not have, texts of another row length.
        CorpusError: too little text.
        ExistingRunError: ``out_dir`` holds a run and ``resume`` is off, or somebody is training
            there; the folder is this run's own until it ends or is closed.
        ResumeMismatchError, CheckpointError: the checkpoint is of another run, or damaged.
        TrainingMemoryError: says what would fit.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        corpus: TokenCorpus,
        heldout: TokenCorpus,
        config: TrainConfig,
        out_dir: Path,
        resume: bool = False,
        max_ram_gb: Optional[float] = None,
        peers: Optional[Peers] = None,
    ) -> None:
        check_fit(loaded, corpus, heldout, config)
        self._peers = peers
        self._division = None if peers is None else divide(config, peers)
        self.config = config
        self._loaded = loaded
        self._corpus = corpus
        self._heldout = heldout
        self._device = training_device(config.device, loaded.adapter.device)
        self._harvest_dtype = choose_harvest_dtype(
            config.harvest_dtype, loaded.adapter.device, loaded.adapter.dtype
        )
        self._selection_dtype = choose_selection_dtype(
            config.selection_dtype, self._device, config.activation
        )
        mine = config
        if self._division is not None:
            mine = self._division.part_of(config)
            max_ram_gb = available_ram(max_ram_gb) / GIB / self._division.peers.local_size
        self._max_ram_gb = max_ram_gb
        self.estimate = estimate_training(loaded.info, mine)
        check_memory(self.estimate, mine, max_ram_gb)
        identity = RunIdentity(
            settings=config.model_dump(mode="json"),
            sources={
                "text_hash": corpus.text_hash,
                "heldout_hash": heldout.text_hash,
                "weights_hash": loaded.info.weights_hash,
                "harvest_type": str(self._harvest_dtype).removeprefix("torch."),
                "selection_type": str(self._selection_dtype).removeprefix("torch."),
                "device_type": self._device.type,
                **divided_batches(self._division),
            },
        )
        self._folder = RunFolder(Path(out_dir), identity, resume, peers)
        self._progress = self._folder.progress
        self._model_lock = threading.RLock()
        self._modules: tuple[TrainedModule, ...] = ()
        self._buffer: Optional[BlockBuffer] = None
        self._copy: Optional[ModelAdapter] = None
        self._evaluator: Optional[RunEvaluator] = None
        self._block: Optional[ActivationBlock] = None
        self._stop = False
        self._checkpoint_wanted = False
        # Made when it is asked for: a run that was never begun must go, and its lock with it, as
        # soon as nobody has it, and the generator refers to it.
        self._events: Optional[Generator[TrainEvent, None, None]] = None

    # --- for the driver --------------------------------------------------------------------

    def __iter__(self) -> Generator[TrainEvent, None, None]:
        """The run's events; there is only one run, so iterating again goes on with it."""
        if self._events is None:
            self._events = self._run()
        return self._events

    @property
    def out_dir(self) -> Path:
        """The folder that becomes the CRM's."""
        return self._folder.path

    @property
    def history(self) -> list[SiteMetrics]:
        """Held-out metrics so far, a row per module and evaluation, in order of training."""
        return list(self._progress.history)

    @property
    def step(self) -> int:
        """Batches done, those of the run before a resume included."""
        return self._progress.step

    @property
    def dictionaries(self) -> DictionarySet:
        """The dictionaries as they are now, unfolded; do not change them. Where several processes
        share the run, those that are this one's own."""
        return dictionaries_of(self._own_modules)

    @property
    def _own_modules(self) -> tuple[TrainedModule, ...]:
        """Those that this process measures and writes; it may train more."""
        if self._division is None:
            return self._modules
        own = self._division.own
        return tuple(module for module in self._modules if module.sites[0] in own)

    def harvest_ahead(self, ctx: Optional[WorkContext] = None) -> bool:
        """Fill the next block, on another thread than the one that iterates.

        Returns:
            Whether there was anything to do; False also before the run has begun, and where
            several processes harvest together.

        Raises:
            Cancelled: through ``ctx``; the block is then harvested when it is needed.
        """
        if self._buffer is None or self._peers is not None:
            return False
        return self._buffer.fill_ahead(ctx)

    def request_checkpoint(self) -> None:
        """Have a checkpoint written after the batch in work. Safe from any thread."""
        self._checkpoint_wanted = True

    def request_stop(self) -> None:
        """End the run after the batch in work, with a checkpoint. Safe from any thread."""
        self._stop = True

    def close(self) -> None:
        """Give up the run and its memory. What the last checkpoint has is kept."""
        iter(self).close()
        self._release()

    # --- the run ---------------------------------------------------------------------------

    def _run(self) -> Generator[TrainEvent, None, None]:
        if self._folder.finished:
            yield Finished(self.out_dir)
            return
        yield OffThread("prepare", "Preparing", self._prepare)
        progress, config = self._progress, self.config
        total = config.total_steps
        while progress.step < total:
            # No name here for the buffer, which holds a copy of the model: the run lies still in
            # this frame while work off the thread gives everything back.
            self._need_buffer().use(progress.block, more_needed=True)
            while (block := self._need_buffer().get(progress.block)) is None:
                yield self._harvest_event(progress.block)
            self._block = block
            batches = max(1, block.n_tokens // config.batch_tokens)
            del block  # whoever releases the run must hold the last reference
            left = batches - progress.batch
            self._need_buffer().use(progress.block, more_needed=progress.step + left < total)
            while progress.batch < batches and progress.step < total:
                yield from self._batch()
                progress.batch += 1
                if progress.batch == batches:
                    # Position first, so that a checkpoint never points past a block's end.
                    progress.block, progress.batch, batches = progress.block + 1, 0, 0
                stopping = yield from self._after_batch()
                if stopping:
                    yield Stopped(progress.step, self._latest)
                    return
            self._block = None
        yield OffThread("save", "Saving the replacement model", self._save)
        yield Finished(self.out_dir)

    def _batch(self) -> Iterator[TrainEvent]:
        progress, config, block = self._progress, self.config, self._block
        assert block is not None  # made by work the driver has run
        batch = block.batch(progress.batch, config.batch_tokens)
        step = progress.step + 1
        metrics: list[StepMetrics] = []
        for module in self._modules:
            steps = module.step(batch, self._step_settings(module))
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    results: dict[Site, StepResult] = end.value
                    break
                yield MicroStep(step, module.name)
            for site, result in results.items():
                if not math.isfinite(result.loss + result.gradient_norm):
                    raise diverged(site, step, "loss", result.loss)
                metrics.append(
                    StepMetrics(
                        site=site,
                        loss=result.loss,
                        fvu=result.fvu,
                        l0=result.l0,
                        dead_fraction=result.dead / config.latents_at(site),
                        gradient_norm=result.gradient_norm,
                    )
                )
        progress.step = step
        progress.tokens += min(config.batch_tokens, block.n_tokens)
        yield StepDone(
            step=progress.step,
            total_steps=config.total_steps,
            tokens=progress.tokens,
            learning_rate=learning_rate_at(config, progress.step - 1),
            k=k_at(config, progress.step - 1),
            metrics=tuple(metrics),
        )

    def _step_settings(self, module: TrainedModule) -> StepSettings:
        d_model = self._loaded.info.d_model
        settings = self.config.step_settings(self._progress.step, d_model)
        if module.sites[0].kind == "attention":
            return self.config.attention_settings(settings)
        return settings

    def _after_batch(self) -> Generator[TrainEvent, None, bool]:
        """Evaluate and write a checkpoint if it is time; returns whether the run stops here."""
        progress, config = self._progress, self.config
        last = progress.step == config.total_steps
        if last or progress.step % config.evaluation_interval == 0:
            yield OffThread("evaluate", "Measuring on held-out text", self._evaluate)
            yield Evaluated(
                step=progress.step,
                tokens=progress.tokens,
                metrics=self._newest,
                loss_recovered=progress.overall.get("loss_recovered"),
                kl=progress.overall.get("kl"),
            )
        stop, wanted = self._stop, self._checkpoint_wanted
        if self._peers is not None:
            stop, wanted = self._peers.agree(stop, wanted)
        stopping = stop and not last
        due = progress.step % config.checkpoint_every == 0 or wanted
        if due or last or stopping:
            self._checkpoint_wanted = False
            work = self._write_last_checkpoint if stopping else self._write_checkpoint
            yield OffThread("checkpoint", "Writing a checkpoint", work)
        return stopping

    def _harvest_event(self, index: int) -> OffThread:
        buffer = self._need_buffer()

        def fill(ctx: Optional[WorkContext] = None) -> None:
            buffer.fill(index, ctx)

        return OffThread("harvest", "Collecting activations", fill)

    # --- work off the thread ---------------------------------------------------------------

    def _prepare(self, ctx: Optional[WorkContext] = None) -> None:
        """Copy the model if need be, make or restore the modules, fill the first block."""
        config, loaded, division = self.config, self._loaded, self._division
        if self._peers is not None:
            identity, step = self._folder.identity, self._progress.step
            check_peers(self._peers, identity.settings, identity.sources, step)
        adapter = harvest_adapter(loaded, self._harvest_dtype, config.sites)
        if adapter is not loaded.adapter:
            self._copy = adapter
        source = self._source(adapter, self._corpus)
        self._evaluator = RunEvaluator(
            Evaluator(
                self._source(adapter, self._heldout),
                loaded.adapter,
                config.heldout_tokens,
                config.downstream_tokens,
                self._model_lock,
                division,
            ),
            division,
        )
        buffer = BlockBuffer(source)
        buffer.use(self._progress.block)
        # Where training starts follows from all of the first block.
        buffer.fill(self._progress.block, ctx, whole=self._folder.checkpoint is None)
        factory = ModuleFactory(
            loaded,
            config,
            self._device,
            self._selection_dtype,
            self._room_on_disk(clt_on_disk),
            None if division is None else division.trained_by(division.peers.rank),
            None if division is None else division.gradient_peers,
        )
        if self._folder.checkpoint is None:
            block = buffer.get(self._progress.block)
            assert block is not None  # it has just been filled
            fresh = factory.fresh(block, ctx)
            del block
            self._modules = fresh.modules
            self._evaluator.measure_affine(fresh.affine, self._progress, ctx)
            if division is not None and division.by_data:
                # Machines may differ in the last bits.
                for module in self._modules:
                    for tensors in module.tensors().values():
                        for tensor in tensors.values():
                            division.peers.broadcast(tensor, 0)
        else:
            self._modules = factory.blank()
            read_modules(self._folder.checkpoint, self._modules, ctx)
            logger.info(f"Resuming at step {self._progress.step} from {self._folder.checkpoint}")
        self._buffer = buffer

    def _evaluate(self, ctx: Optional[WorkContext] = None) -> None:
        assert self._evaluator is not None  # made by _prepare
        self._evaluator.measure(self.dictionaries, self._progress, ctx)

    def _write_checkpoint(self, ctx: Optional[WorkContext] = None) -> None:
        self._folder.write_checkpoint(self._own_modules, ctx)

    def _write_last_checkpoint(self, ctx: Optional[WorkContext] = None) -> None:
        self._write_checkpoint(ctx)
        self._release()

    def _save(self, ctx: Optional[WorkContext] = None) -> None:
        del ctx  # a second or two, and stopping half-way would help nobody
        self._folder.save(self.dictionaries, self._loaded.info, self._newest)
        if self._copy is not None:
            # The last block is there, so nobody runs the copy any more.
            give_back_weights(self._copy.model)
        self._release()

    # --- small parts -----------------------------------------------------------------------

    def _source(self, adapter: ModelAdapter, corpus: TokenCorpus) -> ActivationSource:
        return ActivationSource(
            adapter,
            corpus,
            self.config.sites,
            block_tokens=self.config.block_tokens,
            seed=self.config.seed,
            batch=self.config.harvest_batch,
            device=self._device,
            lock=self._model_lock,
            folder=self._room_on_disk(buffer_on_disk),
            division=self._division,
        )

    def _room_on_disk(self, goes_there: _GoesToDisk) -> Optional[Path]:
        """Where to keep what memory has no room for, or None if it has."""
        on_disk = self._device.type == "cpu" and goes_there(
            self.estimate, self.config, self._max_ram_gb
        )
        return self._folder.working_files if on_disk else None

    def _need_buffer(self) -> BlockBuffer:
        if self._buffer is None:
            raise RuntimeError("the driver must run OffThread work before it calls next()")
        return self._buffer

    @property
    def _latest(self) -> Path:
        assert self._folder.checkpoint is not None  # a stop has just written one
        return self._folder.checkpoint

    @property
    def _newest(self) -> tuple[SiteMetrics, ...]:
        """What was last measured of all modules."""
        return tuple(self._progress.history[-len(self.config.sites) :])

    def _release(self) -> None:
        """Give back the run's memory. It takes long for gigabytes, so work off the thread does it
        wherever a run ends by itself."""
        if self._buffer is not None:
            self._buffer.close()
        self._buffer = None
        self._evaluator = None
        self._copy = None
        self._block = None
        self._modules = ()
        self._folder.release()
