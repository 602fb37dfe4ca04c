"""What does not fit into memory, or belongs to another model, is refused before it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch

from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign import (
    checked,
    llamascopium,
    llamascopium_clt,
    llamascopium_lorsa,
)
from attention_studio.core.dictionaries.foreign.checked import (
    TensorFile,
    UnsupportedDictionaryError,
)
from attention_studio.core.dictionaries.foreign.found import TOOLS, Tool
from attention_studio.core.dictionaries.foreign.opening import open_foreign
from attention_studio.core.model_adapter import ModelAdapter
from tests.foreign import edit_json, random_clt, random_lorsa, random_transcoder, refused, written
from tests.tiny import tiny_model


def half(path: Path) -> None:
    """Save a file's tensors in 16 bits."""
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: t.half() for name, t in tensors.items()}, path)


class TestMemory:
    @pytest.mark.parametrize(
        ("tool", "kind"),
        [
            *((tool, "mlp") for tool in TOOLS),
            ("llamascopium", "attention"),
            ("llamascopium", "clt"),
            ("circuit-tracer", "clt"),
        ],
    )
    def test_what_is_larger_is_not_read(
        self, tmp_path: Path, tool: Tool, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = {
            "mlp": DictionarySet({0: random_transcoder()}),
            "attention": DictionarySet(lorsas={0: random_lorsa()}),
            "clt": DictionarySet(clt=random_clt()),
        }[kind]
        folder = written(tool, tmp_path / "x", held)
        files = [*folder.rglob("*.safetensors")]
        numbers = [t.numel() for f in files for t in safetensors.torch.load_file(f).values()]
        if kind != "attention":  # which has a mask of no weights, and tables
            for path in files:
                half(path)
            # All in float32, whatever the file has, and the largest tensor twice on the way.
            needed = 4 * (sum(numbers) + 2 * max(numbers))
            monkeypatch.setattr(checked, "available_ram", lambda: needed)
            for item in open_foreign(folder).dictionaries:
                item.load()
            monkeypatch.setattr(checked, "available_ram", lambda: needed - 1)
        else:
            monkeypatch.setattr(checked, "available_ram", lambda: 100)
        monkeypatch.setattr(TensorFile, "read", None)
        refused(folder, "too large for the memory", UnsupportedDictionaryError)

    @pytest.mark.parametrize("kind", ["mlp", "clt"])
    @pytest.mark.parametrize("tool", ["llamascopium", "circuit-tracer"])
    def test_another_models_is_not_read(
        self, tmp_path: Path, tool: Tool, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = DictionarySet({0: random_transcoder()}) if kind == "mlp" else None
        folder = written(tool, tmp_path / "x", held or DictionarySet(clt=random_clt()))
        (item,) = open_foreign(folder).dictionaries
        monkeypatch.setattr(TensorFile, "read", None)
        with pytest.raises(UnsupportedDictionaryError, match=r"(?s)reads 10 numbers.* has 32"):
            item.load(ModelAdapter.for_model(tiny_model("llama")))

    @pytest.mark.parametrize("kind", ["sae", "clt", "lorsa"])
    def test_no_room_is_made_for_what_a_configuration_claims(
        self, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = {
            "sae": DictionarySet({0: random_transcoder()}),
            "lorsa": DictionarySet(lorsas={0: random_lorsa()}),
            "clt": DictionarySet(clt=random_clt()),
        }[kind]
        folder = written("llamascopium", tmp_path / "x", held)
        (config,) = folder.rglob("config.json")
        edit_json(config, lambda c: c.update(expansion_factor=2 * c["expansion_factor"]))
        for module in (llamascopium, llamascopium_clt, llamascopium_lorsa):
            for name in ("Transcoder", "CrossLayerTranscoder", "Lorsa"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, None)
        refused(folder, "has shape")
