"""The files of a cross-layer transcoder: one per layer, ``clt_03.safetensors``, scales folded in.

The decoders of a large one do not fit in memory. They are written a target at a time, and read
through a memory map: loading hashes the files piece by piece and keeps the encoders, and of the
decoders only what is used later comes into memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional

import safetensors
import torch
from torch import Tensor

from attention_studio.core.dictionaries.clt import (
    CrossLayerTranscoder,
    CrossLayerTranscoderConfig,
)
from attention_studio.core.dictionaries.tensor_files import (
    CRMFormatError,
    check_hash,
    check_safetensors_header,
    check_values,
)
from attention_studio.utils.progress import WorkContext


def clt_file(layer: int) -> str:
    """The name of a layer's file within the folder."""
    return f"clt_{layer:02d}.safetensors"


def write_clt_layer(path: Path, clt: CrossLayerTranscoder, i: int) -> None:
    """Write position ``i``, folded, with no more than one target's decoder in memory.

    The transcoder itself stays as it is. ``path`` is meant to be a temporary one that
    ``utils.files.atomic_write`` gave.

    Raises:
        OSError: it cannot be written.
    """
    shapes = clt.config.tensor_shapes(i)
    header, position = {}, 0
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)  # data that begins on a word can be mapped as it is
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in shapes:
            for part in _folded(clt, i, name):
                # The format is little-endian, as is every machine that torch runs on.
                stream.write(part.to("cpu", torch.float32).contiguous().numpy().data)


def load_clt(
    config: CrossLayerTranscoderConfig,
    files: Mapping[int, Path],
    hashes: Mapping[int, str],
    ctx: Optional[WorkContext] = None,
) -> CrossLayerTranscoder:
    """Open a saved transcoder; its decoders stay on the disk until they are used.

    Files are compared with their hashes. Encoders, biases and thresholds are read and checked; of
    the decoders the shape is, and rows are where they are used (``freeze_dictionaries``). The
    files must stay in place as long as the transcoder is in use.

    Args:
        config: what the manifest says it is.
        files: by layer.
        hashes: their SHA-256 by layer, as the manifest has them.
        ctx: a way to cancel, while files are hashed.

    Raises:
        CRMFormatError: a file is missing, damaged or another one; names file and tensor.
        UnfoldedDictionaryError: it still needs its training scales.
        Cancelled: through ``ctx``.
    """
    found: list[dict[str, Tensor]] = []
    for i, layer in enumerate(config.layers):
        path = files[layer]
        if not path.is_file():
            raise CRMFormatError(
                f"{path} is missing", "the manifest names it", "Restore the file or train again"
            )
        check_safetensors_header(path, config.tensor_shapes(i))
        check_hash(path, hashes[layer], ctx)
        try:
            with safetensors.safe_open(path, framework="pt") as stream:
                # Mapped, all of them: nothing is read before it is looked at (but for 16-bit
                # numbers, which are converted at once).
                names = config.tensor_shapes(i)
                tensors = {name: stream.get_tensor(name).float() for name in names}
        except (safetensors.SafetensorError, OSError) as error:
            raise CRMFormatError(f"{path} cannot be read", str(error)) from error
        check_values(path, {name: t for name, t in tensors.items() if name != "W_D"})
        found.append(tensors)
    clt = CrossLayerTranscoder(config, [tensors["W_D"] for tensors in found])
    for i, tensors in enumerate(found):
        clt.W_E[i] = torch.nn.Parameter(tensors["W_E"], requires_grad=False)
        for name, target in clt.tensors(i).items():
            if name not in ("W_E", "W_D"):
                target.copy_(tensors[name])
    return clt


def _folded(clt: CrossLayerTranscoder, i: int, name: str) -> Iterator[Tensor]:
    """A tensor of position ``i`` as ``CrossLayerTranscoder.fold`` would leave it, in pieces."""
    tensor = clt.tensors(i)[name]
    if name == "W_E":
        yield tensor * clt.input_scale[i]
    elif name == "W_D":
        for t, decoder in enumerate(tensor):
            yield decoder / clt.output_scale[i + t]
    elif name == "b_D":
        yield tensor / clt.output_scale[i]
    elif name in ("input_scale", "output_scale"):
        yield torch.ones_like(tensor)
    else:
        yield tensor
