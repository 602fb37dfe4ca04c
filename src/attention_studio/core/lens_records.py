"""What the residual stream would predict, and what came of patching it: records without torch.

A cell of the table is a depth and a position: depth 0 is the embedding, depth k the stream after k
layers, and the last depth, the number of layers, is what the model itself reads its prediction
from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.intervention_outcomes import TokenEffect
from attention_studio.utils.errors import StudioError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

MOST_PATCHES = 1000
"""More in one record are nobody's doing by hand."""


class PatchError(StudioError):
    """A patch was asked for that makes no sense."""


class Cell(NamedTuple):
    """One place of the residual stream."""

    depth: int
    position: int


def depth_name(depth: int) -> str:
    """For people: ``embedding``, then ``after 0`` for the stream behind layer 0."""
    return "embedding" if depth == 0 else f"after {depth - 1}"


@dataclass(frozen=True)
class LensTable:
    """The logit lens over all cells of a prompt of T tokens, with R = layers + 1 depths.

    Attributes:
        model: its name; weights_hash: of its weights.
        prompt: as typed.
        token_ids, tokens: [T].
        top_ids: [R, T, k] the likeliest next tokens, the likeliest first; top_probabilities alike.
        words: text of every id in ``top_ids`` and ``end_ids``.
        end_ids: [T] what the model itself finds likeliest.
        end_probability: [R, T] what a cell gives to that.
        end_rank: [R, T] int64, how many tokens a cell finds likelier than that.
        entropy: [R, T] of a cell's distribution, in nats.
        divergence: [R, T] Kullback-Leibler divergence KL(end ‖ cell) between the model's own
            distribution at that position and the cell's, in nats: what is lost by reading there.
    """

    model: str
    weights_hash: str
    prompt: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    top_ids: Ints
    top_probabilities: Floats
    words: Mapping[int, str]
    end_ids: Ints
    end_probability: Floats
    end_rank: Ints
    entropy: Floats
    divergence: Floats

    @property
    def n_depths(self) -> int:
        """Layers and one more."""
        return int(self.top_ids.shape[0])

    @property
    def n_tokens(self) -> int:
        """Positions."""
        return int(self.top_ids.shape[1])

    def has(self, cell: Cell) -> bool:
        """Whether there is such a cell."""
        return 0 <= cell.depth < self.n_depths and 0 <= cell.position < self.n_tokens

    def word(self, token_id: int) -> str:
        """The text of a token of the table."""
        return self.words[token_id]

    def top_word(self, cell: Cell) -> str:
        """What a cell finds likeliest."""
        return self.words[int(self.top_ids[cell.depth, cell.position, 0])]

    def settled(self, position: int) -> int:
        """From which depth on the cells of a position all find the model's own word likeliest."""
        other = np.flatnonzero(self.end_rank[:, position] != 0)
        return int(other[-1]) + 1 if len(other) else 0


@dataclass(frozen=True)
class Patch:
    """The stream at ``target`` becomes what it is at ``source`` when ``source_prompt`` is read
    without any change."""

    source_prompt: str
    source: Cell
    target: Cell

    def data(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "source_prompt": self.source_prompt,
            "source": list(self.source),
            "target": list(self.target),
        }


@dataclass(frozen=True)
class PatchSet:
    """Patches of one prompt that act together; of two on one cell the later one holds."""

    weights_hash: str = ""
    prompt: str = ""
    patches: tuple[Patch, ...] = ()

    def with_patch(self, patch: Patch) -> PatchSet:
        """These and one more, which takes the place of an earlier one on the same cell."""
        rest = tuple(other for other in self.patches if other.target != patch.target)
        return PatchSet(self.weights_hash, self.prompt, (*rest, patch))

    def fits(self, table: LensTable) -> bool:
        """Whether they are about the prompt of a table, read by the same model."""
        return (self.weights_hash, self.prompt) == (table.weights_hash, table.prompt)

    def data(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "weights_hash": self.weights_hash,
            "prompt": self.prompt,
            "patches": [patch.data() for patch in self.patches],
        }

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> PatchSet:
        """The patches that ``data`` describes.

        Raises:
            PatchError: it does not describe any.
        """
        try:
            listed = data["patches"]
            if not isinstance(listed, (list, tuple)) or len(listed) > MOST_PATCHES:
                raise ValueError(f"a list of at most {MOST_PATCHES} patches is expected")
            patches = tuple(
                Patch(_text(one["source_prompt"]), _cell(one["source"]), _cell(one["target"]))
                for one in listed
            )
            return cls(_text(data["weights_hash"]), _text(data["prompt"]), patches)
        except (KeyError, TypeError, ValueError) as error:
            raise PatchError(
                "This is no record of patches", f"{type(error).__name__}: {error}", ""
            ) from error


@dataclass(frozen=True)
class PatchOutcome:
    """What came of patches.

    Attributes:
        patches: which.
        after: the table of the patched pass.
        change: [R, T] Kullback-Leibler divergence of the patched cell's distribution from the
            unpatched one's, KL(patched ‖ unpatched), in nats, as interventions are measured.
        tokens: the likeliest next tokens after the last position, before and after, by probability
            after, falling.
    """

    patches: PatchSet
    after: LensTable
    change: Floats
    tokens: tuple[TokenEffect, ...]

    @property
    def divergence(self) -> float:
        """How far the prediction behind the last position moved, in nats."""
        return float(self.change[-1, -1])

    def data(self) -> dict[str, Any]:
        """What is kept of it, as JSON values."""
        return {
            **self.patches.data(),
            "model": self.after.model,
            "divergence": self.divergence,
            "tokens": [
                {
                    "token_id": token.token_id,
                    "token": token.token,
                    "probability_before": token.probability_before,
                    "probability_after": token.probability_after,
                }
                for token in self.tokens
            ],
        }


def describe_patch(patch: Patch, prompt: str, tokens: Sequence[str]) -> str:
    """One line for people: ``after 3 at 2 “ Dallas” → after 3 at 5 “ is”``.

    ``tokens`` are the prompt's; a source in another prompt is named by its position alone.
    """

    def place(cell: Cell, known: bool) -> str:
        inside = known and cell.position < len(tokens)
        word = f" “{tokens[cell.position].strip()}”" if inside else ""
        return f"{depth_name(cell.depth)} at {cell.position}{word}"

    same = patch.source_prompt == prompt
    source = place(patch.source, same)
    if not same:
        shown = patch.source_prompt.strip()
        cut = shown[:40] + ("…" if len(shown) > 40 else "")
        source += f" of {json.dumps(cut, ensure_ascii=False)}"
    return f"{source} → {place(patch.target, True)}"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


def _cell(value: Any) -> Cell:
    depth, position = value
    if not all(isinstance(part, int) and 0 <= part < 1 << 31 for part in (depth, position)):
        raise ValueError("a cell is two whole numbers")
    return Cell(depth, position)
