"""A language model with dictionaries in place of its MLPs, and its local linear form on a prompt.

Where a dictionary stands in, the module's output is written as ``prediction + error`` with
``error = output - prediction``, so the forward pass is the model's own, exactly. Freezing the
attention patterns, the norm denominators, the errors and which latents are active makes everything
between a source's write and a target's read linear (Ameisen et al. 2025, "Circuit Tracing").
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import torch
from torch import Tensor

from attention_studio.core.dictionaries.transcoder import Transcoder, UnfoldedDictionaryError
from attention_studio.core.host_memory import GIB
from attention_studio.core.loaded_model import PromptTooLongError, free_bytes
from attention_studio.core.model_adapter import ForwardRecord, ModelAdapter
from attention_studio.utils.progress import WorkContext

if TYPE_CHECKING:
    from attention_studio.core.model_manager import LoadedModel

N_LEFT_OUT = 1
"""Dictionaries are off at the first position: it is an attention sink of huge norm."""


@dataclass(frozen=True)
class ActiveFeatures:
    """The active latents of one prompt, sorted by layer, position and latent.

    ``layer``, ``position``, ``index`` [n] int64; ``activation`` [n]; ``encoder`` and ``decoder``
    [n, d]; ``encoder_bias`` [n]. ``offsets`` [L + 1]: layer l is ``offsets[l]:offsets[l + 1]``.
    """

    layer: Tensor
    position: Tensor
    index: Tensor
    activation: Tensor
    encoder: Tensor
    decoder: Tensor
    encoder_bias: Tensor
    offsets: tuple[int, ...]

    def __len__(self) -> int:
        return int(self.layer.shape[0])

    def of_layer(self, layer: int) -> slice:
        """Where the features of one layer are."""
        return slice(self.offsets[layer], self.offsets[layer + 1])


@dataclass(frozen=True)
class LinearResponse:
    """What a change of the residual stream does under the freezes.

    ``features`` [n, n_features]: change of each active feature's pre-activation;
    ``resid_final`` [n, T, d]: change of the final residual stream.
    """

    features: Tensor
    resid_final: Tensor


class LocalModel:
    """The local linear model of one prompt of T tokens.

    Attributes:
        ids: token ids [T].
        record: the forward pass that was frozen.
        features: the active features.
        errors: what the dictionaries miss [L, T, d]; the module's whole output where they are off.
        replaced: [L, T] bool, where a dictionary stands in.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        transcoders: Mapping[int, Transcoder],
        ids: Sequence[int],
        record: ForwardRecord,
    ) -> None:
        self.adapter = adapter
        self.transcoders = transcoders
        self.ids = list(ids)
        self.record = record
        n_layers, length, _ = record.mlp_out.shape
        self.replaced = torch.zeros(n_layers, length, dtype=torch.bool, device=adapter.device)
        self.errors = record.mlp_out.clone()
        self.features = self._find_features()

    @torch.no_grad()
    def _find_features(self) -> ActiveFeatures:
        parts: dict[str, list[Tensor]] = {
            name: []
            for name in ("layer", "position", "index", "activation", "encoder", "decoder", "bias")
        }
        offsets = [0]
        for layer in range(self.adapter.n_layers):
            transcoder = self.transcoders.get(layer)
            found = 0
            if transcoder is not None:
                inputs = self.record.mlp_in[layer, N_LEFT_OUT:]
                self.replaced[layer, N_LEFT_OUT:] = True
                latents = transcoder.encode_sparse(inputs)
                self.errors[layer, N_LEFT_OUT:] -= transcoder.decode_sparse(
                    latents, len(inputs), inputs
                )
                parts["layer"].append(torch.full_like(latents.latent, layer))
                parts["position"].append(latents.token + N_LEFT_OUT)
                parts["index"].append(latents.latent)
                parts["activation"].append(latents.value)
                parts["encoder"].append(transcoder.W_E[latents.latent])
                parts["decoder"].append(transcoder.W_D[latents.latent])
                parts["bias"].append(transcoder.b_E[latents.latent])
                found = len(latents.value)
            offsets.append(offsets[-1] + found)
        empty = self._no_features()
        # Popped, so that the parts of one column are gone before the next is joined.
        joined = {name: torch.cat([empty[name], *parts.pop(name)]) for name in list(parts)}
        return ActiveFeatures(
            layer=joined["layer"],
            position=joined["position"],
            index=joined["index"],
            activation=joined["activation"],
            encoder=joined["encoder"],
            decoder=joined["decoder"],
            encoder_bias=joined["bias"],
            offsets=tuple(offsets),
        )

    def _no_features(self) -> dict[str, Tensor]:
        """Columns of length zero, so that a model with no dictionaries localizes too."""
        like = self.errors
        whole = torch.zeros(0, dtype=torch.long, device=like.device)
        return {
            "layer": whole,
            "position": whole,
            "index": whole,
            "activation": like.new_zeros(0),
            "encoder": like.new_zeros(0, like.shape[-1]),
            "decoder": like.new_zeros(0, like.shape[-1]),
            "bias": like.new_zeros(0),
        }

    @torch.no_grad()
    def push(
        self, layers: Tensor, positions: Tensor, changes: Tensor, features_respond: bool
    ) -> LinearResponse:
        """Push changes of the residual stream forward through the frozen model.

        Args:
            layers: [n] the layer after whose MLP each change is written; -1: the embedding.
            positions: [n] where it is written.
            changes: [n, d] what is written.
            features_respond: whether active features pass the change on (their total effect) or
                keep their activation (the direct effect, which is what an edge is).
        """
        adapter, record, features = self.adapter, self.record, self.features
        n, length = changes.shape[0], len(self.ids)
        rows = torch.arange(n, device=changes.device)
        resid = changes.new_zeros(n, length, changes.shape[1])
        response = changes.new_zeros(n, len(features))

        def write(layer: int) -> None:
            here = layers == layer
            resid[rows[here], positions[here]] += changes[here]

        write(-1)
        for layer in range(adapter.n_layers):
            before = resid
            normed = adapter.attention_norm(layer).push(resid, record.attention_scale[layer])
            attended = adapter.value_output(layer).push(normed, record.patterns[layer])
            post = adapter.attention_post_norm(layer)
            if post is not None:
                attended = post.push(attended, record.attention_post_scale[layer])
            resid = resid + attended
            read = before if adapter.parallel else resid
            inputs = adapter.mlp_norm(layer).push(read, record.mlp_scale[layer])
            here = features.of_layer(layer)
            position = features.position[here]
            change = (inputs[:, position] * features.encoder[here]).sum(-1)
            response[:, here] = change
            transcoder = self.transcoders.get(layer)
            if transcoder is not None and transcoder.W_skip is not None:
                resid = resid + (inputs @ transcoder.W_skip) * self.replaced[layer].unsqueeze(-1)
            if features_respond:
                written = change.unsqueeze(-1) * features.decoder[here]
                resid = resid.index_add(1, position, written)
            write(layer)
        return LinearResponse(response, resid)

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

    Tracing needs float32, so a model held in another type is copied.

    Raises:
        UnfoldedDictionaryError: a dictionary still expects scaled activations.
    """

    def __init__(
        self, loaded: LoadedModel, transcoders: Mapping[int, Transcoder], name: str = "in memory"
    ) -> None:
        self.loaded = loaded
        self.name = name
        self.adapter = (
            loaded.adapter
            if loaded.adapter.dtype == torch.float32
            else loaded.copy_in(torch.float32)
        )
        for layer, transcoder in transcoders.items():
            if not transcoder.is_folded:
                raise UnfoldedDictionaryError(
                    f"The dictionary of layer {layer} cannot be used for tracing",
                    "it still expects the scaled activations that it was trained on",
                    "fold it first (Transcoder.fold) or save it with save_crm, which does",
                )
        device = self.adapter.device
        self.transcoders = {
            layer: _placed(transcoders[layer], device) for layer in sorted(transcoders)
        }

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
        crm = load_crm(Path(folder), expected=loaded.info)
        return cls(loaded, crm.transcoders, name=Path(folder).name)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose MLP has a dictionary."""
        return tuple(self.transcoders)

    def localize(self, ids: Sequence[int]) -> LocalModel:
        """Run the model on token ids [T] and freeze it there.

        Raises:
            PromptTooLongError: memory has no room for what is kept of the pass.
        """
        self._check_memory(len(ids))
        return LocalModel(self.adapter, self.transcoders, ids, self.adapter.record(ids))

    def _check_memory(self, n_tokens: int) -> None:
        adapter = self.adapter
        width = adapter.d_model
        # What hooks see is stacked while the pass still holds it; features are joined likewise.
        record = adapter.n_layers * n_tokens * (6 * width + adapter.n_heads * n_tokens)
        active = n_tokens * sum(t.config.k for t in self.transcoders.values())
        needed = 4 * (record + max(record, 3 * width * active))
        free = free_bytes(adapter.device)
        if needed > free:
            raise PromptTooLongError(
                f"The prompt has {n_tokens:,} tokens",
                f"what is kept of their pass, attention patterns and active features, takes about "
                f"{needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are free",
                "Shorten it or close other programs",
            )


def _placed(transcoder: Transcoder, device: torch.device) -> Transcoder:
    """The transcoder in float32 on ``device``: itself if it is there, else a copy, because
    ``Module.to`` would move the caller's."""
    weights = transcoder.W_E
    if weights.device == device and weights.dtype == torch.float32:
        return transcoder
    return copy.deepcopy(transcoder).to(device, torch.float32)
