"""Dashboards go to other tools and come back: what the files can hold survives, the rest is said to
be missing, and what makes no sense is refused by name."""

from __future__ import annotations

import copy
import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_studio.core.feature_columns import PART_FEATURES
from attention_studio.core.feature_records import FeaturePage
from attention_studio.core.feature_store import FeatureFilter, FeatureStore, SiteSize
from attention_studio.core.feature_store_writing import write_store
from attention_studio.core.interchange import feature_reading
from attention_studio.core.interchange.dashboard_note import NOTE
from attention_studio.core.interchange.feature_export import export_dashboards
from attention_studio.core.interchange.feature_files import FeatureFileError
from attention_studio.core.interchange.feature_import import (
    Belonging,
    Imported,
    import_dashboards,
)
from attention_studio.core.interchange.feature_reading import DashboardTransferError
from attention_studio.core.interchange.json_rest import rest_of, with_rest
from attention_studio.core.interchange.node_facts import cantor_pair
from attention_studio.core.sites import Site
from attention_studio.utils.errors import Cancelled, StudioError
from attention_studio.utils.progress import WorkContext
from tests.unit.test_feature_store import ATTENTION, MLP, PAGES, about


def tracer_value(index: int = 7, layer: int = 2) -> dict[str, Any]:
    """As circuit-tracer's tools write it, with a field that nobody knows."""
    return {
        "transcoder_id": "theirs",
        "index": cantor_pair(layer, index),
        "examples_quantiles": [
            {
                "quantile_name": "Top",
                "odd": [1],
                "examples": [
                    {
                        "tokens_acts_list": [0.0, 2.5, 0.1],
                        "train_token_ind": 1,
                        "is_repeated_datapoint": False,
                        "tokens": ["Hello", " world", "!"],
                    },
                    {
                        "tokens_acts_list": [1.5],
                        "train_token_ind": 9,
                        "is_repeated_datapoint": True,
                        "tokens": ["<b>"],
                        "row": 12,
                    },
                ],
            }
        ],
        "top_logits": [f" w{i}" for i in range(10)],
        "bottom_logits": ["x"],
        "act_min": 0,
        "act_max": 2.5,
        "quantile_values": [0.5, 2.5],
        "histogram": [3, 1],
        "activation_frequency": 0.00123,
        "unknown": {"deep": [1.25, None]},
    }


def batch_value(**changes: Any) -> dict[str, Any]:
    """As SAEDashboard writes it."""
    feature = {
        "feature_index": 4,
        "neuron_alignment_indices": [3],
        "neg_str": ["no"],
        "neg_values": [-0.25],
        "pos_str": [" Paris", "x"],
        "pos_values": [1.5, 0.123],
        "frac_nonzero": 0.25,
        "freq_hist_data_bar_values": [0.5, 1.5, 2.5, 3.5],
        "freq_hist_data_bar_heights": [4, 3, 0, 1],
        "n_prompts_total": 24576,
        "vector": [0.5],
        "activations": [
            {"bin_min": -1, "bin_max": 4, "bin_contains": -1, "qualifying_token_index": 1,
             "tokens": ["a", "b"], "values": [0.5, 4.0], "more": 1},
            {"bin_min": 3.2, "bin_max": 4.0, "bin_contains": 0.25, "qualifying_token_index": 0,
             "tokens": ["c"], "values": [3.5]},
            {"bin_min": 0.5, "bin_max": 1.0, "bin_contains": 0.25, "qualifying_token_index": 0,
             "tokens": ["d"], "values": [0.75]},
        ],
    }  # fmt: skip
    return {
        "model_id": "gemma",
        "layer": 3,
        "sae_set": "gemmascope-transcoder-16k",
        "sae_id_suffix": None,
        "features": [feature | changes],
    }


def neuronpedia_value() -> dict[str, Any]:
    """As Neuronpedia's address for one feature answers."""
    return {
        "modelId": "gpt2-small",
        "layer": "5-att-kk",
        "index": "11",
        "maxActApprox": 3.5,
        "frac_nonzero": 0,
        "pos_str": ["x"],
        "pos_values": [0.5],
        "neg_str": [],
        "neg_values": [],
        "freq_hist_data_bar_values": [],
        "freq_hist_data_bar_heights": [],
        "topkCosSimIndices": [11, 3, 99],
        "topkCosSimValues": [1, 0.5, 0.25],
        "explanations": [
            {"description": " says <i>x</i> ", "typeName": "np", "explanationModelName": "gpt-4o"}
        ],
        "activations": [
            {"tokens": ["a", "b", "c"], "values": [0, 3.5, 0], "maxValueTokenIndex": 1,
             "binMin": None, "dfaValues": [2, 1.5, 0], "dfaTargetIndex": 1},
        ],
    }  # fmt: skip


@pytest.fixture
def brought(tmp_path: Path) -> Callable[..., tuple[FeatureStore, Imported]]:
    """Imports a JSON value, or a folder that there is."""
    number = iter(range(100))

    def bring(value: Any, *, name: str = "given.json", **words: Any) -> Any:
        source = value
        if not isinstance(value, Path):
            source = tmp_path / f"in{next(number)}" / name
            source.parent.mkdir()
            source.write_text(json.dumps(value))
        out = tmp_path / f"out{next(number)}"
        found = import_dashboards([source], out, **words)
        return FeatureStore.open(out), found

    return bring


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    sites = (SiteSize(1, "attention", 3), SiteSize(1, "mlp", 5))
    write_store(tmp_path / "store", about(sites=sites), PAGES)
    found = FeatureStore.open(tmp_path / "store")
    found.set_label(MLP, 2, "Paris, in the end", "Ann")
    return found


def assert_held(found: FeaturePage, page: FeaturePage, tool: str) -> None:
    """That everything came back that the tool's files can hold."""
    for name in ("n_fired", "n_tokens", "counted", "density", "dead"):
        assert getattr(found, name) == getattr(page, name), name
    shown = [e.values.max() for group in page.groups for e in group.examples]
    assert found.max_activation == max(shown, default=page.max_activation)
    whole = tool == "neuronpedia"
    if whole and page.dead:  # one bin, of which middles do not say how wide it is
        assert not len(found.histogram.counts)
    else:
        assert np.allclose(found.histogram.edges, page.histogram.edges)
        assert found.histogram.counts.tolist() == page.histogram.counts.tolist()
    for side in ("promoted", "suppressed"):
        mine, theirs = getattr(found, side), getattr(page, side)
        assert [word for word, _ in mine] == [word for word, _ in theirs]
        effects = [effect for _, effect in mine]
        assert effects == [e for _, e in theirs] if whole else np.isnan(effects).all()
    assert [len(group.examples) for group in found.groups] == [len(g.examples) for g in page.groups]
    for ours, theirs in zip(found.groups, page.groups, strict=True):
        assert ours.name == theirs.name or whole
        assert (ours.low, ours.high) == ((theirs.low, theirs.high) if whole else (None, None))
        for a, b in zip(ours.examples, theirs.examples, strict=True):
            assert (a.tokens, a.peak) == (b.tokens, b.peak)
            assert a.values.tolist() == b.values.tolist()
            assert whole or a.repeated == b.repeated
            if whole and b.looks_at is not None:
                assert a.looks_at is not None and np.allclose(a.looks_at, b.looks_at)
    assert not found.near_by_decoder and not found.near_by_firing


@pytest.mark.parametrize("tool", ["circuit-tracer", "neuronpedia"])
def test_a_store_comes_back(tool: Any, store: FeatureStore, tmp_path: Path, brought: Any) -> None:
    out = tmp_path / "theirs"
    told = export_dashboards(store, tool, out)
    assert told.n_pages == store.about.n_features == 8
    assert told.notes[0].startswith("The files do not hold")
    back, imported = brought(out)
    assert imported.n_pages == told.n_pages
    assert not any("left out" in note for note in imported.notes)  # the studio's own note is none
    mine, theirs = back.about, store.about
    for name in ("model_name", "model_hash", "crm_name", "crm_hash", "text_hash", "n_tokens"):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert mine.sites == theirs.sites and mine.fits("1", theirs.dictionaries_id)
    assert "which features fire together" in mine.lacks
    assert ("how strong effects on tokens are" in mine.lacks) == (tool == "circuit-tracer")
    for page in [*PAGES, store.page(MLP, 4)]:  # the last one never fires
        assert_held(back.page(page.site, page.index), store.page(page.site, page.index), tool)
    assert back.page(MLP, 4).dead and back.count(FeatureFilter(dead=True)) == 2
    assert back.search("capital two")[0].index == 2
    label = back.label(MLP, 2)
    if tool == "neuronpedia":
        assert label is not None and (label.text, label.by) == ("Paris, in the end", "Ann")
    else:
        assert label is None
    # Out again: the same bytes.
    again = tmp_path / "again"
    export_dashboards(back, tool, again)
    files = sorted(path.relative_to(out) for path in out.rglob("*.json") if path.name != NOTE)
    assert files == sorted(p.relative_to(again) for p in again.rglob("*.json") if p.name != NOTE)
    for file in files:
        assert (out / file).read_bytes() == (again / file).read_bytes(), file


def test_some_features_only(store: FeatureStore, tmp_path: Path, brought: Any) -> None:
    out = tmp_path / "some"
    assert export_dashboards(store, "circuit-tracer", out, [(MLP, 2), (ATTENTION, 0)]).n_files == 2
    # Attentions and MLPs of a layer have one layer's number: they are counted as modules.
    expected = {f"{cantor_pair(3, 2)}.json", f"{cantor_pair(2, 0)}.json", NOTE}
    assert {path.name for path in out.iterdir()} == expected
    back, _ = brought(out)
    assert back.ids() == [(ATTENTION, 0), (MLP, 2)]
    assert back.has(MLP, 2) and not back.has(MLP, 1) and not back.has(MLP, 5)
    assert back.random(seed=0) in back.ids()
    assert np.isnan(back.density(MLP)[[0, 4]]).all()
    assert back.density(MLP)[2] == 0.03
    with pytest.raises(StudioError, match="no page about L1 #1"):
        back.page(MLP, 1)


def test_what_circuit_tracer_wrote(brought: Any, tmp_path: Path) -> None:
    value = tracer_value()
    back, found = brought(value, name=f"{value['index']}.json")
    site = Site(2, "mlp")
    page = back.page(site, 7)
    assert page.density == 0.00123 and not page.counted
    assert page.max_activation == 2.5
    assert page.histogram.edges.tolist() == [0, 1.25, 2.5]
    first, second = page.groups[0].examples
    assert (first.peak, second.peak, second.repeated) == (1, 0, True)
    assert len(page.promoted) == 8 and np.isnan(page.promoted[0][1])
    about = back.about
    assert about.anonymous and not about.counted and about.origin == "circuit-tracer"
    assert not about.fits("1", about.dictionaries_id)
    assert "which features write alike" in about.lacks
    assert any("which weights" in note for note in found.notes)
    assert back.count() == 1 and about.n_features == 8
    # Out again: everything is there that was.
    export_dashboards(back, "circuit-tracer", tmp_path / "again")
    again = json.loads((tmp_path / "again" / f"{value['index']}.json").read_text())
    assert again == value


def test_what_saedashboard_wrote(brought: Any, tmp_path: Path) -> None:
    value = batch_value()
    back, _ = brought(value)
    page = back.page(Site(3, "mlp"), 4)
    assert (page.density, page.max_activation) == (0.25, 4.0)
    assert page.histogram.edges.tolist() == [0, 1, 2, 3, 4]
    assert page.promoted[0] == (" Paris", 1.5)
    assert [(group.name, group.low) for group in page.groups] == [
        ("Strongest", None),
        ("80% to 100% of the largest", pytest.approx(3.2)),
        ("Interval 2 of 2, from the largest down", 0.5),
    ]
    assert back.about.model_name == "gemma"
    assert back.about.crm_name == "3-gemmascope-transcoder-16k"
    export_dashboards(back, "neuronpedia", tmp_path / "again")
    (path,) = (tmp_path / "again").glob("*/batch-0.json")
    assert json.loads(path.read_text())["features"] == value["features"]


def test_what_neuronpedia_answers(brought: Any, tmp_path: Path) -> None:
    back, _ = brought([neuronpedia_value()])
    page = back.page(Site(5, "attention"), 11)
    assert np.isnan(page.density) and not page.dead  # a share that was never filled in
    assert page.max_activation == 3.5 and not len(page.histogram.counts)
    looks = page.groups[0].examples[0].looks_at
    assert looks is not None and looks.tolist() == [2, 1.5, 0]
    assert [(one.index, one.score) for one in page.near_by_decoder] == [(3, 0.5)]
    assert page.label is not None and page.label.text == "says <i>x</i>"
    assert page.label.by == "gpt-4o"
    assert back.rows()[0].max_activation == 3.5 and np.isnan(back.rows()[0].density)
    assert back.ids(FeatureFilter(most_density=1.0)) == []
    assert "histograms" in back.about.lacks and "how often features fire" in back.about.lacks
    # To SAEDashboard's form, which has another name for some of it.
    export_dashboards(back, "neuronpedia", tmp_path / "np")
    (path,) = (tmp_path / "np").glob("*/batch-0.json")
    made = json.loads(path.read_text())["features"][0]
    assert made["frac_nonzero"] is None
    assert made["activations"][0]["dfa_values"] == [2, 1.5, 0]


def test_rows_of_an_export_are_put_together(tmp_path: Path, brought: Any) -> None:
    whole = neuronpedia_value()
    named = {name: whole[name] for name in ("modelId", "layer", "index")}
    rows = {
        "features": {k: v for k, v in whole.items() if k not in ("activations", "explanations")},
        "activations": whole["activations"][0] | named,
        "explanations": whole["explanations"][0] | named,
        "source": {"id": "5-att-kk", "modelId": "gpt2-small"},
    }
    for folder, row in rows.items():
        path = tmp_path / "export" / folder / "batch-0.jsonl.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(gzip.compress((json.dumps(row) + "\n\n").encode()))
    back, found = brought(tmp_path / "export")
    assert found.n_labels == 1 and found.n_pages == 1
    page = back.page(Site(5, "attention"), 11)
    assert page.groups[0].examples[0].tokens == ("a", "b", "c")
    assert any("left out: 1" in note for note in found.notes)


def test_published_files_of_circuit_tracer(tmp_path: Path, brought: Any) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    packed, offsets = b"", [0]
    for latent in range(3):
        if latent != 1:
            text = zlib.compress(json.dumps(tracer_value(latent)).encode())
            packed += len(text).to_bytes(4, "little") + text
        offsets.append(len(packed))
    (folder / "layer_2.bin").write_bytes(packed)
    index: dict[str, Any] = {"2": {"filename": "layer_2.bin", "offsets": offsets}}
    path = folder / "index.json.gz"
    path.write_bytes(gzip.compress(json.dumps(index).encode()))
    back, _ = brought(folder)
    assert back.ids() == [(Site(2, "mlp"), 0), (Site(2, "mlp"), 2)]
    for change in ({"filename": "../out.bin"}, {"filename": "gone.bin"}, {"offsets": [0, 10**9]},
                   {"offsets": "all"}, {"filename": 3}):  # fmt: skip
        index["2"] = {"filename": "layer_2.bin", "offsets": offsets} | change
        path.write_bytes(gzip.compress(json.dumps(index).encode()))
        with pytest.raises(FeatureFileError):
            brought(folder)


def test_parts_without_a_page_are_not_written(brought: Any) -> None:
    far = 5 * PART_FEATURES + 3
    back, _ = brought([tracer_value(1), tracer_value(far)])
    site = Site(2, "mlp")
    assert sorted(path.name for path in back.folder.glob("mlp*")) == [
        "mlp_02_00000.safetensors",
        "mlp_02_00005.safetensors",
    ]
    assert back.ids() == [(site, 1), (site, far)]
    assert back.page(site, far).promoted and not back.has(site, 3 * PART_FEATURES)
    assert np.flatnonzero(back.fired(site) >= 0).tolist() == [1, far]


def test_somebody_says_whose_they_are(brought: Any) -> None:
    sites = (SiteSize(2, "mlp", 8),)
    said = Belonging("m", "1", "c", "2", sites)
    back, _ = brought(tracer_value(), belonging=said)
    assert back.about.sites == sites and back.about.fits("1", back.about.dictionaries_id)
    with pytest.raises(DashboardTransferError, match="no feature L2 #8"):
        brought(tracer_value(8), belonging=said)
    with pytest.raises(DashboardTransferError, match="no dictionary for L3"):
        brought(tracer_value(layer=3), belonging=said)
    back, _ = brought(tracer_value(layer=5), layers="sites")
    assert back.about.sites[0].site == Site(2, "mlp")


def at(value: Any, path: str, new: Any) -> Any:
    """A copy with another value at a place."""
    found = copy.deepcopy(value)
    part = found
    *ways, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    for way in ways:
        part = part[way]
    part[last] = new
    return found


_EXAMPLE = "examples_quantiles.0.examples.0"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (at(tracer_value(), f"{_EXAMPLE}.tokens", ["a"]), "1 tokens and 3 activations"),
        (at(tracer_value(), f"{_EXAMPLE}.tokens", ["a", 2, "b"]), "tokens.1"),
        (at(tracer_value(), f"{_EXAMPLE}.tokens_acts_list", [0, "1", 2]), "tokens_acts_list.1"),
        (at(tracer_value(), f"{_EXAMPLE}.tokens_acts_list", [0, 1e39, 2]), "tokens_acts_list.1"),
        (at(tracer_value(), "activation_frequency", 1.5), "activation_frequency"),
        (at(tracer_value(), "examples_quantiles", {}), "examples_quantiles"),
        (at(tracer_value(), "index", -1), "number of a feature"),
        (at(tracer_value(), "index", True), "number of a feature"),
        (at(tracer_value(), "index", 1 << 60), "number of a feature"),
        (at(tracer_value(), "index", cantor_pair(5000, 1)), "about feature 1"),
        (at(tracer_value(), "top_logits", ["x" * 5000]), "top_logits.0"),
        (batch_value(pos_values=[1.0]), "pos_str has 2 tokens"),
        (batch_value(feature_index="x"), "about feature x"),
        (batch_value(activations=[{"tokens": [], "values": []}]), "activations.0.tokens"),
        (batch_value() | {"sae_set": "gemmascope-res-16k"}, "does not say which module"),
        (batch_value() | {"layer": "../3"}, "does not say which module"),
        ([batch_value(), batch_value() | {"model_id": "other"}], "others are of gemma"),
        ([batch_value(), batch_value()], "two pages about L3 #4"),
        ([batch_value(), batch_value() | {"sae_set": "tc"}], "import one of them at a time"),
        ({"nodes": []}, "no pages about features"),
        ([], "no pages about features"),
        (3, "no pages about features"),
    ],
)
def test_what_makes_no_sense_is_refused(
    value: Any, words: str, brought: Any, tmp_path: Path
) -> None:
    with pytest.raises(StudioError, match=words):
        brought(value)
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"examples_quantiles": NaN}', '{"index": 1, "index": 2}', "[" * 5000, "1e999",
     '{"examples_quantiles": [], "index": ' + "9" * 5000 + "}", "\udcff"],
)  # fmt: skip
def test_what_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    source = tmp_path / "7.json"
    source.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FeatureFileError, match=r"7\.json"):
        import_dashboards([source], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_reading, "MAX_FILE_BYTES", 100)
    monkeypatch.setattr(feature_reading, "MAX_LINE_BYTES", 100)
    row = json.dumps(neuronpedia_value())
    files = {
        "7.json": json.dumps(tracer_value()).encode(),
        "a.jsonl": row.encode(),
        "a.jsonl.gz": gzip.compress(row.encode()),
        "b.jsonl.gz": gzip.compress(row.encode())[:-20],
        "c.jsonl.gz": b"no gzip at all",
        "index.json.gz": gzip.compress(b" " * 200),
    }
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(FeatureFileError):
            import_dashboards([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "7.json"
    secret.write_text(json.dumps(tracer_value()))
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "7.json").symlink_to(secret)
    with pytest.raises(DashboardTransferError, match="no pages"):
        import_dashboards([folder], tmp_path / "out")


def test_a_damaged_note_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    out = tmp_path / "theirs"
    export_dashboards(store, "circuit-tracer", out, [(MLP, 2)])
    note = json.loads((out / NOTE).read_text())
    for text in ("{", json.dumps(note | {"n_tokens": -1}), json.dumps(note | {"modules": [{}]})):
        (out / NOTE).write_text(text)
        with pytest.raises(FeatureFileError, match=NOTE):
            import_dashboards([out], tmp_path / "in")


def test_nothing_is_overwritten_and_nothing_left(store: FeatureStore, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    source = tmp_path / "7.json"
    source.write_text(json.dumps(tracer_value()))
    stopped = WorkContext()
    stopped.cancel()
    with pytest.raises(DashboardTransferError, match="there already"):
        export_dashboards(store, "circuit-tracer", full)
    with pytest.raises(DashboardTransferError, match="there already"):
        import_dashboards([source], full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Cancelled):
        export_dashboards(store, "neuronpedia", tmp_path / "new", ctx=stopped)
    with pytest.raises(Cancelled):
        import_dashboards([source], tmp_path / "new", ctx=stopped)
    with pytest.raises(StudioError, match="no feature"):
        export_dashboards(store, "neuronpedia", tmp_path / "new", [(MLP, 10**6)])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"a": 1, "b": [1]}, {"a": 1, "b": [1]}),
        ({"a": 1}, {"a": 1.0, "b": 2}),
        ({"a": [{"x": 1, "y": 2}, {"x": 2}]}, {"a": [{"x": 1}, {"x": 2, "z": 3}]}),
        ({"a": [{"x": 1}]}, {"a": [{"x": 1}, {"x": 2}]}),
        ({"a": None}, {}),
        ({"a": True}, {"a": 1}),
    ],
)
def test_what_one_value_has_beyond_another(theirs: Any, ours: Any) -> None:
    rest = rest_of(theirs, ours)
    assert with_rest(ours, json.loads(json.dumps(rest))) == theirs
    assert rest_of(ours, ours) is None
    for damaged in (["odd"], ["list", {"9": ["value", 1]}], ["object", 3], ["value"]):
        with pytest.raises(ValueError, match="kept"):
            with_rest(ours, damaged)


def test_halves_of_surrogate_pairs_are_no_harm(brought: Any, tmp_path: Path) -> None:
    """JSON can say them, UTF-8 cannot: tokens that are parts of a character may have them."""
    half = "\ud83d"
    value = at(tracer_value(), f"{_EXAMPLE}.tokens", [half, " world", "!"])
    value = at(at(value, "top_logits", [half]), "examples_quantiles.0.quantile_name", half)
    back, _ = brought(value)
    assert back.page(Site(2, "mlp"), 7).groups[0].examples[0].tokens == ("?", " world", "!")
    export_dashboards(back, "circuit-tracer", tmp_path / "again")
    (page,) = (tmp_path / "again").glob("[0-9]*.json")
    assert json.loads(page.read_text()) == value
    value = neuronpedia_value()
    value["explanations"][0] |= {"description": half, "explanationModelName": half}
    back, _ = brought(value | {"modelId": half, "layer": f"5-att-{half}"}, name="\udc80.json")
    label = back.label(Site(5, "attention"), 11)
    assert label is not None and label.text == "?"
    assert back.about.model_name == "?"
