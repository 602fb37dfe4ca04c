"""What lanes run for the Attention and Lens docks; see ``ui.work`` for the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from attention_studio.core.attention_records import AttentionView
    from attention_studio.core.lens_records import LensTable, PatchOutcome, PatchSet
    from attention_studio.core.loaded_model import LoadedModel
    from attention_studio.core.replacement_model import CompleteReplacementModel
    from attention_studio.utils.progress import WorkContext


def look_at_heads(
    ctx: WorkContext, model: LoadedModel, crm: Optional[CompleteReplacementModel], prompt: str
) -> AttentionView:
    """Where all heads look on a prompt."""
    from attention_studio.core.attention_heads import view_attention

    return view_attention(model, prompt, crm, ctx)


def read_stream(ctx: WorkContext, model: LoadedModel, prompt: str) -> LensTable:
    """What the residual stream of a prompt would predict."""
    from attention_studio.core.logit_lens import read_lens

    return read_lens(model, prompt, ctx=ctx)


def patch_stream(ctx: WorkContext, model: LoadedModel, patches: PatchSet) -> PatchOutcome:
    """What comes of patches."""
    from attention_studio.core.logit_lens import apply_patches

    return apply_patches(model, patches, ctx=ctx)
