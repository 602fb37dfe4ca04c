"""What interventions did, as plain records: no torch here, so that the window can use it freely."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.intervention_specs import Freeze, Intervention, InterventionError
from attention_studio.core.sites import Site


@dataclass(frozen=True)
class FeatureEffects:
    """Features before and after, as columns of length n.

    Attributes:
        site: int64, ``Site.number``; position, index (of the latent): int64.
        pre_before, pre_after: float32, what is read: the pre-activation.
        activation_before, activation_after: float32, what is written: after activation function
            and edits. With everything frozen the linear model's, which no threshold cuts off.
    """

    site: NDArray[np.int64]
    position: NDArray[np.int64]
    index: NDArray[np.int64]
    pre_before: NDArray[np.float32]
    pre_after: NDArray[np.float32]
    activation_before: NDArray[np.float32]
    activation_after: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.site)

    @property
    def change(self) -> NDArray[np.float32]:
        """[n] by how much the activations moved."""
        moved: NDArray[np.float32] = self.activation_after - self.activation_before
        return moved

    def strongest(self, n: int) -> NDArray[np.int64]:
        """The rows whose activation moved most, at most ``n``, the most first."""
        order = np.argsort(-np.abs(self.change), kind="stable")[:n]
        moved: NDArray[np.int64] = order[self.change[order] != 0]
        return moved

    def rows(self, chosen: Iterable[int]) -> list[dict[str, Any]]:
        """Some rows, for JSON and tables."""
        return [
            {
                "feature": str(FeatureName(site, int(self.position[i]), int(self.index[i]))),
                "layer": site.layer,
                "kind": site.kind,
                "position": int(self.position[i]),
                "index": int(self.index[i]),
                "pre_before": float(self.pre_before[i]),
                "pre_after": float(self.pre_after[i]),
                "activation_before": float(self.activation_before[i]),
                "activation_after": float(self.activation_after[i]),
            }
            for i, site in ((i, Site.of_number(int(self.site[i]))) for i in chosen)
        ]


@dataclass(frozen=True)
class TokenEffect:
    """One token of the vocabulary as the next one: its logit and probability before and after."""

    token_id: int
    token: str
    logit_before: float
    logit_after: float
    probability_before: float
    probability_after: float


@dataclass(frozen=True)
class Outcome:
    """What one intervention did on its prompt.

    Attributes:
        intervention, freeze: what was done, and under which freezes.
        features: all features that are active on the untouched prompt, in the order of
            ``ActiveFeatures`` and so of a graph's feature nodes. Those that the change cannot
            reach do not move.
        newly_active: latents that are active only now, without the edited ones, the strongest
            first; at most as many as were asked for. None where everything is frozen.
        edited: the latents that were changed, at the prompt's positions.
        tokens: the likeliest next tokens before and after, and the chosen ones, by probability
            after, falling.
        divergence: Kullback-Leibler divergence of the next token's distribution after from the
            one before, in nats.
    """

    intervention: Intervention
    freeze: Freeze
    features: FeatureEffects
    newly_active: FeatureEffects
    edited: FeatureEffects
    tokens: tuple[TokenEffect, ...]
    divergence: float

    def token(self, token_id: int) -> TokenEffect:
        """What became of one token.

        Raises:
            InterventionError: it was neither likely nor chosen.
        """
        for effect in self.tokens:
            if effect.token_id == token_id:
                return effect
        raise InterventionError(
            f"Token {token_id} was not measured", "", "choose it before the intervention is run"
        )

    def logit_difference(self, token_id: int, other_id: int) -> tuple[float, float]:
        """The first token's logit less the second's, before and after."""
        one, two = self.token(token_id), self.token(other_id)
        return one.logit_before - two.logit_before, one.logit_after - two.logit_after

    @property
    def top_before(self) -> TokenEffect:
        """The likeliest next token before."""
        return max(self.tokens, key=lambda effect: effect.logit_before)

    @property
    def top_after(self) -> TokenEffect:
        """The likeliest next token after."""
        return max(self.tokens, key=lambda effect: effect.logit_after)
