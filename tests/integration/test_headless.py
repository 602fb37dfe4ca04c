"""The headless commands from end to end on a tiny model, as a person would type them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attention_studio.cli import main
from attention_studio.core import activations
from attention_studio.core.activations import ActivationSource
from attention_studio.core.attribution_graph import AttributionGraph
from attention_studio.core.model_adapter import ModelAdapter
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
    assert manifest["layers"] == [0, 1, 2]
    for entry in manifest["dictionaries"].values():
        assert entry["metrics"]["fvu"] < 0.9
    assert not (home / "crm" / "checkpoints").exists()


def test_evaluate_measures_every_layer_and_all_at_once(run: Run, home: Path) -> None:
    status, found = run(
        "evaluate", "--text", str(home / "other.txt"), "--tokens", "512", "--seq-len", "32"
    )
    assert status == 0
    assert set(found["metrics"]) == {"0", "1", "2"}
    for metrics in found["metrics"].values():
        assert 0 < metrics["fvu"] < 0.9
        assert 0 < metrics["l0"] <= 8
    assert found["all_layers"]["ce_spliced"] > 0
    assert found["tokens"] == 512


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
    monkeypatch.setattr(activations, "ActivationSource", Watched)
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
        (("features", "--prompt", PROMPT, "--top-k", "0"), 1, "must be positive"),
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
