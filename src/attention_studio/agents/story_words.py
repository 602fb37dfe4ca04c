"""The words of stories: how tokens and figures are written, and what of a text code can check.

A checked text says which way things go (words such as "raises"), quotes tokens and names, and gives
figures. All of these are looked up in what the sentence rests on. Words that compare or judge in a
way that nobody measured are refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Optional

from attention_studio.agents.circuit_story import MAX_NAME, MAX_TEXT, Direction
from attention_studio.agents.firing_rules import printable

_MAX_TOKEN = 40
_UP = re.compile(
    r"\b(?:rais\w+|increas\w+|boost\w*|promot\w+|strengthen\w*|rises?|rising|rose|grow\w*|grew|"
    r"more likely|likelier|help\w*|support\w*|amplif\w+|favou?r\w*|encourag\w+|up)\b",
    re.IGNORECASE,
)
_DOWN = re.compile(
    r"\b(?:lower\w*|decreas\w+|reduc\w+|suppress\w*|weaken\w*|falls?|fell|falling|drop\w*|"
    r"declin\w+|inhibit\w*|hinder\w*|less likely|sinks?|block\w*|prevent\w*|discourag\w+|down)\b",
    re.IGNORECASE,
)
_REMOVED = re.compile(
    r"\b(?:without|tak\w+ (?:\S+ )?out|taken away|remov\w+|ablat\w+|silenc\w+|switch\w* off|"
    r"knock\w* out|turn\w* off|muted|absence)\b",
    re.IGNORECASE,
)
_NOT = re.compile(r"\b(?:not|no|never|neither|nor|cannot|hardly|fails?)\b|n.t\b", re.IGNORECASE)
_UNMEASURED = re.compile(
    r"\b(?:twice|doubl\w+|tripl\w+|half|halv\w+|quarter|tenfold|always|every|completely|entirely|"
    r"totally|prov\w+|certain\w*|must|most|least|best|only|sole\w*|main\w*)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[.;:!?]\s|, | but | while | whereas | and ")
_QUOTE = re.compile(r"“([^”]*)”|\"([^\"]*)\"")
_NODE = re.compile(r"\b(?:[LA]\d+/P\d+/(?:F\d+|error)|P\d+/(?:token|logit/[\d-]+)|[LA]\d+/F\d+)\b")
_KEY = re.compile(r"\b[SR]\d+\b")
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?")
_CAPITAL = re.compile(r"\b[A-Z][^\W\d_]+")
_WORD = re.compile(r"[^\W_]+")


def shown(token: str) -> str:
    """A token as stories write it: one line, without the spaces around it and without quotes."""
    text = printable(token.strip() or token)
    for sign in '“”"':
        text = text.replace(sign, "'")
    return text if len(text) <= _MAX_TOKEN else text[: _MAX_TOKEN - 1] + "…"


def quote(token: str) -> str:
    """A token in quotes."""
    return f"“{shown(token)}”"


def listed(words: Iterable[str]) -> str:
    """Tokens in quotes, one after another."""
    return ", ".join(quote(word) for word in words)


def plain_name(name: str) -> str:
    """A name as stories write it: one short line of plain text."""
    text = " ".join(shown(" ".join(name.split())).split())
    return text[:MAX_NAME]


def keys_in(text: str) -> set[str]:
    """Keys of supernodes and runs that a text mentions outside quotes."""
    return set(_KEY.findall(_QUOTE.sub(" ", text)))


def mentions(text: str, name: str) -> bool:
    """Whether a text mentions a key, a node, or (in quotes or not) a token or name."""
    if _KEY.fullmatch(name):
        return name in keys_in(text)
    words = shown(name)
    return re.search(rf"(?<![^\W_]){re.escape(words)}(?![^\W_])", text) is not None


def directions(text: str) -> Optional[set[Direction]]:
    """Which ways a text says that its subject moves things; None: it denies something, so code
    cannot tell. What falls when something is taken out is raised by it."""
    said: set[Direction] = set()
    bare = _QUOTE.sub(" “” ", text)
    for sentence in re.split(r"(?<=[.!?])\s+", bare):
        removed = spoke = False
        for part in _CLAUSE.split(sentence):
            up, down = bool(_UP.search(part)), bool(_DOWN.search(part))
            takes = bool(_REMOVED.search(part))
            if (up or down) and _NOT.search(part):
                return None
            if takes and spoke and not (up or down):
                return None  # "it rises, without S1": what of it is meant?
            removed = removed or takes
            if up:
                said.add("lowers" if removed else "raises")
            if down:
                said.add("raises" if removed else "lowers")
            if up or down:
                removed, spoke = False, True
    return said


def text_problem(
    text: str, quotes: Collection[str], names: Collection[str], figures: Collection[float]
) -> Optional[str]:
    """What is wrong with a text, whatever it claims; None: nothing.

    Args:
        quotes: tokens and names that it may quote.
        names: nodes and keys that it may mention.
        figures: numbers that were measured or counted.
    """
    if not text.strip() or len(text) > MAX_TEXT or printable(text) != text:
        return f"it is empty, not one line, or longer than {MAX_TEXT} characters"
    allowed = {shown(word) for word in quotes}
    for match in _QUOTE.finditer(text):
        piece = match.group(1) if match.group(1) is not None else match.group(2)
        if shown(piece) not in allowed:
            return f"it quotes “{piece}”, which is not in what it rests on"
    bare = _QUOTE.sub(" ", text)
    for name in (*_NODE.findall(bare), *_KEY.findall(bare)):
        if name not in names:
            return f"it mentions {name}, which it does not rest on"
    bare = _KEY.sub(" ", _NODE.sub(" ", bare))
    judged = _UNMEASURED.search(bare)
    if judged is not None:
        return f"nobody measured “{judged.group()}”"
    for number in _NUMBER.findall(bare):
        value = float(number.replace(",", ""))
        digits = len(number.partition(".")[2])
        if not any(abs(abs(value) - abs(one)) <= 0.501 * 10.0**-digits for one in figures):
            return f"nobody measured {number}"
    own = {word.casefold() for one in allowed for word in _WORD.findall(one)}
    starts = {0} | {match.end() for match in re.finditer(r"[.:!?]\s+", bare)}
    for match in _CAPITAL.finditer(bare):
        word = match.group()
        first = not bare[: match.start()].strip() or match.start() in starts
        if word.casefold() not in own and not first:
            return f"it names {word}, which is not in what it rests on"
    return None
