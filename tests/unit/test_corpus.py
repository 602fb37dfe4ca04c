"""From sources of text to rows of tokens."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_studio.core.corpus import (
    CorpusError,
    TokenCorpus,
    build_corpus,
    read_texts,
    split_corpus,
)
from attention_studio.core.loaded_model import LoadedModel
from attention_studio.utils.errors import Cancelled
from attention_studio.utils.progress import WorkContext
from tests.tiny import tiny_loaded


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_loaded("llama")


def texts(*sources: object) -> list[str]:
    return [piece.text for piece in read_texts([str(source) for source in sources])]


class TestReading:
    def test_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "a.txt"
        file.write_text("the cat\nsat\n", encoding="utf-8")
        assert texts(file) == ["the cat\nsat\n"]

    def test_a_byte_order_mark_is_not_text(self, tmp_path: Path) -> None:
        file = tmp_path / "a.txt"
        file.write_bytes(b"\xef\xbb\xbfthe cat")
        assert texts(file) == ["the cat"]

    def test_a_folder_in_order_and_only_text(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "b.txt").write_text("second")
        (tmp_path / "a.md").write_text("first")
        (tmp_path / "sub" / "c.jsonl").write_text('{"text": "third"}\n\n{"text": "fourth"}')
        (tmp_path / "picture.png").write_bytes(b"\x00\x01")
        assert texts(tmp_path) == ["first", "second", "third", "fourth"]

    def test_long_files_come_in_pieces_cut_at_line_ends(self, tmp_path: Path) -> None:
        file = tmp_path / "long.txt"
        text = "".join(f"line {i} äöü\n" for i in range(150_000))
        file.write_text(text, encoding="utf-8")
        pieces = list(read_texts([str(file)]))
        assert len(pieces) > 2
        assert "".join(piece.text for piece in pieces) == text
        assert all(piece.text.endswith("\n") for piece in pieces)
        assert [piece.begins for piece in pieces] == [True] + [False] * (len(pieces) - 1)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(CorpusError, match=r"nowhere\.txt does not exist"):
            texts(tmp_path / "nowhere.txt")

    def test_folder_without_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.bin").write_bytes(b"x")
        with pytest.raises(CorpusError, match="holds no text files"):
            texts(tmp_path)

    @pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf"])
    def test_empty(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "void.txt"
        file.write_bytes(content)
        with pytest.raises(CorpusError, match=r"void\.txt is empty"):
            texts(file)

    @pytest.mark.parametrize("before", [0, 10, (1 << 20) + 7])
    def test_binary(self, tmp_path: Path, before: int) -> None:
        file = tmp_path / "data.txt"
        file.write_bytes(b"a" * before + b"\x00rest")
        with pytest.raises(CorpusError, match=rf"data\.txt.*offset {before}\b"):
            texts(file)

    @pytest.mark.parametrize("before", [0, 10, (1 << 20) - 1, (1 << 20) + 7])
    def test_not_utf8(self, tmp_path: Path, before: int) -> None:
        file = tmp_path / "latin.txt"
        file.write_bytes(b"a" * before + "é".encode("latin-1") + b" b")
        with pytest.raises(CorpusError, match=rf"latin\.txt.*byte {before}\b"):
            texts(file)

    def test_a_character_cut_by_the_end(self, tmp_path: Path) -> None:
        file = tmp_path / "cut.txt"
        file.write_bytes(b"abc\xc3")
        with pytest.raises(CorpusError, match=r"cut\.txt.*byte 3\b"):
            texts(file)

    @pytest.mark.parametrize(
        ("line", "message"),
        [("{not json", "not JSON"), ('{"body": "x"}', 'no "text"'), ("[]", 'no "text"')],
    )
    def test_bad_json_lines(self, tmp_path: Path, line: str, message: str) -> None:
        file = tmp_path / "a.jsonl"
        file.write_text(json.dumps({"text": "fine"}) + "\n" + line + "\n")
        with pytest.raises(CorpusError, match=rf"a\.jsonl, line 2: {message}"):
            texts(file)

    def test_no_sources(self) -> None:
        with pytest.raises(CorpusError, match="No text"):
            texts()

    def test_samples_need_a_model(self) -> None:
        with pytest.raises(CorpusError, match="no model"):
            texts("samples:3")


class TestHub:
    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(CorpusError, match="datasets package"):
            texts("hub:someone/something")

    @staticmethod
    def _package(monkeypatch: pytest.MonkeyPatch, rows: Any) -> list[tuple[Any, ...]]:
        asked: list[tuple[Any, ...]] = []

        def load_dataset(name: str, split: str, streaming: bool, token: Any) -> Any:
            asked.append((name, split, streaming))
            if isinstance(rows, Exception):
                raise rows
            return rows

        module = types.ModuleType("datasets")
        module.load_dataset = load_dataset  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "datasets", module)
        return asked

    def test_streams_the_split(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = self._package(monkeypatch, [{"text": "one"}, {"text": "two"}])
        assert texts("hub:someone/something:validation") == ["one", "two"]
        assert asked == [("someone/something", "validation", True)]

    def test_no_text_column(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._package(monkeypatch, [{"body": "x", "title": "y"}])
        with pytest.raises(CorpusError, match="columns are body, title"):
            texts("hub:someone/something")

    def test_not_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._package(monkeypatch, FileNotFoundError("no such data set"))
        with pytest.raises(CorpusError, match=r"hub:someone/something.*no such data set"):
            texts("hub:someone/something")


class TestRows:
    def test_documents_follow_each_other_parted_by_the_start_token(
        self, loaded: LoadedModel, tmp_path: Path
    ) -> None:
        (tmp_path / "a.txt").write_text("the cat sat")
        (tmp_path / "b.txt").write_text("a dog ran on")
        corpus = build_corpus(loaded, [str(tmp_path)], seq_len=5)
        start = loaded.start_token_id
        one, two = (
            loaded.tokenizer(t, add_special_tokens=False)["input_ids"]
            for t in ("the cat sat", "a dog ran on")
        )
        assert corpus.tokens.tolist() == [[start, *one, start], [start, *two]]
        assert corpus.lengths.tolist() == [5, 5]
        assert corpus.kept().tolist() == [
            [False, True, True, True, False],
            [False, True, True, True, True],
        ]
        assert corpus.n_kept == 7

    def test_the_last_row_is_filled_and_the_filling_left_out(
        self, loaded: LoadedModel, tmp_path: Path
    ) -> None:
        (tmp_path / "a.txt").write_text("the cat sat on the mat")
        corpus = build_corpus(loaded, [str(tmp_path)], seq_len=5)
        assert corpus.tokens.shape == (2, 5)
        assert corpus.lengths.tolist() == [5, 3]
        assert corpus.kept()[1].tolist() == [False, True, True, False, False]

    def test_the_hash_is_of_what_is_trained_on(self, loaded: LoadedModel, tmp_path: Path) -> None:
        file = tmp_path / "a.txt"
        file.write_text("the cat sat on the mat")
        first = build_corpus(loaded, [str(file)], seq_len=5)
        assert build_corpus(loaded, [str(file)], seq_len=5).text_hash == first.text_hash
        assert build_corpus(loaded, [str(file)], seq_len=4).text_hash != first.text_hash
        file.write_text("the cat sat on the tree")
        assert build_corpus(loaded, [str(file)], seq_len=5).text_hash != first.text_hash

    def test_max_tokens(self, loaded: LoadedModel, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("the cat sat on the mat and the dog ran")
        corpus = build_corpus(loaded, [str(tmp_path)], seq_len=4, max_tokens=6)
        assert corpus.n_kept == 6

    @pytest.mark.parametrize("seq_len", [1, 65])
    def test_rows_that_do_not_fit_the_model(
        self, loaded: LoadedModel, tmp_path: Path, seq_len: int
    ) -> None:
        (tmp_path / "a.txt").write_text("the cat")
        with pytest.raises(CorpusError, match="2 to 64"):
            build_corpus(loaded, [str(tmp_path)], seq_len=seq_len)

    def test_cancel(self, loaded: LoadedModel, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("the cat")
        ctx = WorkContext()
        ctx.cancel()
        with pytest.raises(Cancelled):
            build_corpus(loaded, [str(tmp_path)], seq_len=4, ctx=ctx)


class TestSamples:
    def test_the_model_writes_its_own_text(self, loaded: LoadedModel) -> None:
        one = build_corpus(loaded, ["samples:5"], seq_len=16, seed=3)
        two = build_corpus(loaded, ["samples:5"], seq_len=16, seed=3)
        other = build_corpus(loaded, ["samples:5"], seq_len=16, seed=4)
        assert one.n_kept > 20
        assert one.text_hash == two.text_hash != other.text_hash

    @pytest.mark.parametrize("count", ["0", "-1", "many", "1.5", "99999999"])
    def test_not_a_number(self, loaded: LoadedModel, count: str) -> None:
        with pytest.raises(CorpusError, match="not a number of samples"):
            build_corpus(loaded, [f"samples:{count}"], seq_len=16)


def numbered(n: int, length: int = 10) -> TokenCorpus:
    tokens = np.arange(1, n * length + 1, dtype=np.int32).reshape(n, length)
    return TokenCorpus.of(tokens, np.full(n, length, dtype=np.int32), None)


class TestSplit:
    def test_disjoint_and_complete(self) -> None:
        corpus = numbered(400)
        train, held = split_corpus(corpus, 300, seed=1)
        assert held.n_kept >= 300
        rows = {tuple(row) for row in train.tokens.tolist()}
        held_rows = {tuple(row) for row in held.tokens.tolist()}
        assert not rows & held_rows
        assert len(rows) + len(held_rows) == 400

    def test_the_seed_chooses(self) -> None:
        corpus = numbered(400)
        hashes = {split_corpus(corpus, 300, seed=s)[1].text_hash for s in (1, 1, 2)}
        assert len(hashes) == 2

    def test_too_little(self) -> None:
        with pytest.raises(CorpusError, match="too short"):
            split_corpus(numbered(10), 60)


def test_offline_no_hub_data_set_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENTION_STUDIO_OFFLINE", "true")
    with pytest.raises(CorpusError, match="offline"):
        list(read_texts(["hub:someone/texts"]))


@pytest.mark.parametrize(
    "line", ["the cat sat on the mat.\n", "x" * 60 + "\n", "a\n\n\n", "the cat "]
)
def test_no_more_is_tokenised_than_is_wanted(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """And what comes out is the beginning of the whole, however long its words and lines are."""
    path = tmp_path / "long.txt"
    path.write_text(line * 4000)
    whole = build_corpus(loaded, [str(path)], 16)
    seen: list[int] = []
    text_ids = loaded.text_ids

    def counted(text: str) -> list[int]:
        seen.append(len(text))
        return text_ids(text)

    monkeypatch.setattr(loaded, "text_ids", counted)
    some = build_corpus(loaded, [str(path)], 16, max_tokens=150)
    full = some.lengths == 16
    assert int(full.sum()) == 10
    assert np.array_equal(some.tokens[full], whole.tokens[: int(full.sum())])
    if line.startswith("the cat sat"):
        assert sum(seen) < 1500
