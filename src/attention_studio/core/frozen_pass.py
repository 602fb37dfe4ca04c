"""Real passes in which attention patterns and norm denominators are those of a recorded one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Optional

from torch import Tensor, nn

from attention_studio.core.linear_parts import FrozenNorm
from attention_studio.core.model_adapter import ForwardRecord, ModelAdapter


class FrozenPass:
    """Freezes layers of a model to a recorded pass over T tokens.

    Passes run over copies of those tokens, with any number of tokens after them, in one piece or
    (with a cache of keys and values) the tokens after them later. Only what is computed for the T
    tokens is frozen.

    Attributes:
        start: position of the first token of the pass that runs next.
    """

    def __init__(self, adapter: ModelAdapter, record: ForwardRecord, layers: Iterable[int]) -> None:
        self._adapter = adapter
        self._record = record
        self._layers = tuple(layers)
        self._length = len(record.final_scale)
        self._inputs: dict[int, Tensor] = {}
        self.start = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block passes are frozen. Enter it before hooks that read what is frozen."""
        adapter, record = self._adapter, self._record
        handles: list[Any] = []

        def hook(module: Optional[nn.Module], function: Callable[..., Any]) -> None:
            if module is not None:
                handles.append(module.register_forward_hook(function))

        try:
            for layer in self._layers:
                before = adapter.layer_module(layer, "attention_norm")
                norm = adapter.attention_norm(layer)
                hook(before, self._norm(norm, record.attention_scale[layer], layer))
                hook(adapter.layer_module(layer, "attention"), self._attention(layer))
                post = adapter.attention_post_norm(layer)
                if post is not None:
                    after = adapter.layer_module(layer, "attention_post_norm")
                    hook(after, self._norm(post, record.attention_post_scale[layer]))
                mlp = adapter.layer_module(layer, "mlp_norm")
                hook(mlp, self._norm(adapter.mlp_norm(layer), record.mlp_scale[layer]))
            if adapter.n_layers - 1 in self._layers:
                final = self._norm(adapter.final_norm(), record.final_scale)
                hook(adapter.final_norm_module(), final)
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._inputs.clear()

    def _norm(
        self, norm: FrozenNorm, scale: Tensor, layer: Optional[int] = None
    ) -> Callable[..., Optional[Tensor]]:
        """Puts frozen denominators into a norm; keeps what the attention of ``layer`` reads."""

        def function(_module: Any, args: Any, output: Tensor) -> Optional[Tensor]:
            n = self._frozen_tokens(output)
            if n <= 0:
                return None
            frozen = output.clone()
            here = norm.apply(args[0][:, :n].to(scale.device), scale[self.start : self.start + n])
            frozen[:, :n] = here
            if layer is not None:
                self._inputs[layer] = here
            return frozen

        return function

    def _attention(self, layer: int) -> Callable[..., Any]:
        """Lets the attention of a layer move what it reads along its recorded pattern."""

        def function(_module: Any, _args: Any, output: Any) -> Any:
            own = output[0] if isinstance(output, tuple) else output
            n = self._frozen_tokens(own)
            if n <= 0:
                return None
            weights = self._adapter.value_output(layer)
            attended = own.clone()
            attended[:, :n] = weights.apply(self._inputs.pop(layer), self._record.patterns[layer])
            return (attended, *output[1:]) if isinstance(output, tuple) else attended

        return function

    def _frozen_tokens(self, output: Tensor) -> int:
        return min(output.shape[1], self._length - self.start)
