"""From another tool's folder to a CRM that works with a model, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attention_studio.cli import main
from attention_studio.core.dictionaries.crm_folder import CRMMismatchError, load_crm, save_crm
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign.checked import UnsupportedDictionaryError
from attention_studio.core.dictionaries.foreign.found import Tool
from attention_studio.core.dictionaries.foreign.opening import open_foreign
from attention_studio.core.dictionaries.foreign.transfer import (
    TransferError,
    export_dictionaries,
    import_dictionaries,
)
from attention_studio.core.model_manager import LoadedModel
from attention_studio.core.sites import Site, mlp_sites
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.foreign import random_clt, random_lorsa, random_transcoder, written
from tests.tiny import tiny_loaded

D = 32


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_loaded("llama")


@pytest.fixture
def crm(tmp_path: Path, loaded: LoadedModel) -> Path:
    folder = tmp_path / "crm"
    transcoders = {i: random_transcoder("jumprelu", seed=i, d=D) for i in range(3)}
    lorsas = {1: random_lorsa("topk", d_model=D)}
    save_crm(folder, DictionarySet(transcoders, lorsas), loaded.info)
    return folder


@pytest.mark.parametrize("tool", ["circuit-tracer", "saelens", "llamascopium"])
def test_there_and_back(tmp_path: Path, loaded: LoadedModel, crm: Path, tool: Tool) -> None:
    sites = mlp_sites((0, 1, 2))
    out = export_dictionaries(crm, tool, tmp_path / "theirs", sites)
    assert open_foreign(out).tool == tool
    manifest = import_dictionaries(out, loaded, tmp_path / "back")
    assert manifest.sites == sites
    assert manifest.training.settings["imported_from"] == tool
    hooks = manifest.training.settings["hooks"]
    output = "mlp.hook_out" if tool == "circuit-tracer" else "hook_mlp_out"
    assert hooks["mlp 2"] == ["blocks.2.mlp.hook_in", f"blocks.2.{output}"]
    original, back = (
        load_crm(path, loaded.info, sites).dictionaries for path in (crm, out.parent / "back")
    )
    x = torch.randn(20, D)
    for layer in range(3):
        expected = original.transcoders[layer](x)
        torch.testing.assert_close(back.transcoders[layer](x), expected, rtol=1e-6, atol=1e-6)


def test_all_kinds_go_to_llamascopium(tmp_path: Path, loaded: LoadedModel, crm: Path) -> None:
    out = export_dictionaries(crm, "llamascopium", tmp_path / "theirs")
    manifest = import_dictionaries(out, loaded, tmp_path / "back")
    assert manifest.sites == (Site(0, "mlp"), Site(1, "attention"), Site(1, "mlp"), Site(2, "mlp"))


def test_what_does_not_fit_leaves_nothing_behind(tmp_path: Path, crm: Path) -> None:
    with pytest.raises(UnsupportedDictionaryError, match="attention"):
        export_dictionaries(crm, "circuit-tracer", tmp_path / "theirs")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["crm"]


def test_a_module_that_the_crm_lacks(tmp_path: Path, crm: Path) -> None:
    with pytest.raises(CRMMismatchError, match="attention 0"):
        export_dictionaries(crm, "llamascopium", tmp_path / "x", [Site(0, "attention")])


@pytest.mark.parametrize("tool", ["circuit-tracer", "llamascopium"])
def test_a_cross_layer_transcoder(tmp_path: Path, loaded: LoadedModel, tool: Tool) -> None:
    original = random_clt("jumprelu", d=D)
    save_crm(tmp_path / "crm", DictionarySet(clt=original), loaded.info)
    out = export_dictionaries(tmp_path / "crm", tool, tmp_path / "theirs")
    import_dictionaries(out, loaded, tmp_path / "back")
    back = load_crm(tmp_path / "back", loaded.info).dictionaries.clt
    assert back is not None
    x = {layer: torch.randn(20, D) for layer in range(3)}
    expected = original(x)
    for layer, y in back(x).items():
        torch.testing.assert_close(y, expected[layer], rtol=1e-6, atol=1e-6)


def test_nothing_to_write(tmp_path: Path, crm: Path) -> None:
    with pytest.raises(TransferError, match="no dictionaries of the kind"):
        export_dictionaries(crm, "saelens", tmp_path / "x", [])


def test_one_kind_of_module_from_the_command_line(tmp_path: Path, crm: Path) -> None:
    out = tmp_path / "theirs"
    command = ["export", "--crm", str(crm), "--tool", "circuit-tracer", "--out", str(out)]
    assert main(command) == 1  # attention has no place there
    assert not out.exists()
    assert main([*command, "--only", "mlp"]) == 0
    assert open_foreign(out).sites == mlp_sites((0, 1, 2))


def test_an_unknown_tool(tmp_path: Path, crm: Path) -> None:
    tool: Any = "neuronpedia"
    with pytest.raises(TransferError, match=r"'neuronpedia'.*circuit-tracer"):
        export_dictionaries(crm, tool, tmp_path / "x")


def test_nothing_is_replaced(tmp_path: Path, loaded: LoadedModel, crm: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    for call in (
        lambda: export_dictionaries(crm, "saelens", tmp_path / "mine"),
        lambda: import_dictionaries(crm, loaded, tmp_path / "mine"),
        lambda: export_dictionaries(crm, "saelens", tmp_path / "mine/letter.txt"),
    ):
        with pytest.raises(TransferError, match="in use"):
            call()
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"


def test_an_empty_folder_is_free(tmp_path: Path, crm: Path) -> None:
    (tmp_path / "empty").mkdir()
    export_dictionaries(crm, "saelens", tmp_path / "empty", [Site(1, "mlp")])
    assert [entry.name for entry in (tmp_path / "empty").iterdir()] == ["mlp_01"]


def test_more_layers_than_the_model_has(tmp_path: Path, loaded: LoadedModel) -> None:
    folder = written("saelens", tmp_path / "x", DictionarySet({3: random_transcoder(d=D)}))
    with pytest.raises(UnsupportedDictionaryError, match=r"mlp 3.*layers 0 … 2"):
        import_dictionaries(folder, loaded, tmp_path / "crm")
    assert not (tmp_path / "crm").exists()


def test_cancelling(tmp_path: Path, loaded: LoadedModel, crm: Path) -> None:
    ctx = WorkContext()
    out = export_dictionaries(crm, "saelens", tmp_path / "theirs", mlp_sites((0, 1)), ctx)
    ctx.cancel()
    with pytest.raises(Cancelled):
        import_dictionaries(out, loaded, tmp_path / "back", ctx=ctx)
    assert not (tmp_path / "back").exists()
