"""Whose folder is it? And what is in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Optional

from attention_studio.core.dictionaries.foreign import (
    circuit_tracer,
    llamascopium_folder,
    saelens,
    sparsify,
)
from attention_studio.core.dictionaries.foreign.checked import ForeignFormatError
from attention_studio.core.dictionaries.foreign.found import (
    ForeignDictionaries,
    ForeignDictionary,
    Tool,
)

MAX_FOLDERS = 4096

_Opener = Callable[[Path], tuple[ForeignDictionary, str]]
_ONE_PER_FOLDER: dict[Tool, tuple[Callable[[Path], bool], _Opener]] = {
    "saelens": (saelens.recognises, saelens.open_folder),
    "sparsify": (sparsify.recognises, sparsify.open_folder),
    "llamascopium": (llamascopium_folder.recognises, llamascopium_folder.open_folder),
}


def open_foreign(folder: Path) -> ForeignDictionaries:
    """What dictionaries of which tool are in a folder; it is known by its files.

    Tools that keep one dictionary per folder are found in ``folder`` itself, or in the folders
    directly in it. Configurations are read now, and weights when they are asked for.

    Raises:
        ForeignFormatError: there are none, or they are damaged; names file and field.
        UnsupportedDictionaryError: there are some that cannot be used here; says why.
        UnfoldedDictionaryError: some expect scaled activations, and the scale is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ForeignFormatError(
            f"{folder} is no folder", "", "Choose the folder that the other tool wrote"
        )
    try:
        if circuit_tracer.recognises(folder):
            return circuit_tracer.open_folder(folder)
        return _open_many(folder)
    except OSError as error:
        raise ForeignFormatError(
            f"{folder} cannot be read", error.strerror or str(error)
        ) from error


def _open_many(folder: Path) -> ForeignDictionaries:
    tool = _tool_of(folder)
    places = {folder: tool} if tool else _below(folder)
    if not places:
        raise ForeignFormatError(
            f"{folder} holds no dictionaries of a tool that is known here",
            "there is no config.yaml of circuit-tracer, no cfg.json with sae_weights.safetensors "
            "(SAELens) or sae.safetensors (sparsify), and no config.json with "
            "sae_weights.safetensors (Llamascopium), neither in it nor one folder below",
            "Choose the folder that the other tool wrote; pickled weights (.pt) are not read",
        )
    found_tools = sorted(set(places.values()))
    if len(found_tools) > 1:
        raise ForeignFormatError(
            f"{folder} holds dictionaries of several tools", ", ".join(found_tools)
        )
    found: list[ForeignDictionary] = []
    names: set[str] = set()
    for place in sorted(places):
        dictionary, name = _ONE_PER_FOLDER[found_tools[0]][1](place)
        for other in found:
            twice = set(other.sites) & set(dictionary.sites)
            if twice:
                raise ForeignFormatError(
                    f"{place}: {min(twice)} has a dictionary in {other.path} already",
                    "one module can have one",
                    "Choose the folder of one of them",
                )
        found.append(dictionary)
        names.add(name)
    if len(names) > 1:
        raise ForeignFormatError(
            f"{folder} holds dictionaries of several models", ", ".join(sorted(names))[:300]
        )
    ordered = tuple(sorted(found, key=lambda item: item.sites))
    return ForeignDictionaries(found_tools[0], folder, ordered, names.pop())


def _tool_of(folder: Path) -> Optional[Tool]:
    for tool, (recognises, _) in _ONE_PER_FOLDER.items():
        if recognises(folder):
            return tool
    return None


def _below(folder: Path) -> dict[Path, Tool]:
    places: dict[Path, Tool] = {}
    for count, entry in enumerate(folder.iterdir()):
        if count >= MAX_FOLDERS:
            raise ForeignFormatError(
                f"{folder} holds more than {MAX_FOLDERS:,} entries", "no set of dictionaries does"
            )
        tool = _tool_of(entry) if entry.is_dir() else None
        if tool is not None:
            places[entry] = tool
    return places
