"""The other tools themselves read what the studio writes, and write what it reads.

Each runs in an environment of its own (``benchmarks/peers.py``), made on first use.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from attention_studio.core.dictionaries.clt import CrossLayerTranscoder
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign.found import Tool
from attention_studio.core.dictionaries.foreign.opening import open_foreign
from attention_studio.core.dictionaries.foreign.weights import plain
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.model_families import has_post_norm
from attention_studio.core.sites import Site
from benchmarks.peers import peer_python, run_checked
from tests.foreign import inputs, random_clt, random_lorsa, random_transcoder, written
from tests.tiny import FAMILIES, tiny_folder, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SCRIPTS = Path(__file__).parents[1] / "peer_scripts"
PEER_OF: dict[Tool, tuple[str, str]] = {
    "circuit-tracer": ("circuit-tracer", "circuit_tracer_peer.py"),
    "saelens": ("sae-lens", "saelens_peer.py"),
    "sparsify": ("eai-sparsify", "sparsify_peer.py"),
    "llamascopium": ("llamascopium", "llamascopium_peer.py"),
}


NORMED = "sparsity_include_decoder_norm"
RMS = 'use_post_qk_ln=true,normalization_type="RMS"'


def several(n: int, activation: ActivationKind, **config: bool) -> DictionarySet:
    """Transcoders for the layers from 0 on."""
    return DictionarySet({i: random_transcoder(activation, seed=i, **config) for i in range(n)})


THEY_READ: dict[Tool, list[DictionarySet]] = {
    "circuit-tracer": [
        several(3, "relu"),
        several(3, "relu", skip=True),
        several(3, "jumprelu"),
        several(3, "batchtopk", skip=True, norm_aware=True),
        DictionarySet(clt=random_clt("relu")),
        DictionarySet(clt=random_clt("jumprelu")),
        DictionarySet(clt=random_clt("batchtopk", norm_aware=True)),
    ],
    "saelens": [
        several(2, "relu"),
        several(2, "relu", skip=True),
        several(2, "jumprelu"),
        several(2, "jumprelu", skip=True),
        several(2, "batchtopk", skip=True, norm_aware=True),
        several(2, "topk"),
        several(2, "topk", norm_aware=True),
    ],
    "sparsify": [
        several(2, "topk"),
        several(2, "topk", skip=True, norm_aware=True),
        several(2, "relu", skip=True),
    ],
    "llamascopium": [
        *[several(1, activation) for activation in ("relu", "topk", "jumprelu", "batchtopk")],
        several(1, "topk", norm_aware=True),
        DictionarySet(lorsas={0: random_lorsa("topk", qk_norm=True)}),
        DictionarySet(lorsas={0: random_lorsa("jumprelu", rotary_dim=0)}),
        DictionarySet(lorsas={0: random_lorsa("relu", rotary_scaling=1.25)}),
        DictionarySet(clt=random_clt("topk")),
        DictionarySet(clt=random_clt("topk", norm_aware=True)),
        DictionarySet(clt=random_clt("jumprelu")),
    ],
}
# What the peer is to write, and whether our latents are in its units.
WE_READ: dict[Tool, list[tuple[str, bool]]] = {
    "circuit-tracer": [(kind, True) for kind in ("relu", "jumprelu", "skip", "clt")],
    "saelens": [
        ("transcoder", True),
        ("skip_transcoder", True),
        ("jumprelu_transcoder", True),
        ("jumprelu_skip_transcoder", True),
        ("topk", True),
    ],
    "sparsify": [("plain", True), ("skip", True)],
    "llamascopium": [
        ('sae,act_fn="relu"', True),
        ('sae,act_fn="jumprelu"', True),
        (f'sae,act_fn="topk",{NORMED}=false', True),
        ('sae,act_fn="topk",use_decoder_bias=false', False),
        ('sae,act_fn="jumprelu",norm_activation="inference"', True),
        ('lorsa,act_fn="jumprelu"', True),
        ('lorsa,act_fn="topk",attn_scale=3.5,rotary_adjacent_pairs=false', False),
        (f'lorsa,act_fn="topk",{RMS},{NORMED}=false', True),
        ('lorsa,act_fn="relu",positional_embedding_type="none"', True),
        ('lorsa,act_fn="relu",use_NTK_by_parts_rope=true,NTK_by_parts_factor=8.0', True),
        ('clt,act_fn="jumprelu"', True),
        ('clt,act_fn="topk"', False),
        (f'clt,act_fn="topk",{NORMED}=false', True),
    ],
}


def layers_of(dictionaries: DictionarySet) -> range:
    return range(len(dictionaries.sites))


def given(dictionaries: DictionarySet) -> dict[int, Tensor]:
    return {i: inputs(20, seed=i).float() for i in layers_of(dictionaries)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Tool], Path]:
    """A function that lets a peer do all that is asked of it, once: importing it takes longest."""
    done: dict[Tool, Path] = {}

    def run(tool: Tool) -> Path:
        if tool in done:
            return done[tool]
        place = tmp_path_factory.mktemp(tool)
        jobs: list[list[str]] = []
        for i, dictionaries in enumerate(THEY_READ[tool]):
            folder = written(tool, place / f"ours_{i}", dictionaries)
            x = place / f"given_{i}.safetensors"
            tensors = {f"x_{layer}": item for layer, item in given(dictionaries).items()}
            safetensors.torch.save_file(tensors, x)
            jobs.append(["read", str(folder), str(x), str(place / f"read_{i}.safetensors")])
        for i, (kind, _) in enumerate(WE_READ[tool]):
            out = place / f"wrote_{i}.safetensors"
            jobs.append(["write", str(place / f"theirs_{i}"), kind, str(out)])
        (place / "jobs.json").write_text(json.dumps(jobs))
        name, script = PEER_OF[tool]
        python = str(peer_python(name))
        run_checked([python, "-W", "ignore", str(SCRIPTS / script), str(place / "jobs.json")])
        done[tool] = place
        return place

    return run


@pytest.mark.parametrize(
    ("tool", "case"), [(tool, i) for tool, sets in THEY_READ.items() for i in range(len(sets))]
)
def test_the_tool_computes_what_we_do(ran: Callable[[Tool], Path], tool: Tool, case: int) -> None:
    """It loaded what we wrote."""
    found = safetensors.torch.load_file(ran(tool) / f"read_{case}.safetensors")
    dictionaries = THEY_READ[tool][case]
    x = given(dictionaries)
    expected: dict[str, Tensor] = {}
    for layer, transcoder in dictionaries.transcoders.items():
        item = plain(transcoder)
        expected[f"f_{layer}"], expected[f"y_{layer}"] = item.encode(x[layer]), item(x[layer])
    for layer, original in dictionaries.lorsas.items():
        lorsa = plain(original)
        expected[f"f_{layer}"], expected[f"y_{layer}"] = lorsa.encode(x[layer]), lorsa(x[layer])
    if dictionaries.clt is not None:
        clt = dictionaries.clt
        for i, y in clt(x).items():
            weight, f = clt.selection_weight(i), clt.encode(i, x[i])
            # What latents are ranked by is then a part of the activation.
            expected[f"f_{i}"], expected[f"y_{i}"] = f if weight is None else f * weight, y
    assert set(expected) == set(found)
    for name, value in expected.items():
        assert (value != 0).any(), name
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("tool", "case"), [(tool, i) for tool, kinds in WE_READ.items() for i in range(len(kinds))]
)
def test_we_compute_what_the_tool_does(ran: Callable[[Tool], Path], tool: Tool, case: int) -> None:
    """We loaded what it wrote."""
    place, (_, same_units) = ran(tool), WE_READ[tool][case]
    found = safetensors.torch.load_file(place / f"wrote_{case}.safetensors")
    opened = open_foreign(place / f"theirs_{case}")
    assert opened.tool == tool
    for item in opened.dictionaries:
        dictionary = item.load()
        x = {site.layer: found[f"x_{site.layer}"] for site in item.sites}
        if isinstance(dictionary, CrossLayerTranscoder):
            latents = {i: dictionary.encode(i, x[i]) for i in x}
            outputs = dictionary(x)
        else:
            latents = {i: dictionary.encode(x[i]) for i in x}
            outputs = {i: dictionary(x[i]) for i in x}
        for i in x:
            theirs = found[f"f_{i}"]
            assert (theirs != 0).any()
            assert torch.equal(latents[i] != 0, theirs != 0)
            torch.testing.assert_close(outputs[i], found[f"y_{i}"], rtol=1e-5, atol=1e-5)
            if same_units:
                torch.testing.assert_close(latents[i], theirs, rtol=1e-5, atol=1e-5)


def test_transformer_lens_calls_the_places_as_we_think(tmp_path: Path) -> None:
    """What ``foreign.hooks`` believes of each name, for every family."""
    arguments: list[str] = []
    for family in FAMILIES:
        tiny_folder(tmp_path / family, family)
        arguments += [str(tmp_path / family), str(tmp_path / f"{family}.safetensors")]
    python = str(peer_python("sae-lens"))
    run_checked([python, "-W", "ignore", str(SCRIPTS / "hooks_peer.py"), *arguments])
    for family in FAMILIES:
        adapter = ModelAdapter.for_model(tiny_model(family))
        seen = safetensors.torch.load_file(tmp_path / f"{family}.safetensors")
        sites = {"attn": Site(1, "attention"), "mlp": Site(1, "mlp")}
        ours = adapter.harvest(torch.arange(3, 15).unsqueeze(0), list(sites.values()))
        norms = {"attn": adapter.attention_norm(1), "mlp": adapter.mlp_norm(1)}
        for part, site in sites.items():
            close = partial(torch.allclose, rtol=0, atol=1e-4)
            norm, here = norms[part], ours[site]
            bias = 0.0 if norm.bias is None else norm.bias
            before = (here.inputs - bias) / norm.gain
            assert close(seen[f"{part}.hook_in"], here.inputs), (family, part)
            name = "ln1" if part == "attn" else "ln2"
            assert close(seen[f"{name}.hook_normalized"], before), (family, part)
            assert close(seen[f"hook_{part}_out"], here.outputs), (family, part)
            same = close(seen[f"{part}.hook_out"], here.outputs)
            assert same != has_post_norm(family, site.kind), (family, part)
