"""Global weights: which latents feed which, over a text instead of on one prompt.

In a complete replacement model features are connected by the residual stream alone, so the edge
from latent i at position p to latent j at position t is ``a_i(p) · scale(p) · A(t, p) · V_ij``: the
virtual weight V (``core.virtual_weights``) times what the text makes of it. ``scale`` is the
inverse denominator of the norm that j reads through; A is a Lorsa's pattern, or 1 at p = t for an
MLP. Summed over a text that gives for each pair, with 1_j for "j is active":

    total     Σ a_i · scale · A · 1_j        V · total / n_j is the mean edge where j is active
    weighted  Σ a_i · scale · A · a_j        V · weighted / Σ a_j is the *expected effect*
    count     Σ 1_i · A · 1_j                how often they meet; for a Lorsa, how much attention

The expected effect is that of He et al. 2025, *Bridging the Attention Gap: Complete Replacement
Models*; Ameisen et al. 2025, "Global weights", have the same for transcoders.

This file knows numpy only, so that stored statistics open without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Optional

import numpy as np
from numpy.typing import NDArray

from attention_studio.core.feature_names import FeatureName
from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

Direction = Literal["upstream", "downstream"]
N_PROMOTED = 5
"""How many of the tokens that a latent promotes are kept with the statistics."""


class GlobalWeightsError(StudioError):
    """A latent does not exist, or statistics cannot be read or do not fit what they are put to."""


@dataclass(frozen=True)
class LatentTable:
    """One number for each latent of all dictionaries: site after site in order of the forward pass.

    Attributes:
        sites: the modules that have a dictionary.
        offsets: [n_sites + 1]; latent i of site k has the number ``offsets[k] + i``.
        parallel: whether an MLP reads the same stream as the attention of its layer.
    """

    sites: tuple[Site, ...]
    offsets: tuple[int, ...]
    parallel: bool

    @classmethod
    def of(cls, sites: Sequence[Site], sizes: Sequence[int], parallel: bool) -> LatentTable:
        """The table of dictionaries of some sizes."""
        return cls(tuple(sites), tuple(int(n) for n in np.cumsum([0, *sizes])), parallel)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def of_site(self, site: Site) -> slice:
        """The numbers of a site's latents."""
        k = self.sites.index(site)
        return slice(self.offsets[k], self.offsets[k + 1])

    def reads(self, target: Site, written: Site) -> bool:
        """Whether a module reads what was written at another."""
        if self.parallel and target.layer == written.layer:
            return False
        return written < target

    def sources(self, target: Site) -> tuple[Site, ...]:
        """The sites whose latents a site may read: always the first so many."""
        return tuple(site for site in self.sites if self.reads(target, site))

    def n_sources(self, target: Site) -> int:
        """How many latents a site may read: those with the first so many numbers."""
        return int(self.offsets[len(self.sources(target))])

    def site_of(self, latent: int) -> Site:
        """The site of a latent's number."""
        return self.sites[int(np.searchsorted(self.offsets, latent, side="right")) - 1]

    def index_of(self, latent: int) -> int:
        """The latent's number within its own dictionary."""
        k = self.sites.index(self.site_of(latent))
        return int(latent) - self.offsets[k]

    def name(self, latent: int) -> str:
        """``L3/F17`` for latent 17 of the MLP of layer 3, ``A3/F17`` for the attention's."""
        return str(FeatureName(self.site_of(latent), None, self.index_of(latent)))

    def find(self, name: str) -> int:
        """The number of a latent with a name that ``name`` gave.

        Raises:
            GlobalWeightsError: there is no such latent.
        """
        found = FeatureName.read(name)
        if found is not None and found.position is None and found.site in self.sites:
            k = self.sites.index(found.site)
            if found.latent != "*" and found.latent < self.offsets[k + 1] - self.offsets[k]:
                return self.offsets[k] + found.latent
        raise GlobalWeightsError(
            f"There is no latent {name}",
            f"the dictionaries are those of {', '.join(site.label for site in self.sites)}",
            "write L3/F17 for latent 17 of the MLP of layer 3, A3/F17 for its attention",
        )


@dataclass(frozen=True)
class TextFacts:
    """What the statistics are of.

    Attributes:
        model_name, model_hash: the model, and the SHA-256 of its weights.
        crm_name, crm_hash: the dictionaries, and the SHA-256 of their tensors and settings.
        text_hash: SHA-256 of all rows of tokens (``TokenCorpus.text_hash``).
        n_rows, seq_len: rows of tokens that were run, and their length.
        n_tokens: positions that dictionaries saw in them.
        keep: how many sources of each target could be kept; 0: all, the statistics are exact.
        strongest: of each target, so many largest virtual weights are listed in any case.
        left_out: paths between latents that the edges here do not have.
    """

    model_name: str
    model_hash: str
    crm_name: str
    crm_hash: str
    text_hash: str
    n_rows: int
    seq_len: int
    n_tokens: int
    keep: int
    strongest: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Connections:
    """Connections of one latent with others, strongest first.

    Attributes:
        latent: the one that was asked for; direction: where the others are.
        others: [m] their numbers.
        effect: [m] expected effect, in units of the target's pre-activation.
        share: [m] effect by the sum of all |effects| on the same target.
        edge: [m] mean edge, over the times that the target is active.
        virtual: [m] the virtual weight.
        count: [m] how often both were active (see the module).
        chance: [m] how often if they were so independently of each other, at most.
    """

    latent: int
    direction: Direction
    others: Ints
    effect: Doubles
    share: Doubles
    edge: Doubles
    virtual: Floats
    count: Floats
    chance: Doubles

    def __len__(self) -> int:
        return len(self.others)


@dataclass(frozen=True)
class GlobalWeights:
    """Statistics of the pairs of latents of a complete replacement model, over a text.

    The pairs are sorted by target, then by source. Listed are all that ever met (or, where memory
    was short, those with the largest effects on each target), and for each target its largest
    virtual weights.

    Attributes:
        table: how latents are numbered; n of them.
        about: model, dictionaries and text.
        bounds: int64 [n + 1]; the pairs into target j are ``bounds[j]:bounds[j + 1]``.
        source: int32 [m], a latent's number.
        virtual, total, weighted, count: [m], see the module.
        followed: bool [m], whether a pair is one of its target's largest virtual weights; its sums
            are exact, slack or not.
        times: int64 [n], positions at which a latent was active; activation: [n] the sum of its
            activations there; peak: [n] the largest.
        reads: [n] Σ |V| · weighted over all sources, listed or not.
        slack: [n]. Of a target with so much slack, ``|V| · weighted`` of a pair is larger than
            listed by at most this; of a pair that is not listed it is at most this. 0: exact.
        promoted: int32 [n, N_PROMOTED], ids of tokens; -1 for a latent that was never active.
        words: text of the tokens in ``promoted``.
    """

    table: LatentTable
    about: TextFacts
    bounds: Ints
    source: NDArray[np.int32]
    virtual: Floats
    total: Floats
    weighted: Floats
    count: Floats
    followed: NDArray[np.bool_]
    times: Ints
    activation: Doubles
    peak: Floats
    reads: Doubles
    slack: Floats
    promoted: NDArray[np.int32]
    words: dict[int, str]

    @property
    def n_pairs(self) -> int:
        """Pairs that are listed."""
        return len(self.source)

    @property
    def exact(self) -> bool:
        """Whether every pair that ever met is listed with its exact sums."""
        return not bool(self.slack.any())

    # ---- one latent ----------------------------------------------------------------------------

    def mean_activation(self, latent: int) -> float:
        """Over the positions at which it is active; 0 if it never is."""
        return float(self.activation[latent] / max(int(self.times[latent]), 1))

    def frequency(self, latent: int) -> float:
        """Share of the positions at which it is active."""
        return float(self.times[latent] / max(self.about.n_tokens, 1))

    def promotes(self, latent: int) -> tuple[str, ...]:
        """The tokens that it promotes most, directly."""
        return tuple(
            self.words.get(int(token), "?") for token in self.promoted[latent] if token >= 0
        )

    # ---- questions -----------------------------------------------------------------------------

    def upstream(self, latent: int, k: Optional[int] = None) -> Connections:
        """What feeds a latent: the ``k`` largest expected effects on it (None: all listed)."""
        return self._ranked(latent, "upstream", k)

    def downstream(self, latent: int, k: Optional[int] = None) -> Connections:
        """What a latent feeds, the ``k`` largest shares of a target's input first (None: all).

        Targets have units of their own, so effects on different targets are compared by share.
        """
        return self._ranked(latent, "downstream", k)

    def interference(
        self,
        latent: int,
        direction: Direction,
        k: Optional[int] = None,
        below: float = 1.0,
        least_chance: float = 1.0,
    ) -> Connections:
        """The largest virtual weights that the text does not use.

        Two latents may point the same way only because there are more of them than dimensions.
        Such a pair is told from a connection by the text: it does not meet, though it would often
        enough if its two were active independently of each other. Only the largest virtual weights
        of each target are looked at (``TextFacts.strongest`` of them).

        Args:
            below: pairs that met less often.
            least_chance: pairs that would have met at least so often; rarer ones say nothing.
        """
        _check_number(k)
        pairs = self._pairs(latent, direction)
        found = self._connections(latent, direction, pairs)
        unused = (found.count < below) & (found.chance >= least_chance) & self.followed[pairs]
        chosen = np.flatnonzero(unused)
        order = chosen[np.argsort(-np.abs(found.virtual[chosen]), kind="stable")][:k]
        return _taken(found, order)

    def between(self, latents: Ints) -> tuple[Ints, Ints, Ints]:
        """The pairs whose both ends are among ``latents``: (pair, source, target) [m]."""
        member = np.zeros(len(self.table), dtype=bool)
        member[latents] = True
        pairs, targets = [], []
        for target in np.sort(latents):
            here = np.arange(self.bounds[target], self.bounds[target + 1])
            mine = here[member[self.source[here]]]
            pairs.append(mine)
            targets.append(np.full(len(mine), target, dtype=np.int64))
        if not pairs:
            empty = np.zeros(0, dtype=np.int64)
            return empty, empty, empty
        chosen = np.concatenate(pairs)
        return chosen, self.source[chosen].astype(np.int64), np.concatenate(targets)

    def effects(self, pairs: Ints, targets: Ints) -> Doubles:
        """Expected effects of some pairs [m] on their ``targets`` [m]; 0 on one never active."""
        product = self.virtual[pairs].astype(np.float64) * self.weighted[pairs]
        return _by(product, self.activation[targets])

    def shares(self, pairs: Ints, targets: Ints) -> Doubles:
        """Effects of some pairs [m] by the sum of all |effects| on the same target."""
        product = self.virtual[pairs].astype(np.float64) * self.weighted[pairs]
        return _by(product, self.reads[targets])

    # ---- parts ---------------------------------------------------------------------------------

    @cached_property
    def _by_source(self) -> tuple[Ints, Ints]:
        """The pairs sorted by source, and where each source's begin [n + 1]."""
        # By halves: numpy sorts 16 bits in linear time, which is ten times as fast.
        low, high = (self.source & 0xFFFF).astype(np.uint16), (self.source >> 16).astype(np.uint16)
        order: Ints = np.argsort(low, kind="stable").astype(np.int64)
        if high.any():
            order = order[np.argsort(high[order], kind="stable")]
        counts = np.bincount(self.source, minlength=len(self.table))
        return order, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @cached_property
    def _target(self) -> NDArray[np.int32]:
        """The target of each pair."""
        every = np.arange(len(self.table), dtype=np.int32)
        return np.repeat(every, np.diff(self.bounds))

    def _pairs(self, latent: int, direction: Direction) -> Ints:
        if not 0 <= latent < len(self.table):
            raise GlobalWeightsError(
                f"There is no latent number {latent}", f"there are {len(self.table)}", "name one"
            )
        if direction == "upstream":
            return np.arange(self.bounds[latent], self.bounds[latent + 1])
        order, starts = self._by_source
        return order[starts[latent] : starts[latent + 1]]

    def _ranked(self, latent: int, direction: Direction, k: Optional[int]) -> Connections:
        _check_number(k)
        pairs = self._pairs(latent, direction)
        targets = self._target[pairs].astype(np.int64)
        strength = np.abs(self.shares(pairs, targets))
        if k is not None and k < len(pairs):  # sorting all would take most of the time
            least = np.partition(strength, len(pairs) - k)[len(pairs) - k]
            pairs, strength = pairs[strength >= least], strength[strength >= least]
        used = strength > 0
        order = np.argsort(-strength[used], kind="stable")[:k]
        return self._connections(latent, direction, pairs[used][order])

    def _connections(self, latent: int, direction: Direction, pairs: Ints) -> Connections:
        targets, sources = self._target[pairs].astype(np.int64), self.source[pairs].astype(np.int64)
        virtual = self.virtual[pairs]
        mean = virtual.astype(np.float64) * self.total[pairs]
        chance = self.times[sources].astype(np.float64) * self.times[targets]
        return Connections(
            latent=latent,
            direction=direction,
            others=sources if direction == "upstream" else targets,
            effect=self.effects(pairs, targets),
            share=self.shares(pairs, targets),
            edge=_by(mean, self.times[targets].astype(np.float64)),
            virtual=virtual,
            count=self.count[pairs],
            chance=chance / max(self.about.n_tokens, 1),
        )


def _check_number(k: Optional[int]) -> None:
    if k is not None and k < 1:
        raise GlobalWeightsError(f"{k} connections cannot be listed", "", "ask for one or more")


def _by(values: Doubles, divisors: Doubles) -> Doubles:
    """Quotients; 0 where there is nothing to divide by."""
    result: Doubles = np.divide(
        values, divisors, out=np.zeros(len(values), dtype=np.float64), where=divisors > 0
    )
    return result


def _taken(found: Connections, order: Ints) -> Connections:
    columns = ("others", "effect", "share", "edge", "virtual", "count", "chance")
    parts = {name: getattr(found, name)[order] for name in columns}
    return Connections(latent=found.latent, direction=found.direction, **parts)
