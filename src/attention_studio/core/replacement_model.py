"""A language model with dictionaries for its modules, and its local linear form on a prompt.

Where a dictionary stands in, the module's output is written as ``prediction + error`` with
``error = output - prediction``, so the forward pass is the model's own, exactly. Freezing the
attention patterns (the model's where attention is kept, the Lorsa's where it is replaced), the norm
denominators, the errors and which latents are active makes everything between a source's write and
a target's read linear (Ameisen et al. 2025, "Circuit Tracing"; with Lorsas He et al. 2025,
"Bridging the Attention Gap: Complete Replacement Models").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Union

import torch
from torch import Tensor

from attention_studio.core.active_features import (
    N_LEFT_OUT,
    ActiveFeatures,
    FrozenDictionaries,
    freeze_dictionaries,
)
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.transcoder import Transcoder, UnfoldedDictionaryError
from attention_studio.core.host_memory import GIB
from attention_studio.core.linear_parts import FrozenNorm
from attention_studio.core.loaded_model import PromptTooLongError, free_bytes
from attention_studio.core.model_adapter import ForwardRecord, ModelAdapter
from attention_studio.core.sites import Site
from attention_studio.core.trace_circumstances import DictionariesId
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.model_manager import LoadedModel

__all__ = [
    "N_LEFT_OUT",
    "ActivationEdit",
    "ActiveFeatures",
    "CompleteReplacementModel",
    "LinearResponse",
    "LocalModel",
    "StreamChange",
]


_PIECE = 512
_PIECE_VALUES = 1 << 23


@dataclass(frozen=True)
class StreamChange:
    """Something added to the residual stream, in some of several cases that are looked at at once.

    Attributes:
        site: the module after which it is added; None: the embedding.
        case, position: [m] int64, where.
        rows: [m, d], what.
    """

    site: Optional[Site]
    case: Tensor
    position: Tensor
    rows: Tensor


@dataclass(frozen=True)
class ActivationEdit:
    """Active features that are held at ``factor * now + added`` in some of several cases, where
    ``now`` is what their activation would be there without being held.

    ``case, feature`` [m] int64, no pair twice; ``factor, added`` [m].
    """

    case: Tensor
    feature: Tensor
    factor: Tensor
    added: Tensor


@dataclass(frozen=True)
class LinearResponse:
    """What a change of the residual stream does under the freezes.

    ``features`` [n, n_features]: change of each active feature's pre-activation; ``activations``
    [n, n_features]: change of the activation that it passes on; ``resid_final`` [n, T, d]: change
    of the final residual stream.
    """

    features: Tensor
    activations: Tensor
    resid_final: Tensor


class LocalModel:
    """The local linear model of one prompt of T tokens.

    Attributes:
        dictionaries: what stands in for which module.
        ids: token ids [T].
        record: the forward pass that was frozen.
        features: the active features.
        errors: by site [T, d], what the dictionaries miss (see ``FrozenDictionaries``). A kept
            attention is part of the linear map and has none.
        on: [T] 1 where dictionaries are on, 0 where they are left out.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        dictionaries: DictionarySet,
        ids: Sequence[int],
        record: ForwardRecord,
    ) -> None:
        self.adapter = adapter
        self.dictionaries = dictionaries
        self.ids = list(ids)
        self.record = record
        self.on = torch.ones_like(record.mlp_scale[0])
        self.on[:N_LEFT_OUT] = 0
        frozen = self._find_features()
        self.features: ActiveFeatures = frozen.features
        self.errors: Mapping[Site, Tensor] = frozen.errors
        self._patterns = frozen.patterns

    def _find_features(self) -> FrozenDictionaries:
        return freeze_dictionaries(self.adapter, self.dictionaries, self.record)

    # ---- what is frozen ------------------------------------------------------------------------

    def keeps_attention(self, layer: int) -> bool:
        """Whether the attention of a layer is the model's own, with its pattern frozen."""
        return layer not in self.dictionaries.lorsas

    def norm_at(self, site: Site) -> tuple[FrozenNorm, Tensor]:
        """The norm that a module reads the residual stream through, and its scales [T]."""
        if site.kind == "attention":
            return self.adapter.attention_norm(site.layer), self.record.attention_scale[site.layer]
        return self.adapter.mlp_norm(site.layer), self.record.mlp_scale[site.layer]

    def lorsa_pattern(self, layer: int) -> Tensor:
        """Where the QK heads of a layer's Lorsa look [g, T, T]."""
        return self._patterns[layer]

    def reading_weights(self, site: Site, features: Union[slice, Tensor]) -> Tensor:
        """How much of each position's (normed) input some features of a site read, [m, T]: an
        MLP's that of their own position, a Lorsa's what its frozen pattern says."""
        position = self.features.position[features]
        if site.kind == "mlp":
            own = self.on.new_zeros(len(position), len(self.ids))
            return own.scatter_(1, position.unsqueeze(1), 1.0)
        group = self.dictionaries.lorsas[site.layer].config.group_size
        return self._patterns[site.layer][self.features.index[features] // group, position]

    def bias_at(self, site: Site) -> Optional[Tensor]:
        """What a dictionary writes whatever it reads [d], where ``on``; None: there is none."""
        found = self.dictionaries
        if site.kind == "attention":
            return found.lorsas[site.layer].b_D if site.layer in found.lorsas else None
        if site.layer in found.transcoders:
            return found.transcoders[site.layer].b_D
        clt = found.clt
        if clt is not None and site.layer in clt.config.layers:
            return clt.tensors(clt.position(site.layer))["b_D"]
        return None

    def skip_at(self, site: Site) -> Optional[Tensor]:
        """The linear map [d, d] around a transcoder's latents, where ``on``; None: no such map."""
        transcoder = self.dictionaries.transcoders.get(site.layer) if site.kind == "mlp" else None
        return None if transcoder is None else transcoder.W_skip

    # ---- changes pushed forward ----------------------------------------------------------------

    def feature_changes(self, chosen: Tensor, factor: float = 1.0) -> list[StreamChange]:
        """Case i: ``factor`` times what feature ``chosen[i]`` writes, at every place that it
        writes to."""
        features = self.features
        case_of = torch.full((len(features),), -1, dtype=torch.long, device=chosen.device)
        case_of[chosen] = torch.arange(len(chosen), device=chosen.device)
        changes = []
        for site, writes in features.writes.items():
            for write in writes:
                case = case_of[write.features]
                mine = torch.nonzero(case >= 0).squeeze(-1)
                scale = factor * features.activation[write.features][mine]
                changes.append(
                    StreamChange(
                        site,
                        case[mine],
                        features.position[write.features][mine],
                        write.rows[mine] * scale.unsqueeze(-1),
                    )
                )
        return changes

    @torch.no_grad()
    def push(
        self,
        n: int,
        changes: Sequence[StreamChange],
        features_respond: bool,
        edits: Optional[ActivationEdit] = None,
        seen: Optional[Callable[[Site, Tensor], None]] = None,
    ) -> LinearResponse:
        """Push changes of the residual stream forward through the frozen model.

        Args:
            n: how many cases.
            changes: what is added where.
            features_respond: whether active features pass the change on (their total effect) or
                keep their activation (the direct effect, which is what an edge is).
            edits: features whose activation is held, whatever the others do.
            seen: told the change of every module's (normed) input [n, T, d], in order.
        """
        adapter, record, features = self.adapter, self.record, self.features
        resid = self.on.new_zeros(n, len(self.ids), adapter.d_model)
        response = self.on.new_zeros(n, len(features))
        moved = response if features_respond and edits is None else torch.zeros_like(response)
        # In a model with parallel residual the MLP reads what the attention read.
        parallel = adapter.parallel

        def written_at(site: Optional[Site]) -> Tensor:
            """What changes and responding features add to the stream at a module."""
            total = torch.zeros_like(resid)
            for change in changes:
                if change.site == site:
                    total.index_put_((change.case, change.position), change.rows, accumulate=True)
            if (features_respond or edits is not None) and site is not None:
                for write in features.writes.get(site, ()):
                    for here in self._pieces(write.features, n):
                        mine = slice(
                            here.start - write.features.start, here.stop - write.features.start
                        )
                        rows = moved[:, here].unsqueeze(-1) * write.rows[mine]
                        total.index_add_(1, features.position[here], rows)
            return total

        def respond(site: Site, stream: Tensor) -> Tensor:
            inputs = self._respond(site, stream, response)
            if seen is not None:
                seen(site, inputs)
            if edits is not None:
                self._hold(features.of(site), edits, response if features_respond else None, moved)
            return inputs

        resid = resid + written_at(None)
        for layer in range(adapter.n_layers):
            before = resid
            site = Site(layer, "attention")
            inputs = respond(site, before)
            if self.keeps_attention(layer):
                attended = adapter.value_output(layer).push(inputs, record.patterns[layer])
                post = adapter.attention_post_norm(layer)
                if post is not None:
                    attended = post.push(attended, record.attention_post_scale[layer])
                resid = resid + attended
            resid = resid + written_at(site)
            site = Site(layer, "mlp")
            inputs = respond(site, before if parallel else resid)
            skip = self.skip_at(site)
            if skip is not None:
                resid = resid + (inputs @ skip) * self.on.unsqueeze(-1)
            resid = resid + written_at(site)
        return LinearResponse(response, moved, resid)

    def _hold(
        self, here: slice, edits: ActivationEdit, response: Optional[Tensor], moved: Tensor
    ) -> None:
        """Fill in by how much the activations of a module's features move: by ``response``, or
        not at all where that is None, except those that ``edits`` hold."""
        if response is not None:
            moved[:, here] = response[:, here]
        mine = (edits.feature >= here.start) & (edits.feature < here.stop)
        case, feature = edits.case[mine], edits.feature[mine]
        own = self.features.activation[feature]
        now = own + moved[case, feature]
        moved[case, feature] = edits.factor[mine] * now + edits.added[mine] - own

    def _respond(self, site: Site, resid: Tensor, response: Tensor) -> Tensor:
        """The change of a module's (normed) input [n, T, d]; fills in what its features make of
        it."""
        norm, scale = self.norm_at(site)
        inputs = norm.push(resid, scale)
        response[:, self.features.of(site)] = self.read_by_features(site, inputs)
        return inputs

    def read_by_features(self, site: Site, inputs: Tensor) -> Tensor:
        """What the active features of a module read [n, m], without their biases, of its (normed)
        inputs [n, T, d]; a Lorsa's by its frozen pattern."""
        features, whole = self.features, self.features.of(site)
        read = inputs.new_empty(len(inputs), whole.stop - whole.start)
        for here in self._pieces(whole, len(inputs)):
            encoder = features.encoder[here]
            if site.kind == "mlp":
                own = inputs[:, features.position[here]]
                part = torch.einsum("nmd,md->nm", own, encoder)
            else:
                weights = self.reading_weights(site, here)
                part = torch.einsum("ntm,mt->nm", inputs @ encoder.T, weights)
            read[:, here.start - whole.start : here.stop - whole.start] = part
        return read

    def _pieces(self, features: slice, n: int) -> Iterator[slice]:
        """Neighbouring features, some at a time: what each reads or writes in each of n cases is in
        memory at once."""
        size = max(self.adapter.d_model, len(self.ids)) * max(1, n)
        step = max(1, min(_PIECE, _PIECE_VALUES // size))
        for start in range(features.start, features.stop, step):
            yield slice(start, min(start + step, features.stop))

    def logit_directions(self, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Directions [k, d] after the final norm that read ``logit - mean logit``, and biases [k].

        The mean over the vocabulary is taken out because a softmax does not see it. For a family
        that caps its logits these are the values before the cap.
        """
        weight, bias = self.adapter.unembedding()
        chosen = torch.as_tensor(list(tokens), device=weight.device)
        directions = weight[chosen] - weight.mean(0)
        if bias is None:
            return directions, directions.new_zeros(len(chosen))
        return directions, bias[chosen] - bias.mean()


class CompleteReplacementModel:
    """A loaded model together with the dictionaries that replace its modules.

    Tracing needs float32, so a model held in another type is copied. ``fingerprint`` identifies the
    dictionaries' weights, "" where they come from no folder.

    Raises:
        UnfoldedDictionaryError: a dictionary still expects scaled activations.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        dictionaries: DictionarySet,
        name: str = "in memory",
        fingerprint: str = "",
    ) -> None:
        self.loaded = loaded
        self.name = name
        self.fingerprint = fingerprint
        self.adapter = (
            loaded.adapter
            if loaded.adapter.dtype == torch.float32
            else loaded.copy_in(torch.float32)
        )
        for site in dictionaries.unfolded:
            raise UnfoldedDictionaryError(
                f"The dictionary of {site} cannot be used for tracing",
                "it still expects the scaled activations that it was trained on",
                "fold it first (Transcoder.fold) or save it with save_crm, which does",
            )
        self.dictionaries = dictionaries.placed(self.adapter.device)

    @classmethod
    def from_folder(
        cls, loaded: LoadedModel, folder: Path, ctx: Optional[WorkContext] = None
    ) -> CompleteReplacementModel:
        """Open a saved CRM for a loaded model.

        Raises:
            CRMFormatError: a file is missing, damaged or not what the manifest says.
            CRMMismatchError: the CRM was trained for another model.
        """
        from attention_studio.core.dictionaries.crm_folder import load_crm

        if ctx is not None:
            ctx.progress(0, None, f"Opening {Path(folder).name}")
        crm = load_crm(Path(folder), expected=loaded.info, ctx=ctx)
        return cls(loaded, crm.dictionaries, Path(folder).name, crm.manifest.fingerprint)

    @property
    def dictionaries_id(self) -> DictionariesId:
        """What tells its dictionaries from others."""
        return DictionariesId(self.name, self.fingerprint)

    @property
    def transcoders(self) -> Mapping[int, Transcoder]:
        """The per-layer transcoders by layer."""
        return self.dictionaries.transcoders

    @property
    def sites(self) -> tuple[Site, ...]:
        """The modules that have a dictionary."""
        return self.dictionaries.sites

    def localize(self, ids: Sequence[int]) -> LocalModel:
        """Run the model on token ids [T] and freeze it there.

        Raises:
            PromptTooLongError: memory has no room for what is kept of the pass.
            CRMFormatError: a cross-layer transcoder writes what is not finite.
        """
        self._check_memory(len(ids))
        return LocalModel(self.adapter, self.dictionaries, ids, self.adapter.record(ids))

    def _check_memory(self, n_tokens: int) -> None:
        adapter, dictionaries = self.adapter, self.dictionaries
        width = adapter.d_model
        # What hooks see is stacked while the pass still holds it; features are joined likewise.
        record = adapter.n_layers * n_tokens * (6 * width + adapter.n_heads * n_tokens)
        lorsas = dictionaries.lorsas.values()
        record += sum(lorsa.config.n_qk_heads for lorsa in lorsas) * n_tokens**2
        record += len(lorsas) * n_tokens * width
        # Where settings do not tell how many latents will be active, ``freeze_dictionaries``
        # counts them before it takes room.
        rows = 0
        for site in dictionaries.sites:
            active = dictionaries.config_at(site)[1] or 0
            rows += 3 * active
            if site.kind == "mlp" and site.layer not in dictionaries.transcoders:
                clt = dictionaries.clt
                assert clt is not None  # else the MLP would have no dictionary
                # Each of a latent's decoder rows is kept, for all the layers that it writes to.
                rows += (len(clt.config.layers) - clt.position(site.layer)) * active
        needed = 4 * (record + max(record, width * rows * n_tokens))
        free = free_bytes(adapter.device)
        if needed > free:
            raise PromptTooLongError(
                f"The prompt has {n_tokens:,} tokens",
                f"what is kept of their pass, attention patterns and active features, takes about "
                f"{needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are free",
                "Shorten it or close other programs",
            )
