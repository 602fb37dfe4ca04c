"""From another tool's folder to a CRM, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

from attention_studio.core.dictionaries.clt import CrossLayerTranscoder
from attention_studio.core.dictionaries.crm_folder import (
    CRMManifest,
    ModelReference,
    TrainingRecord,
    load_crm,
    save_crm,
)
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.foreign import (
    circuit_tracer,
    llamascopium_folder,
    saelens,
    sparsify,
)
from attention_studio.core.dictionaries.foreign.checked import UnsupportedDictionaryError
from attention_studio.core.dictionaries.foreign.found import TOOLS, ForeignDictionary, Tool
from attention_studio.core.dictionaries.foreign.hooks import NormalizedHook
from attention_studio.core.dictionaries.foreign.opening import open_foreign
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import atomic_folder
from attention_studio.utils.progress import WorkContext

_WRITERS: dict[Tool, Callable[[Path, DictionarySet, ModelReference], None]] = {
    "circuit-tracer": circuit_tracer.write_folder,
    "saelens": saelens.write_folder,
    "sparsify": sparsify.write_folder,
    "llamascopium": llamascopium_folder.write_folder,
}


class TransferError(StudioError):
    """Dictionaries cannot go where they are wanted."""


def import_dictionaries(
    folder: Path,
    loaded: LoadedModel,
    out: Path,
    normalized: Optional[NormalizedHook] = None,
    ctx: Optional[WorkContext] = None,
) -> CRMManifest:
    """Make a CRM of another tool's dictionaries.

    Args:
        folder: what circuit-tracer, SAELens, sparsify or Llamascopium wrote.
        loaded: the model that they were trained on. Whether they were cannot be told from their
            files; only their shape is checked.
        out: the new CRM's folder.
        normalized: for models with LayerNorms, what the hook ``hook_normalized`` meant where they
            were trained: ``before gain`` (TransformerLens 3 and later) or ``after gain``.
        ctx: progress, and a way to cancel.

    Returns:
        The CRM's manifest, whose training record says where the dictionaries come from.

    Raises:
        ForeignFormatError: the folder is damaged, or of no known tool; names file and field.
        UnsupportedDictionaryError: what is in it cannot be used with this model; says why.
        UnfoldedDictionaryError: a training scale is missing.
        TransferError: ``out`` is in use.
        FileWriteError: ``out`` cannot be written.
    """
    _check_free(out)
    found = open_foreign(folder)
    adapter = loaded.adapter
    missing = [site for site in found.sites if site.layer >= adapter.n_layers]
    if missing:
        raise UnsupportedDictionaryError(
            f"{folder} is for another model",
            f"it has a dictionary for {missing[0]}, and {loaded.info.name} has layers 0 … "
            f"{adapter.n_layers - 1}",
        )
    if sum(len(item.sites) > 1 for item in found.dictionaries) > 1:
        raise UnsupportedDictionaryError(
            f"{folder} holds several cross-layer transcoders", "a CRM has one"
        )
    transcoders: dict[int, Transcoder] = {}
    lorsas: dict[int, Lorsa] = {}
    clt: Optional[CrossLayerTranscoder] = None
    for count, item in enumerate(found.dictionaries):
        _tell(ctx, count, len(found.dictionaries), f"Reading {item.path.name}")
        dictionary = item.load(adapter, normalized)
        layer = item.sites[0].layer
        if isinstance(dictionary, CrossLayerTranscoder):
            clt = dictionary
        elif isinstance(dictionary, Lorsa):
            lorsas[layer] = dictionary
        else:
            transcoders[layer] = dictionary
    record = TrainingRecord(
        settings={
            "imported_from": found.tool,
            "model_name": found.model_name,
            "hooks": {str(site): names for site, names in _hooks(found.dictionaries)},
        }
    )
    return save_crm(out, DictionarySet(transcoders, lorsas, clt), loaded.info, record)


def export_dictionaries(
    crm_folder: Path,
    tool: Tool,
    out: Path,
    sites: Optional[Sequence[Site]] = None,
    ctx: Optional[WorkContext] = None,
) -> Path:
    """Write a CRM's dictionaries as another tool reads them.

    Args:
        crm_folder: the CRM.
        tool: one of ``TOOLS``.
        out: the new folder.
        sites: the modules whose dictionaries go along; None: all.
        ctx: progress, and a way to cancel.

    Returns:
        ``out``.

    Raises:
        CRMFormatError, CRMMismatchError: the CRM is damaged, or lacks a module.
        UnsupportedDictionaryError: the tool cannot hold them; says why, and nothing is written.
        TransferError: there is no such tool, nothing to write, or ``out`` is in use.
        FileWriteError: ``out`` cannot be written.
    """
    if tool not in _WRITERS:
        raise TransferError(f"There is no tool {tool!r}", f"known are {', '.join(TOOLS)}")
    _check_free(out)
    _tell(ctx, 0, 1, f"Reading {crm_folder}")
    crm = load_crm(crm_folder, sites=sites, ctx=ctx)
    if not crm.dictionaries.sites:
        raise TransferError(f"{crm_folder} has no dictionaries of the kind that is asked for")
    _tell(ctx, 0, 1, f"Writing {out}")
    with atomic_folder(out) as staging:
        _WRITERS[tool](staging, crm.dictionaries, crm.manifest.model)
    return out


def _check_free(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise TransferError(
            f"{out} is in use", "something is there already", "Choose a new or an empty folder"
        )


def _hooks(found: Sequence[ForeignDictionary]) -> list[tuple[Site, list[str]]]:
    hooks = [hook for item in found for hook in item.hooks]
    return [(hook.site, [hook.input_name, hook.output_name]) for hook in hooks]


def _tell(ctx: Optional[WorkContext], done: int, total: int, text: str) -> None:
    if ctx is not None:
        ctx.check()
        ctx.progress(done, total, text)
