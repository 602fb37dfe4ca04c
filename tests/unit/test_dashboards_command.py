"""``attention-studio dashboards``: what it prints is what the store holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attention_studio.cli import main
from attention_studio.core.feature_store_writing import write_store
from tests.unit.test_feature_store import PAGES, about


@pytest.fixture
def folder(tmp_path: Path) -> str:
    write_store(tmp_path / "store", about(), PAGES)
    return str(tmp_path / "store")


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["dashboards", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_info(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "info", folder)
    assert found["sites"] == {"A1": 3, "L1": 3}
    assert (found["n_features"], found["n_dead"], found["n_tokens"]) == (6, 0, 1000)


def test_show(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "show", folder, "--feature", "L1/F2", "a1/f0")["features"]
    assert [one["feature"] for one in found] == ["L1/F2", "A1/F0"]
    assert found[0]["density"] == 0.03 and found[0]["promoted"][0] == [" Paris", 2.5]
    assert found[0]["groups"][0]["examples"][0]["values"][5] == 4.0
    assert found[0]["groups"][0]["examples"][0]["looks_at"] is None
    assert len(found[1]["groups"][0]["examples"][0]["looks_at"]) == 6
    assert main(["dashboards", "show", folder, "--feature", "L1/F2"]) == 0
    printed = capsys.readouterr().out
    assert "active at 3.000% of 1,000 tokens" in printed and "[ five]" in printed
    one = asked(capsys, "show", folder, "--random", "--seed", "1", "--kind", "mlp")
    assert one["features"][0]["feature"].startswith("L1/")


def test_search(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, "search", folder, "capital", "two")["features"]
    assert {one["feature"] for one in found} >= {"A1/F2", "L1/F2"}
    listed = asked(capsys, "search", folder, "--order=-density", "--kind", "mlp", "--limit", "2")
    assert [one["feature"] for one in listed["features"]] == ["L1/F2", "L1/F1"]
    dense = asked(capsys, "search", folder, "--least-density", "0.03")["features"]
    assert [one["feature"] for one in dense] == ["A1/F2", "L1/F2"]
    assert main(["dashboards", "search", folder, "nowhere"]) == 0
    assert "No feature fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["show", "--feature", "nonsense"], 2),
        (["show", "--feature", "L1/F99"], 1),
        (["show", "--feature", "L7/F0"], 1),
    ],
)
def test_what_is_not_there(
    folder: str, words: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dashboards", words[0], folder, *words[1:]]) == status
    assert capsys.readouterr().err.startswith("attention-studio: ")


def test_a_folder_that_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboards", "info", str(tmp_path)]) == 1
    assert "no feature store" in capsys.readouterr().err


def test_dashboards_of_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All features of the demo over its own text, shown and found."""
    out = str(tmp_path / "store")
    words = ["build", "--model", "demo", "--out", out, "--tokens", "512"]
    told = asked(capsys, *words, "--estimate")
    assert told["n_features"] == 4608 and not Path(out).exists()
    built = asked(capsys, *words, "--no-neighbours")
    assert built["n_features"] == 4608 and 0 < built["n_dead"] < 2000
    listed = asked(capsys, "search", out, "--order=-density", "--limit", "3")["features"]
    page = asked(capsys, "show", out, "--feature", listed[0]["feature"])["features"][0]
    assert page["density"] == listed[0]["density"] > 0.05
    assert page["histogram"]["counts"] and sum(page["histogram"]["counts"]) == page["n_fired"]
    best = page["groups"][0]["examples"][0]
    assert best["values"][best["peak"]] == pytest.approx(page["max_activation"])
    some = [one["feature"] for one in listed] + ["L0/F1", "A2/F3"]
    for form in ("circuit-tracer", "neuronpedia"):
        theirs, back = str(tmp_path / form), str(tmp_path / f"{form} back")
        sent = asked(capsys, "export", out, "--format", form, "--out", theirs, "--features", *some)
        assert sent["n_pages"] == 5
        known = asked(capsys, "import", theirs, "--out", back, "--crm", "demo")
        assert (known["n_pages"], known["n_features"]) == (5, 4608)
        assert known["n_tokens"] == built["n_tokens"] and known["crm_hash"] == built["crm_hash"]
        for name in some:
            before, after = (
                asked(capsys, "show", folder, "--feature", name)["features"][0]
                for folder in (out, back)
            )
            assert held(after, form) == held(before, form), name


def held(page: dict[str, Any], form: str) -> dict[str, Any]:
    """Of what the command says of a page, what files of a tool can hold."""
    whole = form == "neuronpedia"
    names = ["feature", "n_fired", "n_tokens", "density", "dead", "max_activation"]
    found = {name: page[name] for name in names}
    found["histogram"] = None if page["dead"] else page["histogram"]["counts"]
    for side in ("promoted", "suppressed"):
        found[side] = page[side] if whole else [word for word, _ in page[side]]
    found["groups"] = [
        {
            "name": group["name"],
            "bounds": whole and (group["low"], group["high"]),
            "examples": [
                (one["tokens"], one["values"], one["peak"], one["repeated"] or whole)
                for one in group["examples"]
            ],
            "looks": whole and [one["looks_at"] for one in group["examples"]],
        }
        for group in page["groups"]
    ]
    return found
