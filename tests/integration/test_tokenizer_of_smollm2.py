"""The tokenizer of the real SmolLM2, read in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from transformers import AutoTokenizer

from attention_studio.core.model_manager import ModelManager

if TYPE_CHECKING:
    from attention_studio.core.loaded_model import LoadedModel

pytestmark = pytest.mark.integration

TEXTS = (
    "Hello,  world\n\t",
    "<|im_start|>user\nna\u00efve caf\u00e9 \U00012000<|im_end|>",
    "x = 1e-5  # <file_sep>\r\n",
    "\u65e5\u672c\u8a9e and \u0440\u0443\u0441\u0441\u043a\u0438\u0439",
)


def test_it_is_the_one_that_transformers_reads(smollm2: LoadedModel) -> None:
    folder = ModelManager().fetch("smollm2-135m")
    ours, theirs = smollm2.tokenizer, AutoTokenizer.from_pretrained(str(folder))
    assert type(ours) is type(theirs)
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.added_tokens_decoder == theirs.added_tokens_decoder
    assert ours.chat_template == theirs.chat_template
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours(text)["input_ids"] == ids
        assert ours.decode(ids) == theirs.decode(ids)
