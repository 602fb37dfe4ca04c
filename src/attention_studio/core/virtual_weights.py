"""Virtual weights: what one latent's write says to another latent's read, whatever the prompt.

``V_ij = decoder_i · pull(encoder_j)``, where ``pull`` takes the target's encoder back through the
norm that it reads through, its denominator left out: gain, and for a LayerNorm the centring (Elhage
et al. 2021, *A Mathematical Framework for Transformer Circuits*, "virtual weights"; for transcoders
Dunefsky et al. 2024, section 4.2; for complete replacement models Ameisen et al. 2025, "Global
weights"). What Gemma's post-norms do lies within the modules: dictionaries predict behind them.

A latent of a cross-layer transcoder counts with all that it has written below the target's read.
"""

from __future__ import annotations

from functools import reduce
from typing import Optional

import torch
from torch import Tensor

from attention_studio.core.global_weights import LatentTable
from attention_studio.core.linear_parts import FrozenNorm
from attention_studio.core.replacement_model import CompleteReplacementModel
from attention_studio.core.site_latents import SiteLatents
from attention_studio.core.sites import Site


class VirtualWeights:
    """The virtual weights of a complete replacement model, made when they are asked for.

    Attributes:
        table: how its latents are numbered.
    """

    def __init__(self, replacement: CompleteReplacementModel) -> None:
        self.adapter = replacement.adapter
        self.dictionaries = replacement.dictionaries
        sites = replacement.sites
        sizes = [self.dictionaries.config_at(site)[0] for site in sites]
        self.table = LatentTable.of(sites, sizes, self.adapter.parallel)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What else writes are carried by, beside the residual stream: attention that is kept and
        transcoders' skip connections. Virtual weights know nothing of these paths."""
        found = []
        for layer in range(self.adapter.n_layers):
            transcoder = self.dictionaries.transcoders.get(layer)
            if layer not in self.dictionaries.lorsas:
                found.append(f"attention {layer}")
            if transcoder is not None and transcoder.W_skip is not None:
                found.append(f"skip {layer}")
        return tuple(found)

    def norm(self, site: Site) -> FrozenNorm:
        """The norm that a site reads the residual stream through."""
        if site.kind == "attention":
            return self.adapter.attention_norm(site.layer)
        return self.adapter.mlp_norm(site.layer)

    def decoders(self, site: Site) -> Tensor:
        """What each possible source of a site [n_sources, d] has written to the stream by the time
        that the site reads it, at activation 1."""
        parts = [self._written(source, site) for source in self.table.sources(site)]
        return (
            torch.cat(parts) if parts else self.norm(site).gain.new_zeros(0, self.adapter.d_model)
        )

    def readers(self, site: Site, latents: slice) -> Tensor:
        """What some latents of a site read of the residual stream [m, d], at a denominator of 1."""
        rows = self._encoder(site)[latents]
        return self.norm(site).pull(rows, rows.new_ones(len(rows)))

    def total_decoder(self, site: Site) -> Tensor:
        """What each latent of a site writes in all [s, d], at activation 1."""
        return self._written(site, None)

    def _encoder(self, site: Site) -> Tensor:
        found = self.dictionaries
        if site.kind == "attention":
            return found.lorsas[site.layer].W_V
        if site.layer in found.transcoders:
            return found.transcoders[site.layer].W_E
        assert found.clt is not None  # else the MLP would have no dictionary
        encoder: Tensor = found.clt.W_E[found.clt.position(site.layer)]
        return encoder

    def _written(self, source: Site, target: Optional[Site]) -> Tensor:
        decoders = SiteLatents(self.dictionaries, source).decoders
        rows = [
            decoder
            for place, decoder in decoders.items()
            if target is None or self.table.reads(target, place)
        ]
        return rows[0] if len(rows) == 1 else reduce(torch.add, rows)
