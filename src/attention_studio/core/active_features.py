"""Which latents of which dictionaries are active on one prompt, what they read and write.

A per-layer transcoder's latent reads its MLP's input and writes to that MLP's output. A Lorsa's
latent reads the attention's input at all positions before its own, weighted by the Lorsa's
pattern, and writes at its own. A cross-layer transcoder's latent reads one MLP's input and writes
to the outputs of that MLP and of all above it, so its write is split over several places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.tensor_files import CRMFormatError
from attention_studio.core.dictionaries.transcoder import SparseLatents, bag_offsets
from attention_studio.core.host_memory import GIB
from attention_studio.core.loaded_model import PromptTooLongError, free_bytes
from attention_studio.core.model_adapter import ForwardRecord, ModelAdapter
from attention_studio.core.sites import Site

N_LEFT_OUT = 1
"""Dictionaries are off at the first position: it is an attention sink of huge norm."""
_CHECKED_AT_ONCE = 1024
"""Rows: looking at numbers makes copies of them."""


@dataclass(frozen=True)
class FeatureWrite:
    """What neighbouring features write to the residual stream at one place.

    Attributes:
        features: which ones.
        rows: [m, d], what each writes at activation 1.
        bounds: [T + 1] those at position p are ``features.start + bounds[p]`` up to
            ``features.start + bounds[p + 1]``.
    """

    features: slice
    rows: Tensor
    bounds: tuple[int, ...]


@dataclass(frozen=True)
class ActiveFeatures:
    """The active latents of one prompt, sorted by site, position and latent.

    Attributes:
        site: [n] int64, ``Site.number``; position, index (of the latent): [n] int64.
        activation: [n].
        encoder: [n, d], what each reads; at a Lorsa of every position that it looks at.
        encoder_bias: [n].
        decoder: [n, d], what each writes at activation 1, in all: over all layers, where it is one
            of a cross-layer transcoder.
        offsets: [2L + 1]; those of the site with number s are ``offsets[s]:offsets[s + 1]``.
        writes: what is written where.
    """

    site: Tensor
    position: Tensor
    index: Tensor
    activation: Tensor
    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    offsets: tuple[int, ...]
    writes: Mapping[Site, tuple[FeatureWrite, ...]]

    def __len__(self) -> int:
        return int(self.site.shape[0])

    @property
    def layer(self) -> Tensor:
        """[n] int64."""
        return self.site // 2

    @property
    def kind(self) -> Tensor:
        """[n] int64, the place in ``SITE_KINDS``."""
        return self.site % 2

    def of(self, site: Site) -> slice:
        """Where the features of one module are."""
        return slice(self.offsets[site.number], self.offsets[site.number + 1])


@dataclass(frozen=True)
class FrozenDictionaries:
    """What the dictionaries make of one recorded pass.

    Attributes:
        features: the active latents.
        errors: by site [T, d], what dictionaries miss: of every MLP, and of the attentions where a
            Lorsa stands in. The module's whole output where dictionaries are off.
        patterns: by layer [g, T, T], where the Lorsas' heads look.
    """

    features: ActiveFeatures
    errors: Mapping[Site, Tensor]
    patterns: Mapping[int, Tensor]


@torch.no_grad()
def freeze_dictionaries(
    adapter: ModelAdapter, dictionaries: DictionarySet, record: ForwardRecord
) -> FrozenDictionaries:
    """Find what is active on a recorded pass, and what of it the dictionaries miss.

    Raises:
        CRMFormatError: what an active latent writes is not finite; names its module. A
            cross-layer transcoder's decoders are not checked before.
        PromptTooLongError: so many latents are active that memory has no room for their rows.
    """
    columns = _Columns(adapter.n_layers, record.mlp_out)
    errors: dict[Site, Tensor] = {}
    patterns: dict[int, Tensor] = {}
    of_clt: dict[int, SparseLatents] = {}
    clt = dictionaries.clt
    seen = slice(N_LEFT_OUT, None)
    n_seen = record.mlp_out.shape[1] - N_LEFT_OUT
    for layer in range(adapter.n_layers):
        lorsa = dictionaries.lorsas.get(layer)
        if lorsa is not None:
            site = Site(layer, "attention")
            latents, pattern = latents_at(adapter, dictionaries, record, site)
            assert pattern is not None  # a Lorsa has one
            patterns[layer] = pattern
            columns.add(site, latents, (lorsa.W_V, lorsa.b_V), {site: lorsa.W_O})
            errors[site] = record.attention_out[layer].clone()
            errors[site][seen] -= lorsa.decode_sparse(latents, n_seen)
        site = Site(layer, "mlp")
        transcoder = dictionaries.transcoders.get(layer)
        errors[site] = record.mlp_out[layer].clone()
        if transcoder is not None:
            latents, _ = latents_at(adapter, dictionaries, record, site)
            columns.add(site, latents, (transcoder.W_E, transcoder.b_E), {site: transcoder.W_D})
            inputs = record.mlp_in[layer, seen]
            errors[site][seen] -= transcoder.decode_sparse(latents, n_seen, inputs)
        elif clt is not None and layer in clt.config.layers:
            i = clt.position(layer)
            of_clt[i], _ = latents_at(adapter, dictionaries, record, site)
            above = [Site(target, "mlp") for target in clt.config.layers[i:]]
            decoders = dict(zip(above, clt.W_D[i], strict=True))
            columns.add(site, of_clt[i], (clt.W_E[i], clt.b_E[i]), decoders)
            errors[site][seen] -= clt.decode_to_sparse(i, of_clt, n_seen)
    return FrozenDictionaries(columns.joined(), errors, patterns)


@torch.no_grad()
def latents_at(
    adapter: ModelAdapter, dictionaries: DictionarySet, record: ForwardRecord, site: Site
) -> tuple[SparseLatents, Optional[Tensor]]:
    """What is active at a site that has a dictionary, on a recorded pass.

    Returns:
        The active latents, tokens counted from the first that is not left out; and where the heads
        of a Lorsa look, [g, T, T] over all positions, or None at an MLP.
    """
    seen = slice(N_LEFT_OUT, None)
    layer = site.layer
    if site.kind == "attention":
        lorsa = dictionaries.lorsas[layer]
        norm = adapter.attention_norm(layer)
        inputs = norm.apply(record.resid_pre[layer], record.attention_scale[layer])
        pattern = lorsa.pattern(inputs)
        # Every position is looked at; those that are left out select no latents.
        pre = lorsa.pre_activations(inputs, pattern)[seen]
        return SparseLatents.of(lorsa.activate(pre)), pattern
    inputs = record.mlp_in[layer, seen]
    transcoder = dictionaries.transcoders.get(layer)
    if transcoder is not None:
        return transcoder.encode_sparse(inputs), None
    clt = dictionaries.clt
    assert clt is not None  # else the MLP would have no dictionary
    return clt.encode_sparse(clt.position(layer), inputs), None


class _Columns:
    """The columns of ``ActiveFeatures`` in the making; sites are added in order."""

    def __init__(self, n_layers: int, like: Tensor) -> None:
        """``like`` [..., T, d] tells how long and wide, and where."""
        self._n_sites, self._length = 2 * n_layers, like.shape[-2]
        self._device, self._row_bytes = like.device, like.shape[-1] * like.element_size()
        whole = torch.zeros(0, dtype=torch.long, device=like.device)
        rows, numbers = like.new_zeros(0, like.shape[-1]), like.new_zeros(0)
        # Parts of length zero, so that a model with no dictionaries has columns too.
        self._parts: dict[str, list[Tensor]] = {
            "site": [whole],
            "position": [whole],
            "index": [whole],
            "activation": [numbers],
            "encoder": [rows],
            "encoder_bias": [numbers],
            "decoder": [rows],
        }
        self._counts = [0] * self._n_sites
        self._split: dict[Site, dict[Site, Tensor]] = {}
        """Of features that write in several places, the rows of each."""

    def add(
        self,
        site: Site,
        latents: SparseLatents,
        encoder: tuple[Tensor, Tensor],
        decoders: Mapping[Site, Tensor],
    ) -> None:
        """The active latents of a site, counted from the first position that is not left out.

        ``encoder`` [s, d] and its bias [s]; ``decoders`` [s, d] for each place that is written to,
        of which only the rows of active latents are read: they may lie on the disk.
        """
        self._check_memory(site, len(latents.latent), len(decoders))
        rows = {place: decoder[latents.latent] for place, decoder in decoders.items()}
        for place, found in rows.items():
            if not all(
                bool(part.isfinite().all()) for part in torch.split(found, _CHECKED_AT_ONCE)
            ):
                raise CRMFormatError(
                    f"The decoder of {site} holds values that are not finite",
                    f"they are in what it writes to {place}",
                    "Restore the file or train again",
                )
        weight, bias = encoder
        new = {
            "site": torch.full_like(latents.latent, site.number),
            "position": latents.token + N_LEFT_OUT,
            "index": latents.latent,
            "activation": latents.value,
            "encoder": weight[latents.latent],
            "encoder_bias": bias[latents.latent],
            "decoder": reduce(torch.add, rows.values()),
        }
        for name, part in new.items():
            self._parts[name].append(part)
        self._counts[site.number] = len(latents.latent)
        if len(rows) > 1:
            self._split[site] = rows

    def _check_memory(self, site: Site, n: int, n_places: int) -> None:
        """Only now the number of active latents is known: nothing bounds it for ReLU and JumpReLU.

        What each reads and writes at every place, and in all where there are several, is new; one
        column of all is there twice while it is joined.
        """
        total = sum(self._counts) + n
        needed = self._row_bytes * (n * (1 + n_places + (n_places > 1)) + total)
        free = free_bytes(self._device)
        if needed > free:
            raise PromptTooLongError(
                f"The prompt has {self._length:,} tokens",
                f"up to {site} {total:,} latents are active; what they read and write takes about "
                f"{needed / GIB:.1f} GiB more and {free / GIB:.1f} GiB are free",
                "Shorten it or close other programs",
            )

    def joined(self) -> ActiveFeatures:
        """All of them. Takes the parts with it."""
        # Popped, so that the parts of one column are gone before the next is joined.
        column = {name: torch.cat(self._parts.pop(name)) for name in list(self._parts)}
        offsets = [0]
        for count in self._counts:
            offsets.append(offsets[-1] + count)
        writes: dict[Site, tuple[FeatureWrite, ...]] = {}
        for number, count in enumerate(self._counts):
            if not count:
                continue
            site, here = Site.of_number(number), slice(offsets[number], offsets[number + 1])
            bounds = tuple(bag_offsets(column["position"][here], self._length).tolist())
            for place, rows in self._split.get(site, {site: column["decoder"][here]}).items():
                writes[place] = (*writes.get(place, ()), FeatureWrite(here, rows, bounds))
        return ActiveFeatures(**column, offsets=tuple(offsets), writes=writes)
