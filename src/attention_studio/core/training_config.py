"""The settings of a training run and the schedules that follow from them.

Everything that decides the trained weights is in here, and nothing in here depends on time: the
same settings, model and text give the same weights wherever and however often the run is driven.
No torch here, so that the window can use it freely.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from attention_studio.core.dictionaries.clt_config import CrossLayerTranscoderConfig
from attention_studio.core.dictionaries.transcoder_config import (
    MAX_D_LATENT,
    ActivationKind,
    TranscoderConfig,
    check_selection,
)
from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError

HarvestDtype = Literal["auto", "float32", "bfloat16"]
SelectionDtype = Literal["auto", "float32", "bfloat16"]
Store = Literal["auto", "memory", "disk"]
EncoderInit = Literal["samples", "random"]

RESULT_FREE_FIELDS = frozenset(
    {"eval_every", "checkpoint_every", "buffer", "clt_store", "parallel"}
)
"""Settings that a resumed run may change, because the weights do not depend on them. (Where batches
are divided among processes they do in the last bits; the run's identity says so elsewhere.)"""

_CHUNK_ELEMENTS = 1_200_000
_MAX_TOKEN_CHUNK = 256
_MIN_TOKEN_CHUNK = 16


class TrainSettingsError(StudioError):
    """Settings that do not fit together, or not the model or the text."""


class TrainConfig(BaseModel):
    """Settings of one run, which trains dictionaries for any MLPs and attention blocks at once.

    Attributes:
        layers: layers whose MLPs are replaced, ascending; none: only attention is.
        mlp: what replaces them: a transcoder each, or one cross-layer transcoder for all.
        attention_layers: layers whose attention a Lorsa replaces, ascending.
        d_latent: latents per transcoder, or per layer of a cross-layer one.
        attention_latents: latents of each Lorsa, a multiple of its QK heads.
        attention_k: active latents per token of each Lorsa.
        qk_heads: QK heads of each Lorsa; None: as many as the model has heads.
        qk_rate: the learning rate of a Lorsa's QK heads, as a share of the others'; 0 keeps them
            as the model's, which in short runs is as good and saves a third of the time.
        norm_aware: whether transcoders with TopK or BatchTopK rank latents by what they would
            write, activation times the length of the decoder row, instead of by activation. A
            cross-layer transcoder's rows to all layers count as one.
        attention_norm_aware: the same for Lorsas, where it was measured to help.
        activation: sparse activation function.
        k: active latents per token that the run aims at (see ``TranscoderConfig.k``).
        skip: train with a skip connection.
        init: how the decoder starts. ``zero``: at zero. ``response``: each row is the mean linear
            response of the MLP to its encoder direction. With ``skip`` the skip connection takes
            the whole linear response and the decoder starts at zero.
        encoder_init: how the encoder of an MLP's dictionary starts. ``samples``: each latent at
            one of the first activations. ``random``: anywhere, which wastes latents on directions
            that hardly occur and reaches less.
        tokens: activations to train on, per layer; text is passed over again when it is shorter.
        batch_tokens: activations per step.
        learning_rate: peak rate of Adam, on activations scaled to unit variance per coordinate.
        warmup_steps: steps over which the rate rises from zero.
        cooldown_fraction: last share of the run over which the rate falls to zero.
        adam_beta1, adam_beta2, adam_eps: Adam (Kingma & Ba 2015).
        decay: weight decay of encoder and decoder of transcoders with TopK or BatchTopK; Lorsas
            and cross-layer transcoders have none. In time constants per run: at the peak rate
            throughout and without a gradient, weights would shrink to ``exp(−decay)``. Counted
            so, and not by the step, a good value is one for runs of any length (Wang & Aitchison
            2024, arXiv 2405.13698). Less than the run has steps. 0: none.
        clip_norm: largest norm of a layer's whole gradient; a cross-layer transcoder clips each
            decoder and each encoder by itself. None leaves gradients as they are.
        k_start: active latents at the start, annealed linearly to ``k``; None: no annealing.
        k_anneal_fraction: share of the run over which ``k_start`` becomes ``k``.
        auxk_coefficient: weight of the loss that revives dead latents (Gao et al. 2024); 0: off.
        auxk: dead latents per token that take part; None: half of d_model.
        dead_after_tokens: a latent silent for so many tokens counts as dead.
        l1_coefficient: ReLU only. Weight of Σ f·‖decoder row‖, in units of √d_model.
        l0_coefficient: JumpReLU only. The share of the output's variance that one more active
            latent has to explain.
        sparsity_warmup_fraction: share of the run over which either coefficient rises from zero.
        jumprelu_bandwidth: width of the rectangle kernel, in units of a pre-activation's spread.
        seed: of the initial weights and of the order of the text.
        seq_len: tokens per sequence, the left-out first one included.
        block_tokens: activations harvested at once and shuffled together.
        buffer: where harvested blocks are kept; ``auto`` is on disk when they would take more
            than half of the free memory.
        clt_store: where a cross-layer transcoder's decoders and their moments are kept while they
            are trained; ``auto`` as for ``buffer``.
        harvest_batch: sequences per forward pass of the model.
        harvest_dtype: ``auto`` is bfloat16 where the processor has instructions for it.
        selection_dtype: in which TopK and BatchTopK rank latents during training; values and
            gradients are float32 either way. ``auto`` is bfloat16 on CUDA and where the processor
            has instructions for it.
        token_chunk: tokens per micro-step, and BatchTopK's selection group; None: 256, or fewer
            for wide dictionaries.
        row_chunk: latents per micro-step of the weight gradients.
        heldout_tokens: held-out activations per evaluation.
        downstream_tokens: held-out tokens on which the model's own loss is measured; 0: not.
        eval_every: steps between evaluations; None: eight in a run, but never closer than ten
            steps, for an evaluation costs about as much as five.
        checkpoint_every: steps between checkpoints.
        parallel: how several processes share a run (see ``core.division``). ``layers``: each has
            some of the modules. ``data``: each has a part of every batch. One process alone does
            the same either way.
        device: ``auto`` is the model's device, or the CPU where that is MPS, whose training is
            not reliable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[int, ...] = ()
    mlp: Literal["transcoder", "clt"] = "transcoder"
    attention_layers: tuple[int, ...] = ()
    d_latent: int = Field(default=4608, ge=1, le=MAX_D_LATENT)
    attention_latents: int = Field(default=4608, ge=1, le=MAX_D_LATENT)
    attention_k: int = Field(default=32, ge=1)
    qk_heads: Optional[int] = Field(default=None, ge=1)
    qk_rate: float = Field(default=0.0, ge=0)
    norm_aware: bool = False
    attention_norm_aware: bool = True
    activation: ActivationKind = "topk"
    k: int = Field(default=32, ge=1)
    skip: bool = False
    init: Literal["zero", "response"] = "zero"
    encoder_init: EncoderInit = "samples"
    tokens: int = Field(default=1_000_000, ge=1)
    batch_tokens: int = Field(default=2048, ge=1)
    learning_rate: float = Field(default=4e-3, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    cooldown_fraction: float = Field(default=0.2, ge=0, le=1)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_eps: float = Field(default=1e-8, gt=0)
    decay: float = Field(default=0.5, ge=0)
    clip_norm: Optional[float] = Field(default=1.0, gt=0)
    k_start: Optional[int] = Field(default=None, ge=1)
    k_anneal_fraction: float = Field(default=0.1, ge=0, le=1)
    auxk_coefficient: float = Field(default=1 / 32, ge=0)
    auxk: Optional[int] = Field(default=None, ge=1)
    dead_after_tokens: int = Field(default=50_000, ge=1)
    l1_coefficient: float = Field(default=0.05, ge=0)
    l0_coefficient: float = Field(default=1.5e-3, ge=0)
    sparsity_warmup_fraction: float = Field(default=0.2, ge=0, le=1)
    jumprelu_bandwidth: float = Field(default=0.2, gt=0)
    seed: int = Field(default=0, ge=0)
    seq_len: int = Field(default=128, ge=2)
    block_tokens: int = Field(default=16_384, ge=1)
    buffer: Store = "auto"
    clt_store: Store = "auto"
    harvest_batch: int = Field(default=8, ge=1)
    harvest_dtype: HarvestDtype = "auto"
    selection_dtype: SelectionDtype = "auto"
    token_chunk: Optional[int] = Field(default=None, ge=1)
    row_chunk: int = Field(default=512, ge=1)
    heldout_tokens: int = Field(default=4096, ge=1)
    downstream_tokens: int = Field(default=1024, ge=0)
    eval_every: Optional[int] = Field(default=None, ge=1)
    checkpoint_every: int = Field(default=50, ge=1)
    parallel: Literal["data", "layers"] = "layers"
    device: str = "auto"

    @field_validator("layers", "attention_layers")
    @classmethod
    def _layers_ascend(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if (layers and layers[0] < 0) or any(a >= b for a, b in pairwise(layers)):
            raise ValueError("layers must be ascending, each named once, and not negative")
        return layers

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if not self.layers and not self.attention_layers:
            raise ValueError("at least one layer is needed")
        if self.mlp == "clt" and self.skip:
            raise ValueError("a cross-layer transcoder has no skip connection")
        if self.attention_layers and self.attention_k > self.attention_latents:
            raise ValueError(
                f"attention_k = {self.attention_k} exceeds attention_latents = "
                f"{self.attention_latents}"
            )
        widest = max(self.k, self.k_start or self.k)
        check_selection(self.activation, widest, self.d_latent, self.norm_aware)
        if self.tokens < self.batch_tokens:
            raise ValueError(f"tokens = {self.tokens} is less than one batch ({self.batch_tokens})")
        if self.decay >= self.total_steps:
            # A step at the peak rate multiplies weights by 1 − decay/total_steps.
            raise ValueError(
                f"decay = {self.decay:g} is not less than the run's {self.total_steps} steps"
            )
        if self.block_tokens < self.batch_tokens:
            raise ValueError(
                f"block_tokens = {self.block_tokens} is less than one batch ({self.batch_tokens})"
            )
        return self

    @property
    def sites(self) -> tuple[Site, ...]:
        """The modules that get a dictionary, in order of the forward pass."""
        found = [Site(layer, "mlp") for layer in self.layers]
        return tuple(sorted(found + [Site(layer, "attention") for layer in self.attention_layers]))

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.tokens // self.batch_tokens

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations."""
        return self.eval_every or max(10, self.total_steps // 8)

    @property
    def chunk_tokens(self) -> int:
        """Tokens per micro-step of a transcoder."""
        return self._chunk(self.d_latent)

    @property
    def attention_chunk_tokens(self) -> int:
        """Tokens per micro-step of a Lorsa."""
        return self._chunk(self.attention_latents)

    def _chunk(self, latents: int) -> int:
        if self.token_chunk is not None:
            return min(self.token_chunk, self.batch_tokens)
        # A power of two such that one chunk's pre-activations stay near a million numbers.
        chunk = _MAX_TOKEN_CHUNK
        while chunk > _MIN_TOKEN_CHUNK and chunk * latents > _CHUNK_ELEMENTS:
            chunk //= 2
        return min(chunk, self.batch_tokens)

    def latents_at(self, site: Site) -> int:
        """Latents of a module's dictionary."""
        return self.attention_latents if site.kind == "attention" else self.d_latent

    def attention_settings(self, settings: StepSettings) -> StepSettings:
        """``step_settings`` for a Lorsa: k is annealed in the same proportion."""
        k = max(1, round(settings.k * self.attention_k / self.k))
        return replace(
            settings, k=min(k, self.attention_latents), token_chunk=self.attention_chunk_tokens
        )

    def transcoder(self, d_model: int) -> TranscoderConfig:
        """The configuration of the transcoders that this run makes."""
        return TranscoderConfig(
            d_model=d_model,
            d_latent=self.d_latent,
            activation=self.activation,
            k=self.k,
            skip=self.skip,
            norm_aware=self.norm_aware,
        )

    def clt(self, d_model: int) -> CrossLayerTranscoderConfig:
        """The configuration of the cross-layer transcoder that this run makes."""
        return CrossLayerTranscoderConfig(
            d_model=d_model,
            layers=self.layers,
            d_latent=self.d_latent,
            activation=self.activation,
            k=self.k,
            norm_aware=self.norm_aware,
        )

    def step_settings(self, step: int, d_model: int) -> StepSettings:
        """Everything that step ``step`` (from 0) does differently from the others."""
        sparsity = min(1.0, _share(step, self.sparsity_warmup_fraction * self.total_steps))
        decay = self.decay if self.activation in ("topk", "batchtopk") else 0.0
        return StepSettings(
            learning_rate=learning_rate_at(self, step),
            k=k_at(self, step),
            l1=self.l1_coefficient * d_model**0.5 * sparsity,
            l0=self.l0_coefficient * d_model * sparsity,
            bandwidth=self.jumprelu_bandwidth,
            auxk=self.auxk or max(1, d_model // 2),
            auxk_coefficient=self.auxk_coefficient,
            dead_after_tokens=self.dead_after_tokens,
            clip_norm=self.clip_norm,
            beta1=self.adam_beta1,
            beta2=self.adam_beta2,
            eps=self.adam_eps,
            token_chunk=self.chunk_tokens,
            row_chunk=self.row_chunk,
            qk_rate=self.qk_rate,
            weight_decay=decay / (self.learning_rate * self.total_steps),
        )


@dataclass(frozen=True)
class StepSettings:
    """The numbers one optimizer step works with. Coefficients are those of the loss itself, on
    scaled activations; everything else as in ``TrainConfig``."""

    learning_rate: float
    k: int
    l1: float
    l0: float
    bandwidth: float
    auxk: int
    auxk_coefficient: float
    dead_after_tokens: int
    clip_norm: Optional[float]
    beta1: float
    beta2: float
    eps: float
    token_chunk: int
    row_chunk: int
    qk_rate: float = 0.0
    weight_decay: float = 0.0


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """Linear warm-up over ``warmup_steps``, then constant, then linear to zero.

    Step t (from 0) of T uses ``lr · min(1, (t+1)/warmup, (T−t)/cooldown)``, so that neither the
    first nor the last step is wasted on a rate of zero.
    """
    total = config.total_steps
    rise = _share(step + 1, config.warmup_steps)
    fall = _share(total - step, round(config.cooldown_fraction * total))
    return config.learning_rate * min(1.0, rise, fall)


def k_at(config: TrainConfig, step: int) -> int:
    """Active latents at ``step``: linear from ``k_start`` to ``k``, then ``k``."""
    if config.k_start is None:
        return config.k
    done = min(1.0, _share(step, config.k_anneal_fraction * config.total_steps))
    return round(config.k_start + (config.k - config.k_start) * done)


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 1.0
