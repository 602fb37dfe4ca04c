"""Which features fire on a prompt, how strongly, and what they say."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_studio.core.model_adapter import ModelAdapter
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.sites import Site, SiteKind
from attention_studio.utils.errors import StudioError
from attention_studio.utils.progress import WorkContext

N_LOGIT_TOKENS = 8
"""How many promoted and suppressed tokens a record carries."""


class FeatureError(StudioError):
    """Features were asked for in a way that makes no sense."""


@dataclass(frozen=True)
class TokenEffects:
    """For n directions: ``tokens`` and ``effects`` [n, k], the strongest first."""

    tokens: Tensor
    effects: Tensor


@dataclass(frozen=True)
class FeatureRecord:
    """One active feature at one position, of the dictionary of a layer's MLP or attention.

    ``promoted`` and ``suppressed`` hold (token, effect on its logit per unit of activation),
    strongest first: the decoder read by the unembedding through the final norm's gain, the
    direct path alone ("direct logit attribution"), the mean over the vocabulary taken out. The
    decoder of a feature that writes to several layers is the sum of what it writes.
    """

    layer: int
    position: int
    index: int
    activation: float
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    kind: SiteKind = "mlp"

    @property
    def site(self) -> Site:
        """The module that its dictionary stands in for."""
        return Site(self.layer, self.kind)


@dataclass(frozen=True)
class FeatureReport:
    """The features of one prompt.

    Attributes:
        prompt: the text.
        tokens: its tokens, start token included [T]; ``token_ids`` their ids.
        overall: the strongest features of the whole prompt, strongest first.
        by_position: the strongest features of each position [T]; none at the first.
        n_active: how many features were active, each position counted.
        seconds: how long it took.
        active: [n_active, 3] ``Site.number``, position, latent of every active feature.
        active_values: [n_active] their activations.
    """

    prompt: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    overall: tuple[FeatureRecord, ...]
    by_position: tuple[tuple[FeatureRecord, ...], ...]
    n_active: int
    seconds: float
    active: NDArray[np.int64]
    active_values: NDArray[np.float32]

    def activations(self, site: Site, index: int) -> NDArray[np.float32]:
        """Activation of one feature at every position [T]."""
        values = np.zeros(len(self.tokens), dtype=np.float32)
        mine = (self.active[:, 0] == site.number) & (self.active[:, 2] == index)
        values[self.active[mine, 1]] = self.active_values[mine]
        return values


@torch.no_grad()
def logit_effects(adapter: ModelAdapter, decoders: Tensor) -> Tensor:
    """Direct effect [n, V] of decoder rows [n, d] on the logits, vocabulary mean taken out.

    The final norm's denominator is left out (it depends on the prompt and is the same for every
    token), so effects compare tokens, not prompts.
    """
    weight, _ = adapter.unembedding()
    norm = adapter.final_norm()
    read = norm.push(decoders, torch.ones(len(decoders), device=decoders.device))
    effects = read @ weight.T
    return effects - effects.mean(-1, keepdim=True)


def promoted_tokens(
    adapter: ModelAdapter, decoders: Tensor, k: int, suppressed: bool = False
) -> TokenEffects:
    """The ``k`` tokens that each decoder row [n, d] promotes (or suppresses) most."""
    return _token_effects(adapter, decoders, k, (not suppressed,))[0]


def promoted_and_suppressed(
    adapter: ModelAdapter, decoders: Tensor, k: int
) -> tuple[TokenEffects, TokenEffects]:
    """The ``k`` tokens that each decoder row [n, d] promotes most, and those that it suppresses
    most; all effects are worked out once for both."""
    promoted, suppressed = _token_effects(adapter, decoders, k, (True, False))
    return promoted, suppressed


def _token_effects(
    adapter: ModelAdapter, decoders: Tensor, k: int, largest: tuple[bool, ...]
) -> list[TokenEffects]:
    found: list[list[TokenEffects]] = [[] for _ in largest]
    for rows in torch.split(decoders, 256):
        effects = logit_effects(adapter, rows)
        for side, up in zip(found, largest, strict=True):
            top = effects.topk(k, largest=up)
            side.append(TokenEffects(top.indices, top.values))
    return [
        TokenEffects(torch.cat([p.tokens for p in side]), torch.cat([p.effects for p in side]))
        for side in found
    ]


class FeatureExtractor:
    """Finds the features of prompts in a complete replacement model."""

    def __init__(self, replacement: CompleteReplacementModel) -> None:
        self.replacement = replacement

    def extract_features(
        self, prompt: str, top_k: int = 20, ctx: Optional[WorkContext] = None
    ) -> FeatureReport:
        """The ``top_k`` strongest features per position and overall.

        Activations of different layers have different scales; "strongest" is by activation times
        the norm of the decoder row, which is how much the feature writes.

        Raises:
            FeatureError: ``top_k`` is not positive.
            EmptyPromptError, PromptTooLongError: from the model's ``encode``.
        """
        if top_k < 1:
            raise FeatureError(
                f"{top_k} features per position cannot be listed",
                "the number must be positive",
                "ask for 1 or more",
            )
        ctx = ctx or WorkContext()
        started = time.perf_counter()
        loaded, adapter = self.replacement.loaded, self.replacement.adapter
        ids = loaded.encode(prompt)
        ctx.progress(0, None, "Running the model")
        features = self.replacement.localize(ids).features
        ctx.check()
        strength = features.activation * features.decoder.norm(dim=-1)
        order = torch.argsort(strength, descending=True, stable=True)
        by_position = [order[features.position[order] == p][:top_k] for p in range(len(ids))]
        wanted = torch.unique(torch.cat([order[:top_k], *by_position]))
        ctx.progress(0, None, f"Reading what {len(wanted)} features promote")
        records = self._records(wanted, features.decoder, adapter, ctx)

        def record(i: int) -> FeatureRecord:
            promoted, suppressed = records[i]
            site = Site.of_number(int(features.site[i]))
            return FeatureRecord(
                kind=site.kind,
                layer=site.layer,
                position=int(features.position[i]),
                index=int(features.index[i]),
                activation=float(features.activation[i]),
                promoted=promoted,
                suppressed=suppressed,
            )

        return FeatureReport(
            prompt=prompt,
            tokens=tuple(loaded.token_strings(ids)),
            token_ids=tuple(ids),
            overall=tuple(record(i) for i in order[:top_k].tolist()),
            by_position=tuple(tuple(record(i) for i in chosen.tolist()) for chosen in by_position),
            n_active=len(features),
            seconds=time.perf_counter() - started,
            active=torch.stack([features.site, features.position, features.index], 1).cpu().numpy(),
            active_values=features.activation.cpu().numpy(),
        )

    def _records(
        self, wanted: Tensor, decoder: Tensor, adapter: ModelAdapter, ctx: WorkContext
    ) -> dict[int, tuple[tuple[tuple[str, float], ...], tuple[tuple[str, float], ...]]]:
        """Promoted and suppressed tokens of the wanted features, by feature."""
        k = min(N_LOGIT_TOKENS, adapter.vocab_size)
        found = {}
        for chunk in torch.split(wanted, 256):
            ctx.check()
            columns = []
            for top in promoted_and_suppressed(adapter, decoder[chunk], k):
                text = self.replacement.loaded.token_strings(top.tokens.flatten().tolist())
                effects = top.effects.tolist()
                columns.append(
                    [
                        tuple(zip(text[i * k : (i + 1) * k], effects[i], strict=True))
                        for i in range(len(chunk))
                    ]
                )
            for i, feature in enumerate(chunk.tolist()):
                found[feature] = (columns[0][i], columns[1][i])
        return found
