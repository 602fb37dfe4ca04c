"""Reading a tokenizer without stopping whoever else runs in the process.

The tokenizers library reads a ``tokenizer.json`` in one call that keeps the interpreter's lock, and
transformers has the JSON decoder read the same file once more in another. For fifty thousand words
that is 150 ms in which no window paints. Where the file says all there is to say, it is read here
in parts, the longest of which takes a third of that, and other threads get their turn in between.
Every other tokenizer is left to ``AutoTokenizer``.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any, Optional

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto import tokenization_auto

from attention_studio.utils.files import FileReadError, atomic_write, read_json, read_text
from attention_studio.utils.progress import WorkContext

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
_MAX_BYTES = 64 << 20
# What transformers 5 writes for a tokenizer that its tokenizer.json describes completely.
_PLAIN_CLASS = "TokenizersBackend"
# Files and settings of older versions, which say more about added tokens than tokenizer.json does.
_OLDER_FILES = ("special_tokens_map.json", "added_tokens.json")
_OLDER_SETTINGS = ("added_tokens_decoder", "auto_map")
_BPE_OPTIONS = frozenset(
    {
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "fuse_unk",
        "byte_fallback",
        "ignore_merges",
    }
)
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def load_tokenizer(
    folder: Path, model_type: str, ctx: WorkContext, allow_remote_code: bool = False
) -> Any:
    """The transformers tokenizer in ``folder``, the same as ``AutoTokenizer`` makes.

    Args:
        folder: where the tokenizer's files are.
        model_type: the model's family, as its config.json names it.
        ctx: a cancel is heeded between the parts.
        allow_remote_code: whether code from the folder may run.

    Raises:
        Cancelled: through ``ctx``.
        Exception: whatever transformers and tokenizers raise on damaged files.
    """
    if _says_all(folder, model_type):
        tokenizer = _load_in_parts(folder, ctx)
        if tokenizer is not None:
            return tokenizer
    return AutoTokenizer.from_pretrained(
        str(folder), trust_remote_code=allow_remote_code, local_files_only=True
    )


def compact_tokenizer(folder: Path) -> None:
    """Rewrite ``tokenizer.json`` so that reading it takes half as long.

    It says the same without white space, and a merge is one string where no word has a space.

    Raises:
        FileReadError, FileWriteError: the file cannot be read or written.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        return
    content = read_json(path, _MAX_BYTES)
    model = content["model"]
    pairs = model.get("merges")
    if pairs and all(isinstance(p, list) and not any(" " in word for word in p) for p in pairs):
        model["merges"] = [" ".join(pair) for pair in pairs]
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# ---- deciding -----------------------------------------------------------------------------------


def _says_all(folder: Path, model_type: str) -> bool:
    """Whether ``AutoTokenizer`` would take tokenizer.json as it is, and nothing beside it."""
    # For some families it makes a class of its own, whatever the files say.
    overruled = getattr(tokenization_auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", None)
    registered = tokenization_auto.TOKENIZER_MAPPING_NAMES.get(model_type)
    if overruled is None or model_type in overruled or registered == "MistralCommonBackend":
        return False
    if any((folder / name).exists() for name in _OLDER_FILES):
        return False
    try:
        config = read_json(folder / CONFIG_FILE, _MAX_BYTES)
    except FileReadError:
        return False
    return (
        isinstance(config, dict)
        and config.get("tokenizer_class") == _PLAIN_CLASS
        and not any(key in config for key in _OLDER_SETTINGS)
    )


# ---- reading in parts ---------------------------------------------------------------------------


def _load_in_parts(folder: Path, ctx: WorkContext) -> Optional[Any]:
    """The tokenizer, or None where its file has something that is not known here."""
    try:
        content = _read_object(read_text(folder / TOKENIZER_FILE, _MAX_BYTES), "model", ctx)
    except (FileReadError, ValueError):
        return None  # what is wrong with it, the ordinary road says better
    model = content.get("model")
    if not isinstance(model, dict) or model.pop("type", None) != "BPE":
        return None
    words, pairs = model.pop("vocab", None), model.pop("merges", None)
    added = content.get("added_tokens")
    if not (isinstance(words, dict) and isinstance(pairs, list) and isinstance(added, list)):
        return None
    if not _BPE_OPTIONS.issuperset(model):
        return None
    merges = [tuple(p.split(" ") if isinstance(p, str) else p) for p in pairs]
    ctx.check()
    shell = {"type": "BPE", "vocab": {}, "merges": [], **model}
    tokenizer = Tokenizer.from_str(json.dumps({**content, "model": shell, "added_tokens": []}))
    options = {key: value for key, value in model.items() if value is not None}
    try:
        tokenizer.model = BPE(vocab=words, merges=merges, **options)
    except Exception as error:
        # The library has no exception of its own.
        raise ValueError(f"{TOKENIZER_FILE}: {error}") from error
    ctx.check()
    if not _add_tokens(tokenizer, added):
        return None
    return PreTrainedTokenizerFast.from_pretrained(
        str(folder),
        tokenizer_object=_AsItIs(tokenizer),
        # Told here, transformers does not read the whole file for them.
        added_tokens_decoder={int(token["id"]): _without_id(token) for token in added},
        local_files_only=True,
    )


class _AsItIs:
    """Has transformers take a tokenizer instead of a copy, which would write and read it whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __deepcopy__(self, _memo: dict[int, Any]) -> Tokenizer:
        return self._tokenizer


def _add_tokens(tokenizer: Tokenizer, added: list[dict[str, Any]]) -> bool:
    """Add the tokens in their order. Returns whether each got the id that the file gives it."""
    for special, group in groupby(added, key=lambda token: bool(token["special"])):
        tokens = [AddedToken(**_without_id(token)) for token in group]
        if special:
            tokenizer.add_special_tokens(tokens)
        else:
            tokenizer.add_tokens(tokens)
    return all(tokenizer.token_to_id(token["content"]) == token["id"] for token in added)


def _without_id(token: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in token.items() if key != "id"}


def _read_object(text: str, divided: str, ctx: WorkContext) -> dict[str, Any]:
    """What ``json.loads`` makes of an object, with a call of its own for each of its members, and
    for each member of the object that is its member ``divided``.

    Raises:
        ValueError: it is no object.
        Cancelled: through ``ctx``.
    """
    try:
        content, end = _read_members(text, _skip(text, 0), divided, ctx)
    except (IndexError, RecursionError) as error:
        raise ValueError("it ends too early or goes too deep") from error
    if _skip(text, end) != len(text):
        raise ValueError("something follows the end")
    return content


def _read_members(text: str, at: int, divided: str, ctx: WorkContext) -> tuple[dict[str, Any], int]:
    content: dict[str, Any] = {}
    at = _expect(text, at, "{")
    while text[at] != "}":
        if content:
            at = _expect(text, at, ",")
        key, at = _DECODER.raw_decode(text, at)
        if not isinstance(key, str):
            raise ValueError(f"the name before {at} is no text")
        at = _expect(text, _skip(text, at), ":")
        if key == divided and text[at] == "{":
            content[key], at = _read_members(text, at, "", ctx)
        else:
            content[key], at = _DECODER.raw_decode(text, at)
        ctx.check()
        at = _skip(text, at)
    return content, at + 1


def _expect(text: str, at: int, mark: str) -> int:
    if text[at] != mark:
        raise ValueError(f"{mark} is missing at {at}")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None  # it matches nothing, too
    return space.end()
