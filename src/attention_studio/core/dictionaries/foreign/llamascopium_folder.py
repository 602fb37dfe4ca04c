"""Llamascopium's folders as a whole: which kind of dictionary is in one (see ``llamascopium``)."""

from __future__ import annotations

from pathlib import Path

from attention_studio.core.dictionaries.crm_folder import ModelReference
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign.checked import UnsupportedDictionaryError
from attention_studio.core.dictionaries.foreign.found import ForeignDictionary
from attention_studio.core.dictionaries.foreign.hooks import hook_pair
from attention_studio.core.dictionaries.foreign.llamascopium import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    check_common,
    read_config,
    read_sae,
    sae_config,
    write_sae,
)
from attention_studio.core.dictionaries.foreign.llamascopium_clt import (
    clt_config,
    read_clt,
    write_clt,
)
from attention_studio.core.dictionaries.foreign.llamascopium_lorsa import (
    lorsa_config,
    read_lorsa,
    write_lorsa,
)
from attention_studio.core.dictionaries.foreign.weights import plain
from attention_studio.core.sites import Site

CONTEXT_LENGTH = 1024
"""Of the Lorsas that are written: the tool keeps tables of angles of that length in the file."""


def recognises(folder: Path) -> bool:
    """Whether a folder looks like one of Llamascopium's."""
    return (folder / CONFIG_NAME).is_file() and (folder / WEIGHTS_NAME).is_file()


def open_folder(folder: Path) -> tuple[ForeignDictionary, str]:
    """The dictionary in a folder and its model's name (the tool keeps none beside it).

    Raises:
        ForeignFormatError: it is damaged; names file and field.
        UnsupportedDictionaryError: it cannot be used here; says why.
    """
    path, weights = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    content = read_config(folder)
    kind = content.get("sae_type")
    if kind == "sae":
        sae = sae_config(path, content)
        act = check_common(path, sae)
        hooks = hook_pair(path, sae.hook_point_in, sae.hook_point_out)
        if hooks.site.kind != "mlp":
            raise UnsupportedDictionaryError(
                f"{path}: a transcoder for attention",
                "attention mixes positions, and a transcoder sees one at a time",
                "Choose a Lorsa",
            )
        found = ForeignDictionary(
            folder, (hooks,), lambda: sae.d_model, lambda: read_sae(weights, sae, act)
        )
        return found, ""
    if kind == "lorsa":
        lorsa = lorsa_config(path, content)
        act = check_common(path, lorsa)
        hooks = hook_pair(path, lorsa.hook_point_in, lorsa.hook_point_out)
        if hooks.site.kind != "attention":
            raise UnsupportedDictionaryError(f"{path}: a Lorsa that stands for an MLP")
        found = ForeignDictionary(
            folder, (hooks,), lambda: lorsa.d_model, lambda: read_lorsa(weights, lorsa, act)
        )
        return found, ""
    if kind == "clt":
        clt, pairs = clt_config(path, content)
        act = check_common(path, clt)
        found = ForeignDictionary(
            folder, pairs, lambda: clt.d_model, lambda: read_clt(weights, clt, pairs, act)
        )
        return found, ""
    raise UnsupportedDictionaryError(
        f"{path}: sae_type {str(kind)[:40]!r} cannot be used here", "known are sae, lorsa and clt"
    )


def write_folder(folder: Path, dictionaries: DictionarySet, model: ModelReference) -> None:
    """Write one folder per dictionary: ``mlp_03``, ``attention_03``, ``clt``.

    Args:
        folder: exists and is empty.
        dictionaries: of any kind.
        model: whose dictionaries they are; has no part in this format.

    Raises:
        UnsupportedDictionaryError: Llamascopium cannot hold one of them; says why.
    """

    def place(name: str) -> Path:
        target = folder / name
        target.mkdir()
        return target

    for layer, transcoder in dictionaries.transcoders.items():
        site = Site(layer, "mlp")
        write_sae(place(site.name), site, plain(transcoder))
    for layer, lorsa in dictionaries.lorsas.items():
        site = Site(layer, "attention")
        write_lorsa(place(site.name), site, plain(lorsa), CONTEXT_LENGTH)
    if dictionaries.clt is not None:
        write_clt(place("clt"), dictionaries.clt)
