"""The command ``explain``, on the demo that comes along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attention_studio import cli
from attention_studio.agents.explanations import Assessment, Explanation, FeatureVerdict
from attention_studio.cli.explaining import _labelled
from attention_studio.core.feature_store import FeatureStore
from attention_studio.core.sites import Site
from tests.asked import write_dashboards

DEMO = ("explain", "--model", "demo", "--crm", "demo", "--tokens", "1024", "--quiet")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.main([*DEMO, *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_feature_of_one_word_is_called_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Latent 293 of the first MLP fires on " and"."""
    found = run(capsys, "--feature", "L0/F293")
    (verdict,) = found["features"]
    chosen = verdict["chosen"]
    assert chosen["explanation"]["label"].startswith("' and'")
    assert chosen["explanation"]["author"] == "deterministic"
    assert all(
        score["value"] > 0.9 and score["judge_score"] is not None for score in chosen["scores"]
    )
    assert len(chosen["attacks"]) >= 4
    assert all(attack["activation"] is not None for attack in chosen["attacks"])


def test_a_run_goes_on_in_its_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "all.jsonl")
    first = run(capsys, "--site", "L1", "--first", "2", "--attacks", "0", "--out", out)
    lines = Path(out).read_text().splitlines()
    assert len(lines) == 3
    both = run(capsys, "--site", "L1", "--first", "3", "--attacks", "0", "--out", out)
    assert both["features"][:2] == first["features"]
    assert Path(out).read_text().splitlines()[:3] == lines
    assert cli.main([*DEMO, "--site", "L1", "--attacks", "1", "--out", out]) == 1
    assert "about something else" in capsys.readouterr().err


def test_what_it_would_take_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--feature", "L0/F293", "--estimate") == {"estimate": None}
    told = run(capsys, "--site", "L0", "--backend", "local", "--estimate")["estimate"]
    assert told["features"] == 768
    assert told["calls"] >= 768
    assert told["cost"] is None


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--feature", "nonsense"), "names no feature"),
        (("--feature", "L0/F99999"), "There is no feature"),
        (("--site", "L9"), "has no dictionary"),
    ],
)
def test_what_makes_no_sense_is_said(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
) -> None:
    assert cli.main([*DEMO, *words]) in (1, 2)
    assert why in capsys.readouterr().err


def test_labels_of_others_stay(tmp_path: Path) -> None:
    write_dashboards(tmp_path / "store")  # which Mallory has labelled
    store, site = FeatureStore.open(tmp_path / "store"), Site(1, "mlp")

    def verdict(label: str, author: str) -> FeatureVerdict:
        said = Assessment(Explanation("L1/F0", label, "A sentence.", (), author, ""))
        return FeatureVerdict(said, said, (), "")

    before = store.label(site, 0)
    mine = verdict("by code", "deterministic")
    assert not _labelled(store, mine) and store.label(site, 0) == before
    store.set_label(site, 0, "", "Mallory")
    assert _labelled(store, mine) and _labelled(store, mine)
    assert len(store.labels.history(site, 0)) == 3
    assert _labelled(store, verdict("by a model", "big"))
    label = store.label(site, 0)
    assert label is not None and (label.text, label.by) == ("by a model", "big")
    store.close()


def test_dashboards_of_another_replacement_model_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_dashboards(tmp_path / "store")
    words = (*DEMO, "--feature", "L1/F0", "--store", str(tmp_path / "store"))
    assert cli.main([*words]) == 2
    assert "These dashboards are of" in capsys.readouterr().err
