"""Change features of a model and see what happens, under the freezes that one chooses.

``Interventions`` is bound to one prompt. Cases (one intervention each) run as one batch beside an
untouched copy of the prompt, so that both sides of a comparison round alike. What each freeze
means is said at ``Freeze``; the operations at ``Action``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.intervention_edits import EditTable
from attention_studio.core.intervention_effects import (
    Effects,
    LatentRows,
    batch_size,
    measured,
    predicted,
)
from attention_studio.core.intervention_outcomes import FeatureEffects, Outcome, TokenEffect
from attention_studio.core.intervention_specs import (
    Freeze,
    Intervention,
    InterventionError,
)
from attention_studio.core.replacement_model import CompleteReplacementModel, LocalModel
from attention_studio.utils.progress import WorkContext

NEWLY_ACTIVE = 32
"""How many latents that fire only now are reported, if nothing else is said."""
_MAX_CHOSEN = 64


class Interventions:
    """Interventions on one prompt.

    Attributes:
        replacement: the model and its dictionaries.
        prompt: the text.
        local: the untouched prompt, frozen.
    """

    def __init__(
        self,
        replacement: CompleteReplacementModel,
        prompt: str,
        ctx: Optional[WorkContext] = None,
    ) -> None:
        """Run the untouched prompt.

        Raises:
            EmptyPromptError, PromptTooLongError: see ``LoadedModel.encode``.
        """
        (ctx or WorkContext()).progress(0, None, "Running the model")
        self.replacement = replacement
        self.prompt = prompt
        self.local = replacement.localize(replacement.loaded.encode(prompt))
        self._others: dict[str, LocalModel] = {prompt: self.local}

    def table(self, cases: Sequence[Intervention]) -> EditTable:
        """The edits of cases, worked out for this prompt.

        Raises:
            InterventionError: see ``EditTable``.
        """
        return EditTable(self.local, cases, self._other)

    def run(
        self,
        cases: Sequence[Intervention],
        freeze: Optional[Freeze] = None,
        tokens: Sequence[int] = (),
        top_k: int = 5,
        newly_active: int = NEWLY_ACTIVE,
        ctx: Optional[WorkContext] = None,
    ) -> tuple[Outcome, ...]:
        """Carry out interventions, each on an untouched prompt of its own.

        Args:
            cases: the interventions.
            freeze: what stays as it was; None: nothing.
            tokens: ids of tokens whose logits are reported whatever their probability.
            top_k: report so many of the likeliest tokens, before and after.
            newly_active: report so many latents that fire only now.
            ctx: progress and cancellation.

        Raises:
            InterventionError: an edit or a token that there is not, or the model's output is no
                longer finite.
            Cancelled: ``ctx`` was cancelled.
        """
        freeze, ctx = freeze or Freeze(), ctx or WorkContext()
        self._check_numbers(tokens, top_k, newly_active)
        freeze.layers(self.local.adapter.n_layers)
        table = self.table(cases)
        outcomes: list[Outcome] = []
        dictionaries = self.local.dictionaries
        widest = max((dictionaries.config_at(site)[0] for site in dictionaries.sites), default=0)
        size = batch_size(self.local, widest)
        for start in range(0, len(cases), size):
            ctx.check()
            ctx.progress(start, len(cases), "Intervening")
            stop = min(start + size, len(cases))
            part, some = table.part(start, stop), cases[start:stop]
            effects = (
                predicted(self.local, part, freeze.features_respond)
                if freeze.mode == "all"
                else measured(self.local, part, freeze, newly_active)
            )
            outcomes += self._outcomes(some, freeze, effects, tokens, top_k, newly_active)
        ctx.progress(len(cases), len(cases), "Intervening")
        return tuple(outcomes)

    def _other(self, prompt: str) -> LocalModel:
        if prompt not in self._others:
            ids = self.replacement.loaded.encode(prompt)
            self._others[prompt] = self.replacement.localize(ids)
        return self._others[prompt]

    def _check_numbers(self, tokens: Sequence[int], top_k: int, newly_active: int) -> None:
        vocabulary = self.local.adapter.vocab_size
        wrong = [token for token in tokens if not 0 <= token < vocabulary]
        if wrong:
            raise InterventionError(
                f"There is no token {wrong[0]}",
                f"the vocabulary has tokens 0 to {vocabulary - 1}",
                "choose one of them",
            )
        if top_k < 1 or newly_active < 0 or len(tokens) > _MAX_CHOSEN:
            raise InterventionError(
                "Nothing can be reported so",
                f"top_k is {top_k}, newly_active {newly_active}, and {len(tokens)} tokens are "
                "chosen",
                f"ask for one or more, and choose at most {_MAX_CHOSEN} tokens",
            )

    def _outcomes(
        self,
        cases: Sequence[Intervention],
        freeze: Freeze,
        effects: Effects,
        tokens: Sequence[int],
        top_k: int,
        newly_active: int,
    ) -> list[Outcome]:
        if not bool(effects.logits.isfinite().all()):
            raise InterventionError(
                "The model's output is no longer finite",
                "the change is too large for its number type",
                "choose smaller values",
            )
        before = effects.logits[-1].double()
        found = []
        for case, intervention in enumerate(cases):
            after = effects.logits[case].double()
            p, q = before.log_softmax(-1), after.log_softmax(-1)
            found.append(
                Outcome(
                    intervention=intervention,
                    freeze=freeze,
                    features=_active(self.local, effects, case),
                    newly_active=_strongest(effects.newly_active[case], newly_active),
                    edited=_table(effects.edited[case]),
                    tokens=self._tokens(before, after, tokens, top_k),
                    divergence=max(0.0, float((q.exp() * (q - p)).sum())),
                )
            )
        return found

    def _tokens(
        self, before: Tensor, after: Tensor, chosen: Sequence[int], top_k: int
    ) -> tuple[TokenEffect, ...]:
        top_k = min(top_k, len(before))
        ids = [*before.topk(top_k).indices.tolist(), *after.topk(top_k).indices.tolist(), *chosen]
        ids = sorted(dict.fromkeys(ids), key=lambda token: -float(after[token]))
        p, q = before.softmax(-1), after.softmax(-1)
        texts = self.replacement.loaded.token_strings(ids)
        return tuple(
            TokenEffect(i, text, float(before[i]), float(after[i]), float(p[i]), float(q[i]))
            for i, text in zip(ids, texts, strict=True)
        )


def _active(local: LocalModel, effects: Effects, case: int) -> FeatureEffects:
    """The features that are active on the untouched prompt, in one case."""
    features = local.features
    return _columns(
        LatentRows(
            features.site,
            features.position,
            features.index,
            effects.pre[-1],
            effects.pre[case],
            effects.activation[-1],
            effects.activation[case],
        )
    )


def _strongest(parts: Sequence[LatentRows], n: int) -> FeatureEffects:
    """The strongest rows of several modules, by the activation after."""
    rows = _joined(parts)
    order = rows.activation_after.argsort(descending=True, stable=True)[:n]
    return _columns(LatentRows(*(column[order] for column in rows)))


def _table(parts: Sequence[LatentRows]) -> FeatureEffects:
    """The rows of several modules, in order of the forward pass."""
    rows = _joined(parts)
    order = rows.site.argsort(stable=True)
    return _columns(LatentRows(*(column[order] for column in rows)))


def _joined(parts: Sequence[LatentRows]) -> LatentRows:
    if not parts:
        return LatentRows(*(torch.zeros(0, dtype=t) for t in [torch.long] * 3 + [torch.float] * 4))
    return LatentRows(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _columns(rows: LatentRows) -> FeatureEffects:
    return FeatureEffects(*(column.cpu().numpy().copy() for column in rows))
