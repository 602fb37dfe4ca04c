"""One face for the latents of a module, whichever kind of dictionary they belong to."""

from __future__ import annotations

from typing import Optional, Union

import torch
from torch import Tensor

from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.sites import Site


class SiteLatents:
    """The latents of the dictionary that stands in for a module.

    Attributes:
        site: the module.
        n: how many latents.
        decoders: what each latent writes at activation 1, [s, d] for every module whose output it
            writes to: its own, and with a cross-layer transcoder the MLPs above.
    """

    def __init__(self, dictionaries: DictionarySet, site: Site) -> None:
        self.site = site
        self.n = dictionaries.config_at(site)[0]
        self._lorsa = dictionaries.lorsas.get(site.layer) if site.kind == "attention" else None
        mlp = site.kind == "mlp"
        self._transcoder = dictionaries.transcoders.get(site.layer) if mlp else None
        self._clt, self._i = None, 0
        self.decoders: dict[Site, Tensor]
        if self._lorsa is not None:
            self.decoders = {site: self._lorsa.W_O}
        elif self._transcoder is not None:
            self.decoders = {site: self._transcoder.W_D}
        else:
            clt = dictionaries.clt
            assert clt is not None  # config_at would have said so
            self._clt, self._i = clt, clt.position(site.layer)
            above = [Site(layer, "mlp") for layer in clt.config.layers[self._i :]]
            self.decoders = dict(zip(above, clt.W_D[self._i], strict=True))

    def written(self, latents: Union[slice, Tensor]) -> Tensor:
        """[n, d] what some latents write at activation 1 in all, over all modules that they write
        to."""
        rows = [decoder[latents] for decoder in self.decoders.values()]
        return rows[0] if len(rows) == 1 else torch.stack(rows).sum(0)

    def pre_activations(self, inputs: Tensor, pattern: Optional[Tensor] = None) -> Tensor:
        """Pre-activations [..., s] for what the module reads [..., d].

        A Lorsa's are of whole sequences [..., T, d] from their first position; ``pattern``
        [g, T, T] is where its heads look, None: where they look on these inputs.
        """
        if self._lorsa is not None:
            return self._lorsa.pre_activations(inputs, pattern)
        if self._transcoder is not None:
            return self._transcoder.pre_activations(inputs)
        assert self._clt is not None  # one of the three
        return self._clt.pre_activations(self._i, inputs)

    def activate(self, pre: Tensor) -> Tensor:
        """Pre-activations [..., s] to activations."""
        if self._clt is not None:
            return self._clt.activate(self._i, pre)
        dictionary = self._lorsa or self._transcoder
        assert dictionary is not None  # one of the three
        return dictionary.activate(pre)
