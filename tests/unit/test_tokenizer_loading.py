"""A tokenizer read in parts is the one that transformers reads at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from attention_studio.core import tokenizer_loading
from attention_studio.core.tokenizer_loading import compact_tokenizer, load_tokenizer
from attention_studio.utils.progress import WorkContext

TEXTS = (
    "the then  thaw",
    "<|start|>the<|end|>",
    "naïve\ttext\n\n<keep> it, \U00012000",
    "",
    "TheThe <|start|><keep><|end|>  ",
)


def byte_pair(folder: Path, *, merges: Sequence[tuple[str, str]] = (), **options: Any) -> Path:
    """A folder with a byte-pair tokenizer that has all that such a one may have."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("t", "h"), ("th", "e"), ("\u0120", "t"), *merges]
    words = ["<|start|>", *letters, " ", *("".join(pair) for pair in pairs), "<|end|>"]
    backend = Tokenizer(
        BPE(
            vocab={word: number for number, word in enumerate(words)},
            merges=pairs,
            **options,
        )
    )
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|start|>", eos_token="<|end|>"
    )
    tokenizer.add_tokens([AddedToken("<keep>", lstrip=True, special=False)])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def at_once(folder: Path) -> Any:
    """Read ``folder`` as transformers does."""
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def in_parts(folder: Path) -> Optional[Any]:
    """Read ``folder`` in parts, and only so."""
    if not tokenizer_loading._says_all(folder, "llama"):
        return None
    return tokenizer_loading._load_in_parts(folder, WorkContext())


def assert_same(one: Any, other: Any) -> None:
    """Everything about two tokenizers is the same."""
    assert type(one) is type(other)
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    assert one.init_kwargs == other.init_kwargs
    assert one.special_tokens_map == other.special_tokens_map
    assert one.added_tokens_decoder == other.added_tokens_decoder
    assert one.chat_template == other.chat_template
    assert len(one) == len(other)
    for text in TEXTS:
        assert one(text) == other(text)
        ids = other(text)["input_ids"]
        assert one.decode(ids) == other.decode(ids)
        assert one.decode(ids, skip_special_tokens=True) == other.decode(
            ids, skip_special_tokens=True
        )


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"unk_token": "<|end|>", "fuse_unk": True}, {"ignore_merges": True}]
)
def test_parts_make_the_whole(tmp_path: Path, options: dict[str, Any], compact: bool) -> None:
    folder = byte_pair(tmp_path, **options)
    whole = at_once(folder)
    assert whole("the")["input_ids"] != []
    if compact:
        before = (folder / "tokenizer.json").stat().st_size
        compact_tokenizer(folder)
        assert (folder / "tokenizer.json").stat().st_size < before
        assert_same(at_once(folder), whole)
    parts = in_parts(folder)
    assert parts is not None
    assert_same(parts, whole)


def test_a_word_with_a_space_keeps_its_merges_apart(tmp_path: Path) -> None:
    folder = byte_pair(tmp_path, merges=[(" ", "a")])
    whole = at_once(folder)
    compact_tokenizer(folder)
    parts = in_parts(folder)
    assert parts is not None
    assert_same(parts, whole)


def test_other_tokenizers_go_the_ordinary_road(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    backend = Tokenizer(WordLevel({"<unk>": 0, "the": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert in_parts(folder) is None
    assert load_tokenizer(folder, "llama", WorkContext())("the")["input_ids"] == [1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("special_tokens_map.json", {}),
        ("added_tokens.json", {}),
        ("tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"}),
        ("tokenizer_config.json", {"tokenizer_class": "TokenizersBackend", "auto_map": {}}),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "TokenizersBackend", "added_tokens_decoder": {}},
        ),
        ("tokenizer_config.json", []),
    ],
)
def test_where_another_file_has_a_say_nothing_is_read_in_parts(
    tmp_path: Path, name: str, content: Any
) -> None:
    folder = byte_pair(tmp_path)
    assert in_parts(folder) is not None
    (folder / name).write_text(json.dumps(content))
    assert in_parts(folder) is None


def test_families_with_a_class_of_their_own_are_left_alone(tmp_path: Path) -> None:
    folder = byte_pair(tmp_path)
    assert tokenizer_loading._says_all(folder, "llama")
    assert not tokenizer_loading._says_all(folder, "qwen2")


def test_an_added_token_with_another_id_goes_the_ordinary_road(tmp_path: Path) -> None:
    folder = byte_pair(tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"][-1]["id"] += 5
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert in_parts(folder) is None


def test_a_merge_of_unknown_words_is_an_error(tmp_path: Path) -> None:
    folder = byte_pair(tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"].append(["no", "such"])
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load_tokenizer(folder, "llama", WorkContext())


GOOD = [
    '{"a": 1, "model": {"vocab": {"x": 0}, "merges": [], "e": {}}, "b": [1, {"c": null}]}',
    ' {\n "model"\t: "no object" , "a":{"model":{}} }\n',
    "{}",
    '{"model": {}, "\\u00e9": "é"}',
]
BAD = ["", "[]", "{", '{"a"}', '{"a": 1', '{"a": 1,}', '{"a": 1 "b": 2}', '{"a": 1} x', "{1: 2}"]


@pytest.mark.parametrize("text", GOOD)
def test_an_object_read_by_members_is_what_json_reads(text: str) -> None:
    read = tokenizer_loading._read_object(text, "model", WorkContext())
    assert read == json.loads(text)
    assert list(read) == list(json.loads(text))


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        tokenizer_loading._read_object(text, "model", WorkContext())
