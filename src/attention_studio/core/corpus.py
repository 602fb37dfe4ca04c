"""Training text: where it comes from, and how it becomes rows of tokens.

Sources are named by strings: a file, a folder (its ``*.txt``, ``*.md`` and ``*.jsonl``, sorted),
``hub:owner/name[:split]`` (needs the ``datasets`` package) or ``samples:N`` (N texts that the
model writes itself, for those who have none).
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.text_sampling import sample_texts
from attention_studio.utils.config import load_settings
from attention_studio.utils.errors import StudioError
from attention_studio.utils.outgoing import log_outgoing
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

Ints = NDArray[np.int32]

TEXT_SUFFIXES = (".txt", ".md", ".jsonl")
_PIECE_BYTES = 1 << 20
_CHARACTERS_PER_TOKEN = 6  # more than most text has
_UNSURE_TOKENS = 16
_STRETCH = 16  # neighbouring sequences that are held out together


class CorpusError(StudioError):
    """Text cannot be read, is not text, or is too little."""


class TextPiece(NamedTuple):
    """A stretch of a document; ``begins`` is True for the first of its document."""

    text: str
    begins: bool


@dataclass(frozen=True)
class TokenCorpus:
    """Rows of tokens, each of them one input to the model.

    Attributes:
        tokens: int32 ``[n_sequences, seq_len]``; a row starts with the start token where the model
            has one, and a short last row is filled up with it.
        lengths: int32 ``[n_sequences]``, tokens of each row before the filling.
        start_id: id of the start token, or None. Documents within a row are parted by it.
        text_hash: SHA-256 (hex) of all of the above: what was trained on, exactly.
    """

    tokens: Ints
    lengths: Ints
    start_id: Optional[int]
    text_hash: str

    @classmethod
    def of(cls, tokens: Ints, lengths: Ints, start_id: Optional[int]) -> TokenCorpus:
        """A corpus with its hash."""
        digest = hashlib.sha256(f"{tokens.shape} {start_id}".encode())
        digest.update(np.ascontiguousarray(tokens, dtype="<i4").tobytes())
        digest.update(np.ascontiguousarray(lengths, dtype="<i4").tobytes())
        return cls(tokens, lengths, start_id, digest.hexdigest())

    @property
    def n_sequences(self) -> int:
        """Rows."""
        return int(self.tokens.shape[0])

    @property
    def seq_len(self) -> int:
        """Tokens per row, the start token included."""
        return int(self.tokens.shape[1])

    def kept(self, rows: Optional[NDArray[np.int64]] = None) -> NDArray[np.bool_]:
        """Which positions dictionaries see, ``[rows, seq_len]``.

        Left out are position 0 and start tokens further on (attention sinks, whose activations
        are far larger than any other) and the filling.
        """
        tokens = self.tokens if rows is None else self.tokens[rows]
        lengths = self.lengths if rows is None else self.lengths[rows]
        keep: NDArray[np.bool_] = np.arange(self.seq_len)[None, :] < lengths[:, None]
        keep[:, 0] = False
        if self.start_id is not None:
            keep &= tokens != self.start_id
        return keep

    @property
    def n_kept(self) -> int:
        """Positions that dictionaries see."""
        return int(self.kept().sum())

    def take(self, rows: NDArray[np.int64]) -> TokenCorpus:
        """A corpus of some of the rows."""
        return TokenCorpus.of(self.tokens[rows], self.lengths[rows], self.start_id)


def read_texts(
    sources: Sequence[str],
    loaded: Optional[LoadedModel] = None,
    seed: int = 0,
    ctx: Optional[WorkContext] = None,
) -> Iterator[TextPiece]:
    """The documents of ``sources`` one after the other, in pieces of about a megabyte.

    A text file is a document, and so is each line of a ``.jsonl`` file. ``samples:N`` needs the
    ``loaded`` model and draws with ``seed``.

    Raises:
        CorpusError: names the file, and where in it the trouble is.
    """
    if not sources:
        raise CorpusError("No text was given", "", "Name a file, a folder or samples:N")
    for source in sources:
        scheme, _, rest = source.partition(":")
        if scheme == "hub" and rest:
            yield from _read_hub(rest)
        elif scheme == "samples" and rest:
            if loaded is None:
                raise CorpusError(f"{source}: no model is loaded to write samples")
            for text in sample_texts(loaded, _sample_count(source, rest), seed=seed, ctx=ctx):
                yield TextPiece(text, True)
        else:
            for path in _files_of(Path(source).expanduser()):
                yield from _read_jsonl(path) if path.suffix == ".jsonl" else _read_text(path)


def build_corpus(
    loaded: LoadedModel,
    sources: Sequence[str],
    seq_len: int = 128,
    max_tokens: Optional[int] = None,
    seed: int = 0,
    ctx: Optional[WorkContext] = None,
) -> TokenCorpus:
    """Read and tokenise text into rows of ``seq_len`` tokens.

    Documents follow each other without gaps, parted by the start token. Reading stops once
    ``max_tokens`` tokens are there.

    Raises:
        CorpusError: a source cannot be used, or there is no text in it.
        Cancelled: through ``ctx``.
    """
    if not 2 <= seq_len <= loaded.info.context_length:
        raise CorpusError(
            f"Sequences of {seq_len} tokens do not fit the model",
            f"it takes 2 to {loaded.info.context_length}",
            "Choose another sequence length",
        )
    start_id = loaded.start_token_id
    parts: list[NDArray[np.int64]] = []
    count = 0
    for piece in read_texts(sources, loaded, seed, ctx):
        if ctx is not None:
            ctx.check()
            ctx.progress(count, max_tokens, "Reading text")
        ids = _ids(loaded, piece.text, None if max_tokens is None else max_tokens - count)
        if piece.begins and start_id is not None and count:
            ids = [start_id, *ids]
        parts.append(np.asarray(ids, dtype=np.int64))
        count += len(ids)
        if max_tokens is not None and count >= max_tokens:
            break
    stream = np.concatenate(parts)[:max_tokens] if parts else np.zeros(0, dtype=np.int64)
    if not stream.size:
        raise CorpusError(
            f"There is no text in {', '.join(sources)}", "", "Choose files that hold text"
        )
    return _rows(stream, seq_len, start_id)


def _ids(loaded: LoadedModel, text: str, wanted: Optional[int]) -> list[int]:
    """Token ids of ``text``, or, where fewer are wanted than it has, at least so many of them.

    Cut at a line end, and some tokens short of it, for what follows may change the last ones.
    """
    if wanted is not None:
        cut = text.rfind("\n", 0, _CHARACTERS_PER_TOKEN * (wanted + _UNSURE_TOKENS)) + 1
        if 0 < cut < len(text):
            ids = loaded.text_ids(text[:cut])[:-_UNSURE_TOKENS]
            if len(ids) >= wanted:
                return ids
    return loaded.text_ids(text)


def split_corpus(
    corpus: TokenCorpus, heldout_tokens: int, seed: int = 0
) -> tuple[TokenCorpus, TokenCorpus]:
    """Part a corpus into training and held-out rows that share none.

    Stretches of neighbouring rows are held out together, chosen by ``seed``, so that few held-out
    rows have their neighbour in the training text.

    Raises:
        CorpusError: less than half of the text would be left to train on.
    """
    kept = corpus.kept().sum(1)
    # Short texts get short stretches, so that there is a choice.
    stretch = max(1, min(_STRETCH, corpus.n_sequences // 8))
    starts = np.arange(0, corpus.n_sequences, stretch)
    held = np.zeros(corpus.n_sequences, dtype=bool)
    total = 0
    for start in np.random.default_rng([seed, 1]).permutation(starts):
        if total >= heldout_tokens:
            break
        held[start : start + stretch] = True
        total += int(kept[start : start + stretch].sum())
    if total < heldout_tokens or 2 * total > kept.sum():
        raise CorpusError(
            f"The text is too short to hold {heldout_tokens:,} tokens out of it",
            f"it has {int(kept.sum()):,}",
            "Give more text, a held-out text of its own, or ask for fewer held-out tokens",
        )
    return corpus.take(np.flatnonzero(~held)), corpus.take(np.flatnonzero(held))


def _rows(stream: NDArray[np.int64], seq_len: int, start_id: Optional[int]) -> TokenCorpus:
    body = seq_len if start_id is None else seq_len - 1
    n = -(-stream.size // body)
    fill = 0 if start_id is None else start_id
    rows = np.full(n * body, fill, dtype=np.int32)
    rows[: stream.size] = stream
    lengths = np.full(n, seq_len, dtype=np.int32)
    lengths[-1] = seq_len - (n * body - stream.size)
    tokens = rows.reshape(n, body)
    if start_id is not None:
        tokens = np.concatenate([np.full((n, 1), start_id, dtype=np.int32), tokens], axis=1)
    return TokenCorpus.of(tokens, lengths, start_id)


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists():
        raise CorpusError(f"{path} does not exist", "", "Check the name of the file or folder")
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in TEXT_SUFFIXES)
    if not files:
        raise CorpusError(
            f"{path} holds no text files", f"it has no {', '.join(TEXT_SUFFIXES)} files"
        )
    return files


def _read_text(path: Path) -> Iterator[TextPiece]:
    begins, held = True, ""
    for text in _decoded(path):
        # Cut at the last line end, so that no word is torn apart.
        head, newline, tail = (held + text).rpartition("\n")
        if head + newline:
            yield TextPiece(head + newline, begins)
            begins = False
        held = tail
    if held:
        yield TextPiece(held, begins)


def _read_jsonl(path: Path) -> Iterator[TextPiece]:
    line_number, held = 0, ""
    for text in (*_decoded(path), "\n"):
        *lines, held = (held + text).split("\n")
        for line in lines:
            line_number += 1
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise CorpusError(f"{path}, line {line_number}: not JSON", str(error)) from error
            if not isinstance(value, dict) or not isinstance(value.get("text"), str):
                raise CorpusError(
                    f'{path}, line {line_number}: no "text"',
                    'each line must be an object with a string "text"',
                )
            yield TextPiece(value["text"], True)


def _decoded(path: Path) -> Iterator[str]:
    """The file's text in pieces; refuses what is empty, binary or not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, seen_text = 0, False
    try:
        with path.open("rb") as stream:
            while True:
                piece = stream.read(_PIECE_BYTES)
                if not offset and piece.startswith(codecs.BOM_UTF8):
                    piece, offset = piece[3:], 3
                nul = piece.find(b"\0")
                if nul >= 0:
                    raise CorpusError(
                        f"{path} is not a text file",
                        f"it holds a zero byte at offset {offset + nul}",
                        "Leave it out or convert it to UTF-8 text",
                    )
                # A character cut by the end of the last piece waits in the decoder.
                waiting = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(piece, final=not piece)
                except UnicodeDecodeError as error:
                    raise CorpusError(
                        f"{path} is not UTF-8 text",
                        f"byte {offset - waiting + error.start} cannot be decoded",
                        "Convert it to UTF-8",
                    ) from error
                offset += len(piece)
                seen_text = seen_text or bool(text.strip())
                if text:
                    yield text
                if not piece:
                    break
    except OSError as error:
        raise CorpusError(f"{path} cannot be read", error.strerror or str(error)) from error
    if not seen_text:
        raise CorpusError(f"{path} is empty", "", "Choose files that hold text")


def _read_hub(name: str) -> Iterator[TextPiece]:
    repository, _, split = name.partition(":")
    settings = load_settings()
    if settings.offline:
        raise CorpusError(
            f"hub:{name} is not asked for",
            "the studio is set to stay offline",
            "use files, or unset ATTENTION_STUDIO_OFFLINE",
        )
    try:
        import datasets  # an optional extra, heavy to import
    except ImportError as error:
        raise CorpusError(
            f"hub:{name} needs the datasets package",
            "it is not installed",
            "Run pip install 'attention-studio[datasets]'",
        ) from error
    try:
        log_outgoing(f"the datasets package reads {repository} from the hub")
        rows: Any = datasets.load_dataset(
            repository,
            split=split or "train",
            streaming=True,
            token=None if settings.hf_token is None else settings.hf_token.get_secret_value(),
        )
        for row in rows:
            if not isinstance(row.get("text"), str):
                raise CorpusError(
                    f"hub:{name} has no column of texts named text",
                    f"its columns are {', '.join(sorted(row))}",
                )
            yield TextPiece(row["text"], True)
    except (OSError, ValueError) as error:  # not found, no such split, no network
        raise CorpusError(
            f"hub:{name} cannot be read", str(error), "Check the name, the split and the network"
        ) from error


def _sample_count(source: str, count: str) -> int:
    if not count.isdecimal() or not 1 <= int(count) <= 1_000_000:
        raise CorpusError(f"{source}: {count!r} is not a number of samples", "", "Try samples:1000")
    return int(count)
