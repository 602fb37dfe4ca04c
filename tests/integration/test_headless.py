"""The headless commands from end to end on a tiny model, as a person would type them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
import torch

from attention_studio.cli import main
from attention_studio.core import crm_comparison
from attention_studio.core.activations import ActivationSource
from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.crm_trainer import CRMTrainer, StepDone, TrainEvent, run_to_end
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.utils.progress import WorkContext
from tests.tiny import PROMPT, WORDS, tiny_folder

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, some text, and a CRM trained on it by the command itself."""
    folder = tmp_path_factory.mktemp("headless")
    tiny_folder(folder / "model")
    rng = np.random.default_rng(0)
    text = " ".join(rng.choice(WORDS, 6000))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    (folder / "other.txt").write_text(" ".join(rng.choice(WORDS, 2000)), encoding="utf-8")
    status = main(
        [
            *("train", "--model", str(folder / "model"), "--text", str(folder / "text.txt")),
            *("--heldout", str(folder / "other.txt"), "--out", str(folder / "crm"), "--quiet"),
            *("--tokens", "4000", "--latents", "64", "--k", "8", "--device", "cpu"),
            *("--set", "batch_tokens=256", "--set", "block_tokens=1024", "--set", "seq_len=32"),
            *("--set", "heldout_tokens=512", "--set", "downstream_tokens=128"),
        ]
    )
    assert status == 0
    return folder


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command with ``--json`` on the tiny model; give its status and what it printed."""

    def call(*words: str, crm: bool = True, model: bool = True) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        line = [*words, "--json", "--quiet"]
        if model:
            line += ["--model", str(home / "model"), "--device", "cpu"]
        if crm:
            line += ["--crm", str(home / "crm")]
        status = main(line)
        out = capsys.readouterr().out
        return status, json.loads(out) if out else {}

    return call


def test_training_beats_predicting_the_mean(home: Path) -> None:
    manifest = json.loads((home / "crm" / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest["dictionaries"]) == ["mlp_00", "mlp_01", "mlp_02"]
    for entry in manifest["dictionaries"].values():
        assert entry["metrics"]["fvu"] < 0.9
    assert not (home / "crm" / "checkpoints").exists()


def test_evaluate_measures_every_layer_and_all_at_once(run: Run, home: Path) -> None:
    status, found = run(
        "evaluate", "--text", str(home / "other.txt"), "--tokens", "512", "--seq-len", "32"
    )
    assert status == 0
    assert set(found["metrics"]) == {"mlp_00", "mlp_01", "mlp_02"}
    for metrics in found["metrics"].values():
        assert 0 < metrics["fvu"] < 0.9
        assert 0 < metrics["l0"] <= 8
    assert found["together"]["ce_spliced"] > 0
    assert found["tokens"] == 512
    assert sum(found["errors"]["mlp_00"]) == 512


def test_complete_models_are_trained_and_compared(
    run: Run, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = home / "complete"
    status, found = run(
        *("train", "--text", str(home / "text.txt"), "--out", str(out), "--mlp", "clt"),
        *("--attention-layers", "0,2", "--tokens", "2048", "--latents", "64", "--k", "8"),
        *("--set", "batch_tokens=256", "--set", "block_tokens=1024", "--set", "seq_len=32"),
        *("--set", "heldout_tokens=512", "--set", "downstream_tokens=128"),
        crm=False,
    )
    assert status == 0, found
    assert (found["layers"], found["attention_layers"]) == ([0, 1, 2], [0, 2])
    capsys.readouterr()
    both = [str(home / "crm"), str(out)]
    status = main(
        [
            *("evaluate", "--model", str(home / "model"), "--device", "cpu", "--quiet"),
            *("--crm", *both, "--text", str(home / "other.txt")),
            *("--tokens", "512", "--seq-len", "32", "--prompts", PROMPT),
        ]
    )
    printed = capsys.readouterr().out
    assert status == 0
    assert "attention_02" in printed
    # Whether the text was held out from training is not known here.
    assert ", 512 tokens" in printed and "held-out" not in printed
    table = printed[printed.index("CRM   ") :].splitlines()
    assert [line.split()[0] for line in table[1:]] == ["crm", "complete"]
    assert [line.split()[1] for line in table[1:]] == ["3", "5"]


def test_evaluate_harvests_to_where_the_dictionaries_are(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, activations left on the CPU could not meet dictionaries that are not."""
    devices: list[torch.device] = []

    class Watched(ActivationSource):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            devices.append(self._device)

    # A device that is the CPU and still tells itself apart from the default.
    elsewhere = torch.device("cpu", 0)
    monkeypatch.setattr(ModelAdapter, "device", property(lambda _: elsewhere))
    monkeypatch.setattr(crm_comparison, "ActivationSource", Watched)
    status, _ = run("evaluate", "--text", str(home / "other.txt"), "--tokens", "64")
    assert status == 0
    assert devices == [elsewhere]


def test_features_names_what_fires(run: Run) -> None:
    status, found = run("features", "--prompt", PROMPT, "--top-k", "3")
    assert status == 0
    assert "".join(found["tokens"][1:]) == PROMPT
    assert len(found["overall"]) == 3
    assert len(found["by_position"]) == len(found["tokens"])
    assert found["overall"][0]["promoted"][0][0] in {
        *WORDS,
        *(f" {word}" for word in WORDS),
        ".",
        ",",
        "<unk>",
        "<|endoftext|>",
    }


def test_attribute_prints_what_is_promised_and_writes_both_formats(
    run: Run, tmp_path: Path
) -> None:
    status, found = run("attribute", "--prompt", PROMPT, "--out", str(tmp_path / "g.json"))
    assert status == 0
    promised = (
        "n_tokens n_features_active n_nodes n_edges seconds peak_mb replacement_score "
        "completeness_score max_identity_error output"
    )
    assert set(promised.split()) <= set(found)
    assert found["max_identity_error"] < 1e-4
    viewer = json.loads((tmp_path / "g.json").read_text(encoding="utf-8"))
    assert len(viewer["nodes"]) == found["n_nodes_pruned"]
    status, again = run("attribute", "--prompt", PROMPT, "--out", str(tmp_path / "g.safetensors"))
    assert status == 0
    graph = AttributionGraph.load(tmp_path / "g.safetensors")
    assert graph.n_edges == again["n_edges"] == found["n_edges"]


def test_validate_compares_predictions_with_measurements(run: Run) -> None:
    status, found = run("validate", "--prompt", PROMPT, "--samples", "8")
    assert status == 0
    assert found["n_samples"] == 8
    assert found["largest_freeze_gap"] < 1e-4


def test_models_and_doctor_answer_without_loading(run: Run, home: Path) -> None:
    status, found = run("models", "info", str(home / "model"), crm=False, model=False)
    assert status == 0
    assert (found["family"], found["n_layers"], found["fits"]) == ("llama", 3, True)
    status, found = run("doctor", crm=False, model=False)
    assert status == 0
    assert found["missing"] == [] or found["missing"] == ["PySide6-Essentials"]
    assert "smollm2-135m" in [
        entry["name"] for entry in run("models", crm=False, model=False)[1]["models"]
    ]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("features", "--prompt", "  "), 1, "prompt is empty"),
        (("features", "--prompt", "the cat " * 60), 1, "takes at most 64"),
        (("attribute", "--prompt", PROMPT, "--node-threshold", "3"), 1, "from 0 to 1"),
        (("attribute", "--prompt", PROMPT, "--out", "graph.pt"), 2, ".safetensors"),
        (("evaluate", "--text", "/no/such/file"), 1, "does not exist"),
        (("validate", "--prompt", PROMPT, "--samples", "0"), 1, "one or more"),
    ],
)
def test_bad_input_gets_one_clear_line(
    run: Run, words: tuple[str, ...], status: int, says: str
) -> None:
    got, found = run(*words)
    assert got == status
    assert says in found["error"]
    assert "Traceback" not in found["error"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--layers", "7"), "from 0 to 2"),
        (("--layers", "a-b"), "is no layer"),
        (("--set", "nonsense=1"), "known settings"),
        (("--set", "layers=0,1"), "Write --layers 0,1"),
        (("--set", "attention_layers=none"), "Write --attention-layers none"),
        (("--tokens", "-5"), "tokens"),
        (("--k", "999", "--latents", "64"), "exceeds"),
    ],
)
def test_training_settings_that_do_not_fit_are_usage_errors(
    run: Run, home: Path, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    status, found = run(
        *("train", "--text", str(home / "text.txt"), "--out", str(tmp_path / "crm"), *words),
        crm=False,
    )
    assert status == 2
    assert says in found["error"]


def test_a_folder_with_a_finished_run_is_not_overwritten(run: Run, home: Path) -> None:
    status, found = run(
        *("train", "--text", str(home / "text.txt"), "--heldout", str(home / "other.txt")),
        *("--out", str(home / "crm"), "--tokens", "4000"),
        crm=False,
    )
    assert status == 1
    assert "already holds" in found["error"]


def test_a_crm_of_another_model_is_refused(run: Run, home: Path, tmp_path: Path) -> None:
    tiny_folder(tmp_path / "other", seed=5)
    status, found = run(
        *("features", "--prompt", PROMPT, "--model", str(tmp_path / "other")), model=False
    )
    assert status == 1
    assert "another model" in found["error"] or "other weights" in found["error"]


def test_wrong_words_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attribute"]) == 2
    assert main(["features", "--model", "demo", "--prompt", PROMPT, "--top-k", "0"]) == 2
    assert main(["nonsense"]) == 2
    assert main(["--version"]) == 0
    capsys.readouterr()


def test_json_is_alone_on_stdout_and_logs_go_to_stderr(home: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "attention_studio", "features", "--json"),
            *("--model", str(home / "model"), "--crm", str(home / "crm"), "--prompt", PROMPT),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ATTENTION_STUDIO_STATE_DIR": str(home / "state")},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_active"] > 0
    assert "Loaded" in done.stderr


def test_a_run_knows_its_own_model_text_and_settings(home: Path, run: Run) -> None:
    """Resumed by its folder alone; this one was finished, so there is nothing left to train."""
    status, found = run("train", "--resume", "--out", str(home / "crm"), crm=False, model=False)
    assert status == 0
    assert found["crm"] == str(home / "crm")
    assert found["layers"] == [0, 1, 2]
    assert (found["tokens"], found["tokens_now"], found["tokens_per_second"]) == (3840, 0, 0.0)


def test_a_resumed_run_is_as_fast_as_it_is_now(
    home: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "crm"
    with pytest.MonkeyPatch.context() as patch:

        def until_12(trainer: CRMTrainer, ctx: Optional[WorkContext] = None) -> Path:
            def look(event: TrainEvent) -> None:
                if isinstance(event, StepDone) and event.step == 12:
                    trainer.request_stop()

            return run_to_end(trainer, ctx, on_event=look)

        patch.setattr("attention_studio.core.crm_trainer.run_to_end", until_12)
        status, found = run(
            *("train", "--text", str(home / "text.txt"), "--heldout", str(home / "other.txt")),
            *("--out", str(out), "--tokens", "4000", "--latents", "32", "--layers", "1"),
            *("--set", "batch_tokens=256", "--set", "block_tokens=1024", "--set", "seq_len=32"),
            crm=False,
        )
    assert (status, found["crm"], found["step"]) == (0, None, 12)
    shutil.copytree(out, tmp_path / "again")
    status, found = run("train", "--resume", "--out", str(out), crm=False, model=False)
    assert status == 0
    assert (found["tokens"], found["tokens_now"]) == (15 * 256, 3 * 256)
    # Seconds are rounded to tenths, which is coarse for a run this short.
    assert found["tokens_per_second"] >= 3 * 256 / (found["seconds"] + 0.06)
    assert found["tokens_per_second"] * (found["seconds"] - 0.06) <= 3 * 256
    assert main(["train", "--resume", "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert "on 3,840 tokens, 768 of them now, in " in capsys.readouterr().out


def test_a_resumed_run_takes_what_its_weights_do_not_depend_on(home: Path, run: Run) -> None:
    before = json.loads((home / "crm" / "run.json").read_text())["settings"]
    assert before["checkpoint_every"] != 10
    status, found = run(
        *("train", "--resume", "--out", str(home / "crm"), "--set", "checkpoint_every=10"),
        *("--set", "eval_every=none", "--parallel", "data"),
        crm=False,
        model=False,
    )
    assert status == 0, found
    after = json.loads((home / "crm" / "run.json").read_text())["settings"]
    assert after == {**before, "checkpoint_every": 10, "parallel": "data"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tokens", "5000000", "--no-skip"), "--tokens, --skip cannot be given with --resume"),
        (("--set", "k=3"), "--set k cannot be given with --resume"),
        (("--heldout", "x", "--attention-k", "9"), "--heldout, --attention-k"),
        (("--set", "checkpoint_every=x"), "checkpoint_every: "),
        (("--set", "nonsense=1"), "known settings"),
    ],
)
def test_a_resumed_run_keeps_its_settings(
    home: Path, run: Run, words: tuple[str, ...], says: str
) -> None:
    before = (home / "crm" / "run.json").read_bytes()
    status, found = run(
        *("train", "--resume", "--out", str(home / "crm"), *words), crm=False, model=False
    )
    assert status == 2
    assert says in found["error"]
    assert (home / "crm" / "run.json").read_bytes() == before


def test_dictionaries_go_to_another_tool_and_come_back(run: Run, home: Path) -> None:
    there, back = home / "elsewhere", home / "back"
    status, found = run(
        *("export", "--tool", "sparsify", "--out", str(there)),
        *("--crm", str(home / "crm")),
        crm=False,
        model=False,
    )
    assert status == 0, found
    status, found = run("import", str(there), "--out", str(back), crm=False)
    assert status == 0, found
    assert found["modules"] == ["mlp_00", "mlp_01", "mlp_02"]
    prompt = ("features", "--prompt", PROMPT, "--top-k", "3")
    status, before = run(*prompt)
    status, after = run(*prompt, "--crm", str(back), crm=False)
    assert status == 0
    assert after["n_active"] == before["n_active"]
