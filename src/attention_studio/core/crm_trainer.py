"""CRMTrainer: trains a transcoder for every layer that is asked for, from one harvest of text.

The trainer is an iterator of micro-steps, each a few milliseconds long, so that a window can drive
it from its event loop without freezing; headless, ``run_to_end`` drives it in a plain loop. What
takes longer comes out as ``OffThread`` work for the driver to run elsewhere. Nothing depends on
time or on who drives: same settings, texts, model and number of threads, same weights, bit for bit
on a CPU, in one go or resumed after a kill.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Iterator
from dataclasses import asdict
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
from attention_studio.core.dictionaries.crm_folder import (
    MANIFEST_NAME,
    TrainingRecord,
    load_manifest,
    save_crm,
)
from attention_studio.core.dictionaries.transcoder import Transcoder, TranscoderConfig
from attention_studio.core.evaluation import DownstreamQuality, Evaluation, Evaluator
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.training_checkpoint import (
    Progress,
    RunIdentity,
    latest_checkpoint,
    read_progress,
    read_states,
    remove_checkpoints,
    write_checkpoint,
)
from attention_studio.core.training_checks import (
    ExistingRunError,
    TrainingDivergedError,
    TrainingMemoryError,
    TrainSettingsError,
    check_fit,
    check_memory,
    diverged,
    training_device,
)
from attention_studio.core.training_config import TrainConfig, k_at, learning_rate_at
from attention_studio.core.training_driver import run_to_end
from attention_studio.core.training_estimate import TrainEstimate, estimate_training
from attention_studio.core.training_events import (
    Evaluated,
    Finished,
    LayerMetrics,
    MicroStep,
    OffThread,
    StepDone,
    StepMetrics,
    Stopped,
    TrainEvent,
)
from attention_studio.core.training_gradients import StepScratch
from attention_studio.core.training_init import initial_transcoder, layer_statistics
from attention_studio.core.training_step import LayerState, StepResult, training_step
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

__all__ = [
    "CRMTrainer",
    "Evaluated",
    "ExistingRunError",
    "Finished",
    "LayerMetrics",
    "MicroStep",
    "OffThread",
    "StepDone",
    "Stopped",
    "TrainConfig",
    "TrainEstimate",
    "TrainEvent",
    "TrainSettingsError",
    "TrainingDivergedError",
    "TrainingMemoryError",
    "Transcoder",
    "TranscoderConfig",
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

    Raises:
        TrainSettingsError: layers the model does not have, texts of another row length.
        CorpusError: too little text.
        ExistingRunError: ``out_dir`` holds a run and ``resume`` is off.
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
    ) -> None:
        check_fit(loaded, corpus, heldout, config)
        self.config = config
        self.out_dir = Path(out_dir)
        self._loaded = loaded
        self._corpus = corpus
        self._heldout = heldout
        self._device = training_device(config.device, loaded.adapter.device)
        self._harvest_dtype = choose_harvest_dtype(
            config.harvest_dtype, loaded.adapter.device, loaded.adapter.dtype
        )
        self.estimate = estimate_training(loaded.info, config)
        check_memory(self.estimate, config, max_ram_gb)
        self._identity = RunIdentity(
            settings=config.model_dump(mode="json"),
            sources={
                "text_hash": corpus.text_hash,
                "heldout_hash": heldout.text_hash,
                "weights_hash": loaded.info.weights_hash,
                "harvest_type": str(self._harvest_dtype).removeprefix("torch."),
                "device_type": self._device.type,
            },
        )
        self._progress = Progress()
        self._done = False
        self._checkpoint = latest_checkpoint(self.out_dir)
        self._look_at_folder(resume)
        self._model_lock = threading.RLock()
        self._states: dict[int, LayerState] = {}
        self._buffer: Optional[BlockBuffer] = None
        self._evaluator: Optional[Evaluator] = None
        self._scratch: Optional[StepScratch] = None
        self._block: Optional[ActivationBlock] = None
        self._stop = False
        self._checkpoint_wanted = False
        self._events = self._run()

    # --- for the driver --------------------------------------------------------------------

    def __iter__(self) -> Iterator[TrainEvent]:
        """The run's events; there is only one run, so iterating again goes on with it."""
        return self._events

    @property
    def history(self) -> list[LayerMetrics]:
        """Held-out metrics so far, a row per layer and evaluation, in order of training."""
        return list(self._progress.history)

    @property
    def step(self) -> int:
        """Batches done, those of the run before a resume included."""
        return self._progress.step

    @property
    def transcoders(self) -> dict[int, Transcoder]:
        """The transcoders as they are now, unfolded; do not change them."""
        return {layer: state.transcoder for layer, state in self._states.items()}

    def harvest_ahead(self, ctx: Optional[WorkContext] = None) -> bool:
        """Fill the next block, on another thread than the one that iterates.

        Returns:
            Whether there was anything to do; False also before the run has begun.

        Raises:
            Cancelled: through ``ctx``; the block is then harvested when it is needed.
        """
        return self._buffer is not None and self._buffer.fill_ahead(ctx)

    def request_checkpoint(self) -> None:
        """Have a checkpoint written after the batch in work. Safe from any thread."""
        self._checkpoint_wanted = True

    def request_stop(self) -> None:
        """End the run after the batch in work, with a checkpoint. Safe from any thread."""
        self._stop = True

    def close(self) -> None:
        """Give up the run and its memory. What the last checkpoint has is kept."""
        self._events.close()
        self._release()

    # --- the run ---------------------------------------------------------------------------

    def _run(self) -> Generator[TrainEvent, None, None]:
        if self._done:
            yield Finished(self.out_dir)
            return
        yield OffThread("prepare", "Preparing", self._prepare)
        progress, config = self._progress, self.config
        total = config.total_steps
        while progress.step < total:
            buffer = self._need_buffer()
            buffer.use(progress.block, more_needed=True)
            while (block := buffer.get(progress.block)) is None:
                yield self._harvest_event(progress.block)
            self._block = block
            batches = max(1, block.n_tokens // config.batch_tokens)
            del block  # whoever releases the run must hold the last reference
            left = batches - progress.batch
            buffer.use(progress.block, more_needed=progress.step + left < total)
            while progress.batch < batches and progress.step < total:
                yield from self._batch()
                progress.batch += 1
                if progress.batch == batches:
                    # Position first, so that a checkpoint never points past a block's end.
                    progress.block, progress.batch, batches = progress.block + 1, 0, 0
                stopping = yield from self._after_batch()
                if stopping:
                    yield Stopped(progress.step, self._latest())
                    return
            self._block = None
        yield OffThread("save", "Saving the replacement model", self._save)
        yield Finished(self.out_dir)

    def _batch(self) -> Iterator[TrainEvent]:
        progress, config, block = self._progress, self.config, self._block
        size = config.batch_tokens
        rows = slice(progress.batch * size, (progress.batch + 1) * size)
        settings = config.step_settings(progress.step, self._loaded.info.d_model)
        scratch = self._scratch
        assert scratch is not None and block is not None  # made by work the driver has run
        metrics = []
        for layer, state in self._states.items():
            inputs, outputs = block.inputs[layer][rows], block.outputs[layer][rows]
            steps = training_step(state, scratch, inputs, outputs, settings)
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    result: StepResult = end.value
                    break
                yield MicroStep(progress.step + 1, layer)
            if not math.isfinite(result.loss + result.gradient_norm):
                raise diverged(layer, progress.step + 1, "loss", result.loss)
            metrics.append(StepMetrics(layer=layer, **asdict(result)))
        progress.step += 1
        progress.tokens += inputs.shape[0]
        yield StepDone(
            step=progress.step,
            total_steps=config.total_steps,
            tokens=progress.tokens,
            learning_rate=learning_rate_at(config, progress.step - 1),
            k=k_at(config, progress.step - 1),
            layer_metrics=tuple(metrics),
        )

    def _after_batch(self) -> Generator[TrainEvent, None, bool]:
        """Evaluate and write a checkpoint if it is time; returns whether the run stops here."""
        progress, config = self._progress, self.config
        last = progress.step == config.total_steps
        if last or progress.step % config.evaluation_interval == 0:
            yield OffThread("evaluate", "Measuring on held-out text", self._evaluate)
            newest = progress.history[-len(config.layers) :]
            yield Evaluated(
                step=progress.step,
                tokens=progress.tokens,
                layers=tuple(newest),
                loss_recovered=progress.overall.get("loss_recovered"),
                kl=progress.overall.get("kl"),
            )
        stopping = self._stop and not last
        due = progress.step % config.checkpoint_every == 0 or self._checkpoint_wanted
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
        """Copy the model if need be, make or restore the layers' states, fill the first block."""
        config, loaded = self.config, self._loaded
        adapter: ModelAdapter = loaded.adapter
        if adapter.dtype != self._harvest_dtype:
            adapter = loaded.copy_in(self._harvest_dtype)
        source = self._source(adapter, self._corpus)
        self._evaluator = Evaluator(
            self._source(adapter, self._heldout),
            loaded.adapter,
            config.heldout_tokens,
            config.downstream_tokens,
            self._model_lock,
        )
        buffer = BlockBuffer(source)
        buffer.use(self._progress.block)
        buffer.fill(self._progress.block, ctx)
        if self._checkpoint is None:
            self._states = self._initial_states(buffer, ctx)
        else:
            shape = config.transcoder(loaded.info.d_model)
            self._states = {
                layer: LayerState.new(Transcoder(shape).to(self._device)) for layer in config.layers
            }
            read_states(self._checkpoint, self._states, ctx)
            logger.info(f"Resuming at step {self._progress.step} from {self._checkpoint}")
        self._scratch = StepScratch(
            config.transcoder(loaded.info.d_model),
            config.batch_tokens,
            config.chunk_tokens,
            self._device,
        )
        self._buffer = buffer

    def _initial_states(
        self, buffer: BlockBuffer, ctx: Optional[WorkContext]
    ) -> dict[int, LayerState]:
        config = self.config
        block = buffer.get(self._progress.block)
        assert block is not None and self._evaluator is not None  # _prepare has just made both
        shape = config.transcoder(self._loaded.info.d_model)
        states, affine = {}, {}
        for i, layer in enumerate(config.layers):
            if ctx is not None:
                ctx.check()
                ctx.progress(i, len(config.layers), "Finding where to start")
            x, y = block.inputs[layer], block.outputs[layer]
            statistics = layer_statistics(x, y)
            states[layer] = LayerState.new(
                initial_transcoder(shape, statistics, x, y, config.init, config.seed, layer)
            )
            affine[layer] = statistics.predict_affine
        self._progress.affine_fvu = self._evaluator.fvu_of(affine, ctx)
        return states

    def _evaluate(self, ctx: Optional[WorkContext] = None) -> None:
        assert self._evaluator is not None  # made by _prepare
        found = self._evaluator.evaluate(self.transcoders, ctx)
        self._progress.history.extend(self._rows(found))
        overall = found.all_layers
        self._progress.overall = {} if overall is None else _downstream(overall)

    def _rows(self, found: Evaluation) -> list[LayerMetrics]:
        rows = []
        for layer, quality in found.layers.items():
            downstream = quality.downstream
            if not math.isfinite(quality.fvu):
                raise diverged(layer, self._progress.step, "held-out FVU", quality.fvu)
            rows.append(
                LayerMetrics(
                    tokens=self._progress.tokens,
                    layer=layer,
                    fvu=quality.fvu,
                    affine_fvu=self._progress.affine_fvu[layer],
                    l0=quality.l0,
                    dead_fraction=quality.dead_fraction,
                    density=quality.density,
                    loss_recovered=None if downstream is None else downstream.loss_recovered,
                    kl=None if downstream is None else downstream.kl,
                )
            )
        return rows

    def _write_checkpoint(self, ctx: Optional[WorkContext] = None) -> None:
        self._checkpoint = write_checkpoint(
            self.out_dir, self._identity, self._progress, self._states, ctx
        )

    def _write_last_checkpoint(self, ctx: Optional[WorkContext] = None) -> None:
        self._write_checkpoint(ctx)
        self._release()

    def _save(self, ctx: Optional[WorkContext] = None) -> None:
        """Write the CRM; only then the checkpoints may go."""
        del ctx  # a second or two, and stopping half-way would help nobody
        progress = self._progress
        newest = progress.history[-len(self.config.layers) :]
        save_crm(
            self.out_dir,
            self.transcoders,
            self._loaded.info,
            TrainingRecord(
                text_hash=self._corpus.text_hash,
                heldout_hash=self._heldout.text_hash,
                tokens_trained=progress.tokens,
                seed=self.config.seed,
                settings=dict(self._identity.settings),
                sources=dict(self._identity.sources),
                metrics=progress.overall,
                layer_metrics={
                    row.layer: {
                        name: getattr(row, name)
                        for name in (
                            "fvu",
                            "affine_fvu",
                            "l0",
                            "dead_fraction",
                            "loss_recovered",
                            "kl",
                        )
                    }
                    for row in newest
                },
            ),
        )
        remove_checkpoints(self.out_dir)
        self._release()

    # --- small parts -----------------------------------------------------------------------

    def _source(self, adapter: ModelAdapter, corpus: TokenCorpus) -> ActivationSource:
        return ActivationSource(
            adapter,
            corpus,
            self.config.layers,
            block_tokens=self.config.block_tokens,
            seed=self.config.seed,
            batch=self.config.harvest_batch,
            device=self._device,
            lock=self._model_lock,
        )

    def _need_buffer(self) -> BlockBuffer:
        if self._buffer is None:
            raise RuntimeError("the driver must run OffThread work before it calls next()")
        return self._buffer

    def _latest(self) -> Path:
        assert self._checkpoint is not None  # a stop has just written one
        return self._checkpoint

    def _look_at_folder(self, resume: bool) -> None:
        """Find out whether the folder holds a run, and what that means for this one."""
        finished = (self.out_dir / MANIFEST_NAME).is_file()
        if not resume:
            if finished or self._checkpoint is not None:
                raise ExistingRunError(
                    f"{self.out_dir} already holds a training run",
                    "a finished one" if finished else f"its last checkpoint is {self._checkpoint}",
                    "Resume it, or choose another folder",
                )
        elif self._checkpoint is not None:
            self._progress = read_progress(self._checkpoint, self._identity)
        elif finished:
            training = load_manifest(self.out_dir).training
            self._identity.check_same(training.settings, training.sources)
            self._done = True

    def _release(self) -> None:
        """Give back the run's memory. It takes long for gigabytes, so work off the thread does it
        wherever a run ends by itself."""
        if self._buffer is not None:
            self._buffer.close()
        self._evaluator = None
        self._scratch = None
        self._block = None
        self._states = {}


def _downstream(quality: DownstreamQuality) -> dict[str, Optional[float]]:
    return {**asdict(quality), "loss_recovered": quality.loss_recovered}
