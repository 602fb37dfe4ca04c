"""A checkpoint opened as a replacement model while the run goes on, and histories of runs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.crm_trainer import CRMTrainer, run_to_end
from attention_studio.core.dictionaries.crm_folder import load_crm, load_manifest
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.training_checkpoint import CheckpointError, latest_checkpoint
from attention_studio.core.training_events import OffThread, StepDone
from attention_studio.core.training_folder import RunHistoryError, read_history
from attention_studio.core.training_snapshot import (
    SnapshotError,
    passing_snapshot,
    save_snapshot,
)
from attention_studio.core.training_traces import TraceTableError, read_traces, trace_checkpoint
from tests.tiny import tiny_loaded
from tests.training import make_trainer

KINDS: dict[str, dict[str, Any]] = {
    "transcoders and Lorsas": {"attention_layers": (1,), "attention_latents": 64},
    "CLT": {"mlp": "clt", "skip": False, "activation": "topk", "layers": (0, 1, 2)},
}


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_loaded("llama")


def snapshots(run: Path) -> list[str]:
    """Everything that lies in a run's folder of snapshots."""
    return sorted(path.name for path in (run / "snapshots").iterdir())


def go_to(trainer: CRMTrainer, step: int) -> None:
    """Drive a run until the checkpoint of a step is written."""
    for event in trainer:
        if isinstance(event, OffThread):
            event.run(None)
            if event.kind == "checkpoint" and trainer.step >= step:
                return


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_predicts_what_the_run_does(
    kind: str, loaded: LoadedModel, tmp_path: Path
) -> None:
    trainer = make_trainer(loaded, tmp_path, **KINDS[kind])
    go_to(trainer, 8)
    folder = save_snapshot(loaded, tmp_path)
    assert folder.name == "step_00000008"
    manifest = load_manifest(folder)
    assert manifest.training.tokens_trained == 8 * 64
    snapshot = load_crm(folder, loaded.info).dictionaries
    living = trainer.dictionaries
    assert snapshot.sites == living.sites and not snapshot.unfolded and living.unfolded
    found = trainer._block.activations  # type: ignore[union-attr]
    expected = {one.site: one.predicted for one in living.predictions(found)}
    for one in snapshot.predictions(found):
        torch.testing.assert_close(one.predicted, expected[one.site], rtol=1e-5, atol=1e-5)
    # The run goes on undisturbed; the next snapshot stands beside the first, which a workspace may
    # name, and one for a moment leaves nothing.
    go_to(trainer, 12)
    with passing_snapshot(loaded, tmp_path) as passing:
        assert passing.name == "step_00000012"
        tokens = load_crm(passing, loaded.info).manifest.training.tokens_trained
    assert tokens == 12 * 64 and not passing.exists()
    assert snapshots(tmp_path) == ["step_00000008"]
    second = save_snapshot(loaded, tmp_path)
    assert second == save_snapshot(loaded, tmp_path)
    with passing_snapshot(loaded, tmp_path) as passing:
        assert passing == second
    assert snapshots(tmp_path) == ["step_00000008", "step_00000012"]
    load_crm(folder, loaded.info)
    trainer.close()


def test_what_killed_processes_leave_goes_with_the_next_snapshot(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(loaded, tmp_path, **KINDS["CLT"])
    go_to(trainer, 4)
    with monkeypatch.context() as patch:
        # As a kill does: nothing is tidied up.
        patch.setattr("attention_studio.utils.files.shutil.rmtree", lambda *_, **__: None)
        with passing_snapshot(loaded, tmp_path):
            pass
    left = list((tmp_path / "snapshots").iterdir())
    assert left and all(path.name.startswith(".") for path in left)
    inside = [path for folder in left for path in folder.rglob(".state.*")]
    assert inside, "the optimizer state lay on the disk, too"
    save_snapshot(loaded, tmp_path)
    assert set(left) < set((tmp_path / "snapshots").iterdir()), "they may be in use"
    yesterday = time.time() - 25 * 3600
    for path in left:
        os.utime(path, (yesterday, yesterday))
    go_to(trainer, 8)
    save_snapshot(loaded, tmp_path)
    assert snapshots(tmp_path) == ["step_00000004", "step_00000008"]
    trainer.close()


def test_a_run_with_snapshots_ends_as_one_without(loaded: LoadedModel, tmp_path: Path) -> None:
    for name, look in (("plain", False), ("looked at", True)):
        trainer = make_trainer(loaded, tmp_path / name)
        for event in trainer:
            if isinstance(event, OffThread):
                event.run(None)
            if look and isinstance(event, StepDone) and event.step in (6, 14):
                save_snapshot(loaded, tmp_path / name)
    for file in sorted((tmp_path / "plain").glob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "looked at" / file.name).read_bytes()


def test_without_a_checkpoint_or_with_another_model_it_says_so(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    with pytest.raises(SnapshotError, match="no checkpoint yet"):
        save_snapshot(loaded, tmp_path)
    trainer = make_trainer(loaded, tmp_path)
    go_to(trainer, 4)
    with pytest.raises(SnapshotError, match="another model"):
        save_snapshot(tiny_loaded("llama", seed=5), tmp_path)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    (checkpoint / "mlp_00.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError):
        save_snapshot(loaded, tmp_path)
    trainer.close()


def test_the_history_of_a_run_is_the_same_before_and_after_its_end(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    with pytest.raises(RunHistoryError, match="no training run"):
        read_history(tmp_path)
    trainer = make_trainer(loaded, tmp_path)
    go_to(trainer, 12)
    early = read_history(tmp_path)
    assert early == tuple(trainer.history) and early
    run_to_end(trainer)
    late = read_history(tmp_path)
    assert late == tuple(trainer.history)
    assert late[: len(early)] == early
    (tmp_path / "history.json").write_text('[{"site": "mlp_00"}]')
    with pytest.raises(RunHistoryError, match="cannot be read"):
        read_history(tmp_path)


def test_a_prompt_is_traced_at_checkpoint_after_checkpoint(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    trainer = make_trainer(loaded, tmp_path, attention_layers=(1,), attention_latents=64)
    assert read_traces(tmp_path) == ()
    prompt = "the cat sat on the mat"
    rows = []
    for step in (4, 8, 8):
        if trainer.step < step:
            go_to(trainer, step)
        rows.append(trace_checkpoint(loaded, tmp_path, prompt))
    trainer.close()
    assert [row.step for row in rows] == [4, 8, 8]
    assert read_traces(tmp_path) == (rows[0], rows[2])
    for row in read_traces(tmp_path):
        graph = AttributionGraph.load(tmp_path / "traces" / row.graph)
        assert graph.prompt == prompt and graph.n_features == row.features > 0
        assert graph.scores.replacement == pytest.approx(row.replacement)
        assert row.tokens == 64 * row.step
        assert 0 < row.from_features < 1
    assert snapshots(tmp_path) == [], "a trace leaves no snapshot"
    (tmp_path / "traces" / "traces.json").write_text('[{"graph": "../../etc/passwd"}]')
    with pytest.raises(TraceTableError, match="cannot be read"):
        read_traces(tmp_path)
