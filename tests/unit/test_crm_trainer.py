"""The trainer as its driver sees it."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
import safetensors.torch
import torch

from attention_studio.core import crm_trainer, training_checks
from attention_studio.core.activations import cpu_has_bfloat16
from attention_studio.core.corpus import CorpusError
from attention_studio.core.crm_trainer import (
    CRMTrainer,
    Evaluated,
    ExistingRunError,
    Finished,
    MicroStep,
    OffThread,
    StepDone,
    Stopped,
    TrainConfig,
    TrainEvent,
    TrainingDivergedError,
    TrainingMemoryError,
    TrainSettingsError,
    estimate_training,
    run_to_end,
)
from attention_studio.core.dictionaries.crm_folder import load_crm
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.sites import Site, mlp_sites
from attention_studio.core.training_checkpoint import (
    CheckpointError,
    ResumeMismatchError,
    latest_checkpoint,
    read_metrics,
)
from attention_studio.core.training_estimate import measure_flops
from attention_studio.utils.errors import Cancelled, StudioError
from attention_studio.utils.files import FileWriteError
from attention_studio.utils.progress import WorkContext
from tests.tiny import tiny_loaded
from tests.training import CONFIG, corpus, make_trainer


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_loaded("llama")


def drive(trainer: CRMTrainer, until: Optional[Callable[[TrainEvent], bool]] = None) -> list[Any]:
    events: list[Any] = []
    for event in trainer:
        events.append(event)
        if until is not None and until(event):
            break
        if isinstance(event, OffThread):
            event.run(None)
    return events


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name}:{name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in safetensors.torch.load_file(path).items()
    }


def assert_equal_weights(one: Path, two: Path) -> None:
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    assert len(a) > 0
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.fixture(scope="module")
def run(
    loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CRMTrainer, list[Any], Path]:
    out = tmp_path_factory.mktemp("run") / "crm"
    trainer = make_trainer(loaded, out)
    return trainer, drive(trainer), out


class TestEvents:
    def test_every_step_reports_every_layer(self, run: tuple[CRMTrainer, list[Any], Path]) -> None:
        steps = [e for e in run[1] if isinstance(e, StepDone)]
        assert [e.step for e in steps] == list(range(1, 25))
        assert all(e.total_steps == 24 for e in steps)
        assert [e.tokens for e in steps] == [64 * (i + 1) for i in range(24)]
        assert all([m.site.layer for m in e.metrics] == [0, 2] for e in steps)
        assert steps[0].k == 6
        assert steps[-1].k == 2
        assert steps[-1].metrics[0].l0 == pytest.approx(2.0)

    def test_micro_steps_lie_between(self, run: tuple[CRMTrainer, list[Any], Path]) -> None:
        micro = [e for e in run[1] if isinstance(e, MicroStep)]
        assert {(e.step, e.name) for e in micro} == {
            (step, name) for step in range(1, 25) for name in ("mlp_00", "mlp_02")
        }
        assert len(micro) > 24 * 2 * 10

    def test_training_lowers_the_loss(self, run: tuple[CRMTrainer, list[Any], Path]) -> None:
        evaluated = [e for e in run[1] if isinstance(e, Evaluated)]
        assert [e.step for e in evaluated] == [9, 18, 24]
        for i in range(2):
            first, last = evaluated[0].metrics[i], evaluated[-1].metrics[i]
            assert last.fvu < first.fvu
            # With a skip connection the affine map is where training starts.
            assert last.fvu < last.affine_fvu < 1
            # The running threshold of so short a run lags behind the annealed k of 2.
            assert 0 < last.l0 < 12
        assert evaluated[-1].kl is not None
        assert run[0].history == [row for e in evaluated for row in e.metrics]

    def test_long_work_comes_out(self, run: tuple[CRMTrainer, list[Any], Path]) -> None:
        kinds = [e.kind for e in run[1] if isinstance(e, OffThread)]
        assert kinds[0] == "prepare"
        assert kinds.count("checkpoint") == 6
        assert kinds.count("evaluate") == 3
        assert kinds.count("harvest") >= 3
        assert kinds[-1] == "save"

    def test_events_are_frozen(self, run: tuple[CRMTrainer, list[Any], Path]) -> None:
        for event in run[1]:
            with pytest.raises(FrozenInstanceError):
                event.step = 5

    def test_the_folder_holds_a_crm_and_no_checkpoints(
        self, run: tuple[CRMTrainer, list[Any], Path], loaded: LoadedModel
    ) -> None:
        trainer, events, out = run
        assert events[-1] == Finished(out)
        assert sorted(p.name for p in out.iterdir()) == [
            "history.json",
            "manifest.json",
            "mlp_00.safetensors",
            "mlp_02.safetensors",
        ]
        written = json.loads((out / "history.json").read_text(encoding="utf-8"))
        assert [read_metrics(row) for row in written] == trainer.history
        crm = load_crm(out, loaded.info)
        record = crm.manifest.training
        assert record.tokens_trained == 24 * 64
        assert record.text_hash == corpus(40, 0).text_hash
        assert TrainConfig.model_validate(record.settings) == CONFIG
        last = trainer.history[-2:]
        assert [crm.manifest.dictionaries[row.site.name].metrics["fvu"] for row in last] == [
            r.fvu for r in last
        ]
        # What was saved is what was measured.
        held = corpus(12, 1)
        ids = torch.from_numpy(held.tokens.astype(np.int64))
        found = loaded.adapter.harvest(ids, mlp_sites((0,)))[Site(0, "mlp")]
        keep = torch.from_numpy(held.kept())
        x, y = found.inputs[keep][:100], found.outputs[keep][:100]
        fvu = (crm.dictionaries.transcoders[0](x) - y).square().sum() / (
            y - y.mean(0)
        ).square().sum()
        assert fvu.item() == pytest.approx(last[0].fvu, rel=0.02)  # harvested in bfloat16 or not


def test_same_weights_with_a_second_thread_harvesting(loaded: LoadedModel, tmp_path: Path) -> None:
    run_to_end(make_trainer(loaded, tmp_path / "one"))
    trainer = make_trainer(loaded, tmp_path / "two")
    done = threading.Event()

    def harvest() -> None:
        while not done.wait(0.001):
            trainer.harvest_ahead()

    helper = threading.Thread(target=harvest)
    helper.start()
    try:
        events = drive(trainer)
    finally:
        done.set()
        helper.join()
    assert isinstance(events[-1], Finished)
    assert_equal_weights(tmp_path / "one", tmp_path / "two")


def test_another_seed_gives_other_weights(loaded: LoadedModel, tmp_path: Path) -> None:
    for seed in (0, 1):
        run_to_end(make_trainer(loaded, tmp_path / str(seed), seed=seed))
    a, b = weights(tmp_path / "0"), weights(tmp_path / "1")
    assert not torch.equal(a["mlp_00.safetensors:W_E"], b["mlp_00.safetensors:W_E"])


@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu"])
@pytest.mark.parametrize("init", ["zero", "response"])
def test_the_other_kinds_learn(loaded: LoadedModel, tmp_path: Path, kind: str, init: str) -> None:
    trainer = make_trainer(
        loaded,
        tmp_path / "crm",
        activation=kind,
        init=init,
        skip=False,
        k_start=None,
        k=8,
        learning_rate=2e-2,
        tokens=60 * 64,
        eval_every=20,
        downstream_tokens=0,
    )
    run_to_end(trainer)
    first, last = trainer.history[0], trainer.history[-2]
    assert first.site == last.site == Site(0, "mlp")
    assert last.fvu < first.fvu
    assert last.fvu < 0.9
    assert last.loss_recovered is None


MIXED = {
    "transcoders and Lorsas": {"attention_layers": (0, 1, 2), "attention_latents": 64},
    "Lorsas alone": {"layers": (), "attention_layers": (1,), "attention_latents": 64},
    "cross-layer": {"mlp": "clt", "skip": False, "layers": (0, 1, 2)},
    "cross-layer and Lorsas, on disk": {
        "mlp": "clt",
        "norm_aware": True,
        "skip": False,
        "attention_layers": (1, 2),
        "attention_latents": 64,
        "buffer": "disk",
        "clt_store": "disk",
    },
}


@pytest.mark.parametrize("changes", MIXED.values(), ids=MIXED.keys())
class TestMixedRuns:
    """Any kinds at any modules from one harvest, resumed bit for bit, opened from their folder."""

    def test_a_stopped_run_ends_as_if_never_stopped(
        self, loaded: LoadedModel, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        changes = {"attention_k": 4, "k": 4, "k_start": 8, **changes}
        trainer = make_trainer(loaded, tmp_path / "whole", **changes)
        run_to_end(trainer)
        sites = trainer.config.sites
        first, last = trainer.history[: len(sites)], trainer.history[-len(sites) :]
        assert {row.site for row in last} == set(sites)
        for before, after in zip(first, last, strict=True):
            assert after.fvu < before.fvu
            assert after.kl is not None

        parts = make_trainer(loaded, tmp_path / "parts", **changes)
        for event in parts:
            if isinstance(event, OffThread):
                event.run(None)
            if isinstance(event, StepDone) and event.step == 10:
                parts.request_stop()
        parts.close()
        run_to_end(make_trainer(loaded, tmp_path / "parts", resume=True, **changes))
        whole, again = (load_crm(tmp_path / name, loaded.info) for name in ("whole", "parts"))
        assert whole.manifest.sites == again.manifest.sites == sites
        for name, entry in whole.manifest.dictionaries.items():
            assert again.manifest.dictionaries[name].sha256 == entry.sha256
        assert not [p.name for p in (tmp_path / "parts").iterdir() if p.is_dir()]


def test_latents_that_heads_cannot_share(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(TrainSettingsError, match="attention_latents = 64"):
        make_trainer(loaded, tmp_path, attention_layers=(0,), attention_latents=66)


class TestStopping:
    def test_stop_and_resume_ends_as_if_never_stopped(
        self, loaded: LoadedModel, tmp_path: Path
    ) -> None:
        run_to_end(make_trainer(loaded, tmp_path / "whole"))
        trainer = make_trainer(loaded, tmp_path / "parts")
        events = []
        for event in trainer:
            events.append(event)
            if isinstance(event, OffThread):
                event.run(None)
            if isinstance(event, MicroStep) and event.step == 7:
                trainer.request_stop()
        assert isinstance(events[-1], Stopped)
        assert events[-1].step == 7
        assert events[-1].checkpoint == latest_checkpoint(tmp_path / "parts")
        resumed = make_trainer(loaded, tmp_path / "parts", resume=True)
        assert resumed.step == 7
        run_to_end(resumed)
        assert_equal_weights(tmp_path / "whole", tmp_path / "parts")
        assert [row.tokens for row in resumed.history[::2]] == [9 * 64, 18 * 64, 24 * 64]

    def test_a_checkpoint_on_demand(self, loaded: LoadedModel, tmp_path: Path) -> None:
        trainer = make_trainer(loaded, tmp_path / "crm", checkpoint_every=100)
        drive(trainer, lambda e: isinstance(e, StepDone) and e.step == 2)
        trainer.request_checkpoint()
        drive(trainer, lambda e: isinstance(e, MicroStep))
        found = latest_checkpoint(tmp_path / "crm")
        assert found is not None
        assert found.name == "step_00000002"
        trainer.close()

    def test_only_the_last_checkpoint_is_kept(self, loaded: LoadedModel, tmp_path: Path) -> None:
        trainer = make_trainer(loaded, tmp_path / "crm")
        drive(trainer, lambda e: isinstance(e, StepDone) and e.step == 13)
        assert [p.name for p in (tmp_path / "crm" / "checkpoints").iterdir()] == ["step_00000012"]
        trainer.close()

    @pytest.mark.parametrize("kind", ["prepare", "harvest", "evaluate", "checkpoint"])
    def test_cancel_in_long_work_leaves_a_run_to_resume(
        self, loaded: LoadedModel, tmp_path: Path, kind: str
    ) -> None:
        trainer = make_trainer(loaded, tmp_path / "crm")
        ctx = WorkContext()

        with pytest.raises(Cancelled):
            for event in trainer:
                if isinstance(event, OffThread):
                    if event.kind == kind:
                        ctx.cancel()
                    event.run(ctx)
        trainer.close()
        folder = tmp_path / "crm" / "checkpoints"
        assert not folder.exists() or not list(folder.glob(".*"))
        run_to_end(make_trainer(loaded, tmp_path / "crm", resume=True))
        run_to_end(make_trainer(loaded, tmp_path / "whole"))
        assert_equal_weights(tmp_path / "crm", tmp_path / "whole")

    def test_cancel_between_micro_steps(self, loaded: LoadedModel, tmp_path: Path) -> None:
        ctx = WorkContext()

        def stop(event: TrainEvent) -> None:
            if isinstance(event, StepDone) and event.step == 5:
                ctx.cancel()

        with pytest.raises(Cancelled):
            run_to_end(make_trainer(loaded, tmp_path / "crm"), ctx, stop)
        assert latest_checkpoint(tmp_path / "crm") is not None

    def test_the_driver_must_run_long_work(self, loaded: LoadedModel, tmp_path: Path) -> None:
        events = iter(make_trainer(loaded, tmp_path / "crm"))
        next(events)
        with pytest.raises(RuntimeError, match="OffThread"):
            next(events)


class TestResume:
    @pytest.fixture
    def stopped(self, loaded: LoadedModel, tmp_path: Path) -> Path:
        trainer = make_trainer(loaded, tmp_path / "crm")
        drive(trainer, lambda e: isinstance(e, StepDone) and e.step == 5)
        trainer.close()
        return tmp_path / "crm"

    @pytest.mark.parametrize(
        ("field", "value"),
        [("learning_rate", 1e-3), ("k", 3), ("layers", (0, 1)), ("seed", 9), ("tokens", 6400)],
    )
    def test_other_settings(
        self, loaded: LoadedModel, stopped: Path, field: str, value: Any
    ) -> None:
        with pytest.raises(ResumeMismatchError, match=field):
            make_trainer(loaded, stopped, resume=True, **{field: value})

    def test_other_text(self, loaded: LoadedModel, stopped: Path) -> None:
        with pytest.raises(ResumeMismatchError, match="text_hash"):
            CRMTrainer(loaded, corpus(40, 9), corpus(12, 1), CONFIG, stopped, resume=True)
        with pytest.raises(ResumeMismatchError, match="heldout_hash"):
            CRMTrainer(loaded, corpus(40, 0), corpus(12, 9), CONFIG, stopped, resume=True)

    def test_another_model(self, stopped: Path) -> None:
        with pytest.raises(ResumeMismatchError, match="weights_hash"):
            make_trainer(tiny_loaded("llama", seed=3), stopped, resume=True)

    def test_another_processor(
        self, loaded: LoadedModel, stopped: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where latents would be ranked in another type, the weights would be others."""
        other = torch.float32 if cpu_has_bfloat16() else torch.bfloat16
        monkeypatch.setattr(crm_trainer, "choose_selection_dtype", lambda *_: other)
        with pytest.raises(ResumeMismatchError, match="selection type"):
            make_trainer(loaded, stopped, resume=True)

    def test_a_run_of_an_older_version_says_so(self, loaded: LoadedModel, stopped: Path) -> None:
        checkpoint = latest_checkpoint(stopped)
        assert checkpoint is not None
        edit(checkpoint, lambda state: state["settings"].pop("encoder_init"))
        with pytest.raises(ResumeMismatchError, match=r"older version.*setting encoder_init"):
            make_trainer(loaded, stopped, resume=True)

    def test_how_often_to_look_may_change(self, loaded: LoadedModel, stopped: Path) -> None:
        make_trainer(loaded, stopped, resume=True, eval_every=2, checkpoint_every=3)

    def test_a_new_run_does_not_destroy_an_old_one(
        self, loaded: LoadedModel, stopped: Path
    ) -> None:
        with pytest.raises(ExistingRunError, match="Resume it"):
            make_trainer(loaded, stopped)
        run_to_end(make_trainer(loaded, stopped, resume=True))
        with pytest.raises(ExistingRunError, match="finished"):
            make_trainer(loaded, stopped)

    def test_one_run_at_a_time_in_a_folder(self, loaded: LoadedModel, tmp_path: Path) -> None:
        out = tmp_path / "crm"
        first = make_trainer(loaded, out)
        for resume in (False, True):
            with pytest.raises(ExistingRunError, match=rf"process {os.getpid()}\b.*Wait for it"):
                make_trainer(loaded, out, resume=resume)
        drive(first, lambda e: isinstance(e, StepDone) and e.step == 5)
        with pytest.raises(ExistingRunError, match="is training into"):
            make_trainer(loaded, out, resume=True)
        # The window makes and drops runs on one thread and closes them on another.
        closing = threading.Thread(target=first.close)
        closing.start()
        closing.join()
        assert [path.name for path in out.iterdir()] == ["checkpoints"]
        again = make_trainer(loaded, out, resume=True)
        assert again.step == 4
        first.close()  # again: what it does not hold it does not give away
        with pytest.raises(ExistingRunError, match="is training into"):
            make_trainer(loaded, out, resume=True)
        run_to_end(again)

    def test_a_run_that_is_never_begun_keeps_nobody_out(
        self, loaded: LoadedModel, stopped: Path
    ) -> None:
        with pytest.raises(ResumeMismatchError):
            make_trainer(loaded, stopped, resume=True, seed=9)
        make_trainer(loaded, stopped, resume=True)
        make_trainer(loaded, stopped, resume=True).close()

    def test_a_finished_run(self, loaded: LoadedModel, stopped: Path) -> None:
        run_to_end(make_trainer(loaded, stopped, resume=True))
        assert drive(make_trainer(loaded, stopped, resume=True)) == [Finished(stopped)]
        with pytest.raises(ResumeMismatchError, match="seed"):
            make_trainer(loaded, stopped, resume=True, seed=5)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda p: (p / "state.json").write_text("{"), "state.json"),
            (lambda p: (p / "state.json").write_text("[]"), "format_version"),
            (lambda p: (p / "state.json").unlink(), "state.json"),
            (lambda p: edit(p, lambda s: s.pop("files")), "files is missing"),
            (lambda p: edit(p, lambda s: s.update(format_version=9)), "format_version"),
            (lambda p: edit(p, lambda s: s["progress"].pop("step")), "progress: 'step'"),
            (lambda p: edit(p, lambda s: s["progress"].update(block="x")), "progress"),
            (lambda p: edit(p, lambda s: s["progress"].update(history=[{}])), "progress"),
            (lambda p: edit(p, lambda s: s["optimizer_steps"].pop("mlp_02")), "optimizer_steps"),
            (lambda p: (p / "mlp_02.safetensors").unlink(), "mlp_02.safetensors.*missing"),
            (lambda p: flip(p / "mlp_02.safetensors"), "mlp_02.safetensors.*not the file"),
            (lambda p: cut(p / "mlp_00.safetensors"), "mlp_00.safetensors.*not the file"),
        ],
    )
    def test_damaged_checkpoints(
        self,
        loaded: LoadedModel,
        stopped: Path,
        damage: Callable[[Path], Any],
        message: str,
    ) -> None:
        checkpoint = latest_checkpoint(stopped)
        assert checkpoint is not None
        damage(checkpoint)
        with pytest.raises(CheckpointError, match=f"(?s){message}"):
            run_to_end(make_trainer(loaded, stopped, resume=True))

    def test_a_full_disk_leaves_the_old_checkpoint(
        self, loaded: LoadedModel, stopped: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_args: Any, **_kwargs: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(safetensors.torch, "save_file", full)
            with pytest.raises(FileWriteError, match="disk is full"):
                run_to_end(make_trainer(loaded, stopped, resume=True))
        found = latest_checkpoint(stopped)
        assert found is not None
        assert found.name == "step_00000004"
        run_to_end(make_trainer(loaded, stopped, resume=True))


def edit(checkpoint: Path, change: Callable[[Any], Any]) -> None:
    state = json.loads((checkpoint / "state.json").read_text())
    change(state)
    (checkpoint / "state.json").write_text(json.dumps(state))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 255
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


class TestRefusals:
    def test_layers_the_model_does_not_have(self, loaded: LoadedModel, tmp_path: Path) -> None:
        with pytest.raises(TrainSettingsError, match=r"no layer 3.*0 to 2"):
            make_trainer(loaded, tmp_path, layers=(0, 3))

    def test_text_of_another_row_length(self, loaded: LoadedModel, tmp_path: Path) -> None:
        with pytest.raises(TrainSettingsError, match=r"rows of 16 tokens.*seq_len is 32"):
            make_trainer(loaded, tmp_path, seq_len=32)

    def test_too_little_text(self, loaded: LoadedModel, tmp_path: Path) -> None:
        with pytest.raises(CorpusError, match="too little text"):
            CRMTrainer(loaded, corpus(3, 0), corpus(3, 1), CONFIG, tmp_path)

    def test_too_little_held_out_text(self, loaded: LoadedModel, tmp_path: Path) -> None:
        held = corpus(1, 1)
        held = type(held).of(held.tokens * 0, held.lengths, 0)
        with pytest.raises(CorpusError, match="held-out text is too short"):
            CRMTrainer(loaded, corpus(40, 0), held, CONFIG, tmp_path)

    def test_too_little_memory(
        self, loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = CONFIG.model_copy(update={"block_tokens": 100_000, "buffer": "memory"})
        estimate = estimate_training(loaded.info, config)
        little = estimate.memory_bytes - estimate.block_bytes // 2
        monkeypatch.setattr(training_checks, "available_ram", lambda _limit: little)
        with pytest.raises(TrainingMemoryError, match="buffer = auto"):
            CRMTrainer(loaded, corpus(40, 0), corpus(12, 1), config, tmp_path)
        on_disk = config.model_copy(update={"buffer": "auto"})
        CRMTrainer(loaded, corpus(40, 0), corpus(12, 1), on_disk, tmp_path)
        monkeypatch.setattr(training_checks, "available_ram", lambda _limit: 1000)
        with pytest.raises(TrainingMemoryError, match="fewer layers"):
            CRMTrainer(loaded, corpus(40, 0), corpus(12, 1), config, tmp_path)

    def test_divergence_is_said(self, loaded: LoadedModel, tmp_path: Path) -> None:
        with pytest.raises(TrainingDivergedError, match=r"mlp \d diverged at step \d+"):
            drive(make_trainer(loaded, tmp_path / "crm", learning_rate=1e30, clip_norm=None))

    def test_errors_say_what_to_do(self, loaded: LoadedModel, tmp_path: Path) -> None:
        with pytest.raises(StudioError) as caught:
            make_trainer(loaded, tmp_path, layers=(7,))
        assert caught.value.todo


class TestEstimate:
    def test_parameters_and_memory(self, loaded: LoadedModel) -> None:
        found = estimate_training(loaded.info, CONFIG)
        shapes = CONFIG.transcoder(32).tensor_shapes().values()
        one = sum(int(np.prod(shape)) for shape in shapes)
        assert found.parameters == 2 * one
        assert found.disk_bytes == 2 * 3 * 2 * one * 4
        assert found.memory_bytes > 3 * found.parameters * 4 + found.block_bytes
        assert found.seconds is None

    def test_growth(self, loaded: LoadedModel) -> None:
        small = estimate_training(loaded.info, CONFIG, 1e9)
        for change in ({"d_latent": 960}, {"layers": (0, 1, 2)}, {"tokens": 10**6}):
            bigger = estimate_training(loaded.info, CONFIG.model_copy(update=change), 1e9)
            assert small.seconds is not None
            assert bigger.seconds is not None
            assert bigger.seconds > small.seconds
            assert bigger.memory_bytes >= small.memory_bytes
        faster = estimate_training(loaded.info, CONFIG, 2e9)
        assert faster.seconds == pytest.approx(small.seconds / 2)

    def test_smollm2_in_the_right_region(self, loaded: LoadedModel) -> None:
        """All 30 layers in one pass were measured at about 500 to 700 tokens per second."""
        info = replace(
            loaded.info,
            n_layers=30,
            d_model=576,
            n_heads=9,
            n_kv_heads=3,
            d_head=64,
            d_mlp=1536,
            vocab_size=49152,
            n_parameters=134_515_008,
        )
        config = TrainConfig(layers=tuple(range(30)), downstream_tokens=0)
        found = estimate_training(info, config, 171e9)
        assert found.seconds is not None
        assert 300 < config.tokens / found.seconds < 1000
        assert 4e9 < found.memory_bytes < 9e9

    def test_the_machine_can_be_measured(self) -> None:
        assert 1e8 < measure_flops() < 1e15
