"""Circuits grow along the largest shares, and the commands say what the core says."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from attention_studio import cli
from attention_studio.core.atlas import GrowthSettings, grow
from attention_studio.core.corpus import TokenCorpus
from attention_studio.core.dictionaries.crm_folder import save_crm
from attention_studio.core.global_files import load_global_weights, save_global_weights
from attention_studio.core.global_statistics import gather
from attention_studio.core.global_weights import (
    GlobalWeights,
    GlobalWeightsError,
    LatentTable,
    TextFacts,
)
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site
from attention_studio.demo.atlas_agreement import agreement, effect_matrix, prompt_effects
from tests.tiny import PROMPT, WORDS, random_dictionaries, tiny_folder, tiny_loaded

SITES = (Site(0, "attention"), Site(0, "mlp"), Site(1, "attention"), Site(1, "mlp"))
ABOUT = TextFacts("m", "0", "c", "1", "2", 4, 25, 100, 0, 2, ())


def weights_of(effects: dict[tuple[str, str], float], **changes: Any) -> GlobalWeights:
    """Global weights of four sites of three latents; effects by (source, target), all latents
    active at ten tokens with activation 1, what a target reads without a source being 1 − Σ."""
    table = LatentTable.of(SITES, [3] * 4, False)
    found = sorted((table.find(t), table.find(s), e) for (s, t), e in effects.items())
    n, m = len(table), len(found)
    target = np.array([t for t, _, _ in found])
    effect = np.array([e for _, _, e in found], dtype=np.float32)
    columns: dict[str, Any] = {
        "bounds": np.searchsorted(target, np.arange(n + 1)).astype(np.int64),
        "source": np.array([s for _, s, _ in found], dtype=np.int32),
        "virtual": np.sign(effect) * 2,
        "total": np.abs(effect) * 5,
        "weighted": np.abs(effect) * 5,
        "count": np.full(m, 7, dtype=np.float32),
        "followed": np.ones(m, dtype=bool),
        "times": np.full(n, 10, dtype=np.int64),
        "activation": np.full(n, 10.0),
        "peak": np.ones(n, dtype=np.float32),
        "reads": np.full(n, 10.0),
        "slack": np.zeros(n, dtype=np.float32),
        "promoted": np.full((n, 5), 3, dtype=np.int32),
        "words": {3: "\x0b<&"},
    }
    return GlobalWeights(table=table, about=ABOUT, **{**columns, **changes})


CHAIN = {
    ("A0/F0", "L0/F0"): 0.5,
    ("L0/F0", "A1/F0"): -0.4,
    ("L0/F1", "A1/F0"): 0.3,
    ("A0/F1", "L0/F1"): 0.9,
    ("A0/F2", "A1/F0"): 0.1,
    ("A1/F0", "L1/F0"): 0.6,
    ("L0/F2", "L1/F0"): 0.2,
    ("A1/F0", "L1/F1"): 0.005,
    ("A0/F0", "A1/F0"): 0.02,
}


def test_a_circuit_grows_along_the_largest_products_of_shares() -> None:
    circuit = grow(weights_of(CHAIN), [weights_of(CHAIN).table.find("A1/F0")])
    assert circuit.names == (
        "A1/F0",
        "L1/F0",  # 0.6
        "L0/F0",  # 0.4
        "L0/F1",  # 0.3
        "A0/F1",  # 0.3 * 0.9
        "A0/F0",  # 0.4 * 0.5, not 0.02
        "A0/F2",  # 0.1
    )
    expected = [1, 0.6, 0.4, 0.3, 0.27, 0.2, 0.1]
    assert np.allclose(circuit.relevance, expected)
    assert circuit.joined_by.tolist() == [-1, 0, 0, 0, 3, 2, 0]
    assert circuit.side.tolist() == [0, 1, -1, -1, -1, -1, -1]
    # L0/F2 feeds L1/F0, which was reached downwards and is not followed upwards again.
    assert "L0/F2" not in circuit.names
    found = {
        (circuit.names[s], circuit.names[t]): effect
        for s, t, effect in zip(
            circuit.edge_source, circuit.edge_target, circuit.effect, strict=True
        )
    }
    kept = {pair: effect for pair, effect in CHAIN.items() if "L0/F2" not in pair}
    kept = {pair: effect for pair, effect in kept.items() if abs(effect) >= 0.01}
    assert found.keys() == kept.keys()
    assert all(found[pair] == pytest.approx(kept[pair], rel=1e-6) for pair in kept)
    assert circuit.covered[0] == pytest.approx(0.82)
    assert (np.diff(np.abs(circuit.share)) <= 0).all()


def test_growth_stops_where_it_is_told() -> None:
    weights = weights_of(CHAIN)
    start = [weights.table.find("A1/F0")]
    assert grow(weights, start, GrowthSettings(nodes=3)).names == ("A1/F0", "L1/F0", "L0/F0")
    up = grow(weights, start, GrowthSettings(direction="upstream"))
    assert "L1/F0" not in up.names
    assert len(up.names) == 6
    down = grow(weights, start, GrowthSettings(direction="downstream", least_share=0.001))
    assert down.names == ("A1/F0", "L1/F0", "L1/F1")
    few = grow(weights, start, GrowthSettings(least_relevance=0.35))
    assert few.names == ("A1/F0", "L1/F0", "L0/F0")
    always = weights.times.copy()
    always[weights.table.find("L0/F0")] = 60
    rare = grow(replace(weights, times=always), start, GrowthSettings(most_frequent=0.5))
    assert "L0/F0" not in rare.names
    # One that may not join takes no place from one that may.
    few = replace(weights, times=always)
    up = GrowthSettings(nodes=2, direction="upstream", most_frequent=0.5)
    assert grow(few, start, up).names == ("A1/F0", "L0/F1")
    always[weights.table.find("L0/F1")] = 60
    assert grow(few, start, up).names == ("A1/F0", "A0/F2")
    both = grow(weights, [*start, weights.table.find("L0/F2"), *start], GrowthSettings(nodes=2))
    assert set(both.names) == {"A1/F0", "L0/F2"}
    with pytest.raises(GlobalWeightsError):
        grow(weights, [])
    with pytest.raises(GlobalWeightsError):
        grow(weights, [99])
    wrong: list[dict[str, Any]] = [{"nodes": 0}, {"direction": "up"}, {"least_share": 2}]
    for settings in wrong:
        with pytest.raises(GlobalWeightsError):
            GrowthSettings(**settings)


def test_a_circuit_is_written_for_others(tmp_path: Path) -> None:
    weights = weights_of(CHAIN)
    circuit = grow(weights, [weights.table.find("A1/F0")])
    graph = circuit.to_networkx()
    assert nx.is_directed_acyclic_graph(graph)
    assert graph.edges["L0/F0", "A1/F0"]["effect"] == pytest.approx(-0.4)
    assert graph.nodes["A1/F0"]["side"] == "start"
    circuit.save(tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text()) == circuit.as_record()
    circuit.save(tmp_path / "c.graphml")
    again = nx.read_graphml(tmp_path / "c.graphml")
    assert set(again.edges) == set(graph.edges)
    assert again.nodes["L0/F1"]["frequency"] == pytest.approx(0.1)
    with pytest.raises(GlobalWeightsError):
        circuit.save(tmp_path / "c.txt")


def test_the_same_weights_grow_the_same_circuit_whatever_the_ties() -> None:
    tied = {(f"A0/F{i}", "L1/F0"): 0.2 for i in range(3)}
    weights = weights_of({**tied, ("L0/F1", "L1/F0"): -0.2})
    circuit = grow(weights, [weights.table.find("L1/F0")], GrowthSettings(nodes=3))
    assert circuit.names == ("L1/F0", "A0/F0", "A0/F1")


# ---- against prompts -----------------------------------------------------------------------------


def test_on_the_same_text_global_weights_are_what_prompts_say(tmp_path: Path) -> None:
    loaded = tiny_loaded("qwen3")
    dictionaries = random_dictionaries(loaded.adapter, mlp={"skip": False}, attention={})
    replacement = CompleteReplacementModel(loaded, dictionaries)
    rng = np.random.default_rng(0)
    prompts = [" ".join(rng.choice(WORDS, 9)) for _ in range(12)]
    rows = np.array([loaded.encode(prompt) for prompt in prompts], dtype=np.int32)
    text = TokenCorpus.of(rows, np.full(len(rows), rows.shape[1], dtype=np.int32), 0)
    weights = gather(replacement, text, tmp_path / "w.safetensors")
    effects = effect_matrix(weights)
    found = prompt_effects(replacement, weights.table, prompts)
    assert (found.times == weights.times).all()
    assert np.allclose(found.effect, effects, atol=1e-5 * np.abs(effects).max())
    same = agreement(effects, found)
    assert same.targets > 20
    assert same.overlap > 0.99
    assert same.correlation > 0.9999
    assert same.rank_correlation > 0.999
    shuffled = agreement(rng.permutation(effects.ravel()).reshape(effects.shape), found)
    assert shuffled.overlap < 0.5
    assert abs(shuffled.correlation) < 0.2


# ---- commands ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a CRM, a text and what ``atlas build`` made of them."""
    folder = tmp_path_factory.mktemp("atlas")
    tiny_folder(folder / "model", "llama")
    (folder / "text.txt").write_text("\n".join([PROMPT] * 30), encoding="utf-8")
    from attention_studio.core.model_manager import ModelConfig, ModelManager

    loaded = ModelManager().load_model_sync(ModelConfig(name=str(folder / "model"), device="cpu"))
    dictionaries = random_dictionaries(loaded.adapter, mlp={"skip": False}, attention={})
    save_crm(folder / "crm", dictionaries, loaded.info)
    build = [
        *("atlas", "build", "--model", str(folder / "model"), "--crm", str(folder / "crm")),
        *("--text", str(folder / "text.txt"), "--out", str(folder / "w.safetensors")),
        *("--seq-len", "16", "--tokens", "200", "--device", "cpu", "--json", "--quiet"),
    ]
    assert cli.main(build) == 0
    assert cli.main([*build, "--resume"]) == 0
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main([*words, "--json", "--quiet"]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert cli.main([*words]) == 0
    assert capsys.readouterr().out.strip()
    return record


def test_show_says_what_the_weights_say(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_global_weights(built / "w.safetensors")
    latent = int(np.argmax(weights.times * (np.arange(len(weights.table)) >= 96)))
    name, atlas = weights.table.name(latent), str(built / "w.safetensors")
    record = run(capsys, "atlas", "show", "--atlas", atlas, "--feature", name, "--top-k", "4")
    assert record["exact"]
    assert record["n_pairs"] == weights.n_pairs
    (feature,) = record["features"]
    answer = weights.upstream(latent, 4)
    assert [x["feature"] for x in feature["upstream"]] == [
        weights.table.name(int(other)) for other in answer.others
    ]
    assert [x["share"] for x in feature["upstream"]] == pytest.approx(answer.share.tolist())
    assert run(capsys, "atlas", "show", "--atlas", atlas)["features"] == []


def test_grow_writes_what_it_says(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_global_weights(built / "w.safetensors")
    latent = int(np.argmax(weights.times * (np.arange(len(weights.table)) >= 96)))
    words = ["atlas", "grow", "--atlas", str(built / "w.safetensors"), "--nodes", "6"]
    out = built / "c.graphml"
    record = run(capsys, *words, "--feature", weights.table.name(latent), "--out", str(out))
    circuit = grow(weights, [latent], GrowthSettings(nodes=6))
    assert [node["name"] for node in record["nodes"]] == list(circuit.names)
    assert set(nx.read_graphml(out).nodes) == set(circuit.names)


def test_wrong_words_are_refused(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atlas = str(built / "w.safetensors")
    assert cli.main(["atlas", "show", "--atlas", atlas, "--feature", "L9/F1", "--json"]) == 1
    assert "L9/F1" in json.loads(capsys.readouterr().out)["error"]
    assert cli.main(["atlas", "show", "--atlas", atlas, "--feature", "L1/F1", "--top-k", "0"]) == 2
    grows = ["atlas", "grow", "--atlas", atlas, "--feature", "L1/F1", "--json"]
    assert cli.main([*grows, "--out", "circuit.png"]) == 2
    assert cli.main([*grows, "--nodes", "0"]) == 1
    assert cli.main(["atlas", "show", "--atlas", os.devnull, "--json"]) == 1


def test_weights_of_four_sites_are_sound(tmp_path: Path) -> None:
    """The hand-made ones above pass the checks of files."""
    save_global_weights(weights_of(CHAIN), tmp_path / "w.safetensors")
    assert load_global_weights(tmp_path / "w.safetensors").n_pairs == len(CHAIN)
