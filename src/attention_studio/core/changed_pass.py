"""Real passes of a model in which latents are held at other activations.

Change of activation times decoder row is added to the module's real output, so what dictionaries
miss stays as the model makes it. With a cache of keys and values the change is kept up at every
token that comes later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.active_features import N_LEFT_OUT
from attention_studio.core.frozen_pass import FrozenPass
from attention_studio.core.intervention_edits import (
    EditTable,
    MovedLatents,
    SiteEdits,
    move,
    written_rows,
)
from attention_studio.core.intervention_specs import Freeze
from attention_studio.core.model_adapter import Replacement
from attention_studio.core.replacement_model import LocalModel, StreamChange
from attention_studio.core.sites import Site

Watch = Callable[[Site, Tensor, Optional[Tensor], Optional[MovedLatents]], None]
"""Sees a module with a dictionary in every pass: the module, what it reads [B, S, d], where its
Lorsa looks (None: where it looks on these inputs), and which of its latents were moved."""


class ChangedPass:
    """Passes over copies of one prompt, each with changes of its own.

    Rows of a batch are the cases of ``edits``; rows after them are left as they are.

    Args:
        local: the prompt.
        edits: what is changed.
        freeze: mode ``none`` or ``attention``.
        changes: other things that are added to the stream at the prompt's positions.
        watch: is called at ``watched`` modules.
        watched: modules with a dictionary.
        cached: whether passes come one after another, each over the tokens after the last.
        held: whether modules that are no part of a direct path (all MLPs, and attentions with a
            dictionary) keep what they give in the batch's last row, the untouched prompt. What
            they are told to write is added to that, and so is what a dictionary's linear map
            makes of the change of its input.
    """

    def __init__(
        self,
        local: LocalModel,
        edits: EditTable,
        freeze: Freeze,
        changes: Sequence[StreamChange] = (),
        watch: Optional[Watch] = None,
        watched: Iterable[Site] = (),
        cached: bool = False,
        held: bool = False,
    ) -> None:
        self._local = local
        self._edits = edits
        self._changes = changes
        self._watch = watch
        self._watched = frozenset(watched)
        self._cached = cached
        self._held_sites: frozenset[Site] = frozenset(local.errors) if held else frozenset()
        self._start = 0
        self._moved: dict[Site, MovedLatents] = {}
        self._history: dict[Site, Tensor] = {}
        self._frozen: Optional[FrozenPass] = None
        self._frozen_layers = range(0)
        if freeze.mode == "attention":
            self._frozen_layers = freeze.layers(local.adapter.n_layers)
            self._frozen = FrozenPass(local.adapter, local.record, self._frozen_layers)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block the model's passes are changed; call ``begin`` before each."""
        sites = {*self._edits.sites, *self._edits.written, *self._watched, *self._held_sites}
        sites |= {change.site for change in self._changes if change.site is not None}
        with ExitStack() as stack:
            if self._frozen is not None:
                stack.enter_context(self._frozen.active())
            hooks = {site: self._hook(site) for site in sorted(sites)}
            stack.enter_context(self._local.adapter.replaced(hooks))
            yield

    def begin(self, start: int) -> None:
        """Say that the next pass begins with the token at position ``start``."""
        self._start = start
        self._moved.clear()
        if self._frozen is not None:
            self._frozen.start = start
        if start == 0:
            self._history.clear()

    def _hook(self, site: Site) -> Replacement:
        edited = site in self._edits.sites

        def function(inputs: Tensor, outputs: Tensor) -> Tensor:
            whole = inputs
            if edited and self._cached and site.kind == "attention":
                # A Lorsa looks at all that came before, which the model's cache does not hold.
                before = self._history.get(site)
                whole = inputs if before is None else torch.cat([before, inputs], 1)
                self._history[site] = whole
            edits = None
            if edited:
                edits = self._edits.at(site, self._start, self._start + inputs.shape[1])
            if edits is not None:
                self._moved[site] = move(edits, self._activations(site, edits, inputs, whole))
            if site in self._watched and self._watch is not None:
                self._watch(site, inputs, self._pattern(site, inputs), self._moved.get(site))
            if site in self._held_sites:
                outputs = self._held(site, inputs, outputs)
            return self._written(site, outputs)

        return function

    def _held(self, site: Site, inputs: Tensor, outputs: Tensor) -> Tensor:
        """What the untouched row gives, in all rows."""
        held = outputs[-1:].expand_as(outputs)
        skip = self._local.skip_at(site)
        if skip is None:
            return held
        return held + ((inputs - inputs[-1:]) @ skip) * self._local.on.unsqueeze(-1)

    def _written(self, site: Site, outputs: Tensor) -> Tensor:
        found = written_rows(self._edits.latents, self._moved, site)
        if self._start == 0:
            found += [(c.case, c.position, c.rows) for c in self._changes if c.site == site]
        if not found:
            return outputs
        changed = outputs.clone()
        for case, position, rows in found:
            changed.index_put_((case, position), rows, accumulate=True)
        return changed

    def _activations(self, site: Site, edits: SiteEdits, inputs: Tensor, whole: Tensor) -> Tensor:
        """What the dictionary makes of a module's input at the places of edits, [u, s]."""
        latents = self._edits.latents[site]
        if site.kind == "mlp":
            return latents.activate(latents.pre_activations(inputs[edits.case, edits.position]))
        cases = sorted(set(edits.case.tolist()))
        row = torch.tensor([cases.index(case) for case in edits.case.tolist()], device=whole.device)
        sequences = whole[cases]
        pre = latents.pre_activations(sequences, self._pattern(site, sequences))
        position = edits.position + whole.shape[1] - inputs.shape[1]
        return latents.activate(pre[row, position])

    def _pattern(self, site: Site, sequences: Tensor) -> Optional[Tensor]:
        """Where a Lorsa looks on whole sequences [B, S, d]; None: where it looks on them."""
        if site.kind != "attention" or site.layer not in self._frozen_layers:
            return None
        frozen = self._local.lorsa_pattern(site.layer)
        n, length = frozen.shape[-1], sequences.shape[1]
        if n == length:
            return frozen
        pattern = self._local.dictionaries.lorsas[site.layer].pattern(sequences)
        pattern[..., :n, :n] = frozen
        return pattern


def seen_positions(activations: Tensor) -> Tensor:
    """Activations [..., T, s] of whole prompts, silent where dictionaries are off."""
    activations[..., :N_LEFT_OUT, :] = 0
    return activations
