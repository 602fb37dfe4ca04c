"""What a graph explains: next tokens, one token over another, or features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import torch
from torch import Tensor

from attention_studio.core.attribution_graph import contrast_index
from attention_studio.core.attribution_plan import Targets
from attention_studio.core.feature_names import FeatureName
from attention_studio.core.graph_settings import GraphError, GraphSettings
from attention_studio.core.replacement_model import LocalModel

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel


@dataclass(frozen=True)
class Outputs:
    """The outputs of a graph: k logit directions, and features.

    Attributes:
        targets: directions, and under ``features`` those features that are outputs.
        index: [k] token id, or both of a contrast (``contrast_index``).
        text: [k] words for each.
        probability: [k] of the token; 0 for a contrast.
        weight: [k + n_features] what each weighs in influence; sums to 1 but for salient tokens,
            which weigh their probability.
    """

    targets: Targets
    index: tuple[int, ...]
    text: tuple[str, ...]
    probability: Tensor
    weight: Tensor

    @property
    def logits(self) -> Targets:
        """The logit directions alone."""
        return self.targets.of_logits()


def find_outputs(local: LocalModel, loaded: LoadedModel, settings: GraphSettings) -> Outputs:
    """What the settings ask to have explained, each once.

    Raises:
        GraphError: a token is none of the model's, a token is contrasted with itself, a position is
            beyond the prompt, or a feature is not active on it.
    """
    length = len(local.ids)
    tokens = list(dict.fromkeys(token_id(loaded, token) for token in settings.tokens))
    pair = [token_id(loaded, token) for token in settings.contrast]
    if pair and pair[0] == pair[1]:
        raise GraphError(
            f"{settings.contrast[0]!r} and {settings.contrast[1]!r} are the same token",
            "nothing tells one from the other",
            "contrast two different ones",
        )
    salient = not (tokens or pair or settings.features)
    pieces: list[tuple[Tensor, Tensor]] = []
    positions: list[int] = []
    index: list[int] = []
    text: list[str] = []
    probability: list[float] = []
    weight: list[float] = []
    for position in dict.fromkeys(_position(p, length) for p in settings.positions):
        chances = local.record.logits[position].float().softmax(-1)
        chosen = _salient(chances, settings) if salient else tokens
        if chosen:
            pieces.append(local.logit_directions(chosen))
            positions += [position] * len(chosen)
            index += chosen
            text += loaded.token_strings(chosen)
            probability += chances[chosen].tolist()
            weight += chances[chosen].tolist() if salient else [1.0] * len(chosen)
        if pair:
            directions, bias = local.logit_directions(pair)
            pieces.append((directions[:1] - directions[1:], bias[:1] - bias[1:]))
            positions.append(position)
            index.append(contrast_index(*pair))
            first, second = (word.strip() or repr(word) for word in loaded.token_strings(pair))
            text.append(f"{first} over {second}")
            probability.append(0.0)
            weight.append(1.0)
    features = list(dict.fromkeys(_feature(local, name) for name in settings.features))
    weights = torch.tensor(weight + [1.0] * len(features))
    device = local.on.device
    none = local.on.new_zeros(0, local.adapter.d_model)
    return Outputs(
        targets=Targets(
            directions=torch.cat([none, *(piece[0] for piece in pieces)]),
            direction_bias=torch.cat([none[:, 0], *(piece[1] for piece in pieces)]),
            positions=torch.tensor(positions, dtype=torch.long, device=device),
            features=torch.tensor(features, dtype=torch.long, device=device),
        ),
        index=tuple(index),
        text=tuple(text),
        probability=torch.tensor(probability),
        weight=weights if salient else weights / weights.sum(),
    )


def token_id(loaded: LoadedModel, token: Union[str, int]) -> int:
    """The id of a token that is given as id or as text, with or without the space before it.

    Raises:
        GraphError: there is no such token, or the text is several.
    """
    if isinstance(token, int):
        size = loaded.adapter.vocab_size
        if not 0 <= token < size:
            raise GraphError(
                f"There is no token {token}", f"ids go from 0 to {size - 1}", "give another"
            )
        return token
    tried = [loaded.text_ids(text) for text in (token, f" {token}")] if token else []
    for ids in tried:
        if len(ids) == 1:
            return int(ids[0])
    parts = loaded.token_strings(tried[0]) if tried else []
    raise GraphError(
        f"{token!r} is not one token",
        f"the model reads it as {len(parts)}: {parts}" if parts else "it is empty",
        "give one token, with its space before it where it begins a word",
    )


def _salient(chances: Tensor, settings: GraphSettings) -> list[int]:
    """The fewest most probable next tokens that reach ``logit_mass``, at most ``max_logits``."""
    top = chances.topk(min(settings.max_logits, len(chances)))
    before = top.values.cumsum(0) - top.values
    chosen: list[int] = top.indices[before < settings.logit_mass].tolist()
    return chosen


def _position(position: int, length: int) -> int:
    if not -length <= position < length:
        raise GraphError(
            f"The prompt has no position {position}",
            f"it has {length} tokens, the start token included",
            f"give a number from 0 to {length - 1}, or a negative one to count from the end",
        )
    return position % length


def _feature(local: LocalModel, name: str) -> int:
    """The number of an active feature."""
    wanted = FeatureName.read(name)
    if wanted is None or not isinstance(wanted.position, int) or wanted.latent == "*":
        raise GraphError(
            f"{name!r} names no feature", "", "write L12/P5/F1043, or A12/P5/F7 for attention"
        )
    if wanted.site.layer < local.adapter.n_layers:
        here = local.features.of(wanted.site)
        found = torch.nonzero(
            (local.features.position[here] == wanted.position)
            & (local.features.index[here] == wanted.latent)
        )
        if len(found):
            return int(here.start) + int(found[0])
    raise GraphError(
        f"The feature {name} is not active on this prompt",
        f"{len(local.features):,} others are",
        "copy a name from the graph or from the features command",
    )
