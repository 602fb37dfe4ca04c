"""The demo's tokenizer: one token for each word, sign and pair of digits.

The world has few words, so that tokens are what one reads in a graph. A space belongs to the token
after it and is written ``▁``, as SentencePiece vocabularies do.
"""

from __future__ import annotations

from typing import Any

from attention_studio.demo import words
from attention_studio.demo.text import TASKS, DemoText

START = "<|endoftext|>"
UNKNOWN = "<unk>"
_SPACE = "▁"
_SAMPLES = 400  # enough to see every word that only wordings bring


def vocabulary(text: DemoText) -> list[str]:
    """All tokens, in the order of their ids: start, unknown, then the pieces of the world."""
    pieces = {f" {number}" for number in range(100)} | {f"{number:02d}" for number in range(100)}
    for listed in (
        words.PEOPLE, words.SURNAMES, words.PLACES, words.GIFTS, words.GIVE_VERBS, words.THINGS,
        words.SUBJECTS, words.ATTRACTORS, words.PLURALS.values(), words.LINKS, words.AGENTS,
        words.ACTIONS, words.SINGULAR_VERBS, words.PLURAL_VERBS, words.AFTER_BE, words.AFTER_HAVE,
        words.COLOURS, words.SIZES, words.LOSE_VERBS, words.MOODS, words.WEARABLES, words.EVENTS,
        words.COUNTED, words.SEQUENCE_WORDS,
    ):  # fmt: skip
        pieces |= {f" {word}" for word in listed}
    for region in text.world.regions:
        named = (region.name, *region.facts, *region.facts.values(), *region.cities)
        pieces |= {f" {word}" for word in named}
    for task in TASKS:
        for held_out in (False, True):
            for sample in text.samples(task, _SAMPLES, held_out):
                pieces.update(sample.pieces)
    return [START, UNKNOWN, *(piece.replace(" ", _SPACE) for piece in sorted(pieces))]


def build_tokenizer(text: DemoText) -> Any:
    """The ``PreTrainedTokenizerFast`` of a demo text."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    ids = {piece: index for index, piece in enumerate(vocabulary(text))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s+"), _SPACE),
            normalizers.Replace(Regex(rf"^(?!{_SPACE})"), _SPACE),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(rf"{_SPACE}?[A-Za-z]+|{_SPACE}?[0-9]{{1,2}}|{_SPACE}?[^{_SPACE}A-Za-z0-9]"),
        "isolated",
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=START, unk_token=UNKNOWN, pad_token=START
    )


def piece_ids(tokenizer: Any) -> dict[str, int]:
    """The id of each piece, as samples write it, and of the start token."""
    return {token.replace(_SPACE, " "): index for token, index in tokenizer.get_vocab().items()}
