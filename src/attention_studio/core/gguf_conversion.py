"""Turn a ``.gguf`` file into a folder of safetensors, tokenizer and config, once.

transformers needs about half a minute to take a GGUF file apart, most of it in pure Python. So it
is done in a process of its own: the window stays smooth, a cancel ends it at once, and its memory
is given back whole. Later loads read the folder in about a second.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Optional

from attention_studio.core.model_files import ModelFileError
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import FileWriteError
from attention_studio.utils.processes import run_process
from attention_studio.utils.progress import WorkContext

_MAGIC = b"GGUF"
# Beside the float32 weights, one dequantised tensor and its copy are alive at a time.
_OVERHEAD = 1.25


class ConversionError(StudioError):
    """A GGUF file could not be converted."""


def check_gguf(path: Path) -> None:
    """Look at the first bytes of ``path``.

    Raises:
        ModelFileError: it is missing or no GGUF file.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(_MAGIC))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read", error.strerror or str(error)) from error
    if magic != _MAGIC:
        raise ModelFileError(
            f"{path} is not a GGUF file", "its first bytes are wrong", "Fetch or copy it again"
        )


def convert_gguf(source: Path, folder: Path, ctx: WorkContext, available_bytes: int) -> None:
    """Write the model in ``source`` to the existing, empty ``folder``, as float32.

    Args:
        source: the ``.gguf`` file.
        folder: where config.json, model.safetensors and the tokenizer's files go.
        ctx: a cancel ends the converting process.
        available_bytes: free main memory; a model that needs more is refused.

    Raises:
        ModelFileError, ConversionError: the file is damaged, of an unknown architecture, or needs
            too much memory.
        FileWriteError: the disk is full.
        Cancelled: through ``ctx``.
    """
    check_gguf(source)
    ctx.progress(0, None, f"Converting {source.name} (once, about half a minute)")
    command = [sys.executable, "-m", __name__, str(source), str(folder), str(available_bytes)]
    result = run_process(command, ctx, env={"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""})
    if result.returncode == 0:
        return
    last = next((line for line in reversed(result.stdout.splitlines()) if line.strip()), "")
    try:
        report = json.loads(last)
    except json.JSONDecodeError:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        why = lines[-1] if lines else f"the converter ended with status {result.returncode}"
        raise ConversionError(
            f"{source.name} could not be converted", why, "Try the model's safetensors instead"
        ) from None
    error_type = FileWriteError if report["kind"] == "FileWriteError" else ConversionError
    raise error_type(report["what"], report["why"], report["todo"])


def _convert(source: Path, folder: Path, available_bytes: int) -> None:
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from attention_studio.core.tokenizer_loading import compact_tokenizer

    n_parameters = sum(int(t.n_elements) for t in gguf.GGUFReader(str(source)).tensors)
    needed = int(n_parameters * 4 * _OVERHEAD)
    if needed > available_bytes:
        raise ConversionError(
            f"{source.name} needs {needed / 2**30:.1f} GiB of memory to be converted",
            f"{available_bytes / 2**30:.1f} GiB are free",
            "Close other programs, or choose a smaller model",
        )
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(
        str(source.parent), gguf_file=source.name, dtype=torch.float32
    )
    # The weights are plain floats from here on; what notes that they once were packed would make
    # saving fail and the next load refuse them.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer.save_pretrained(str(folder))
    compact_tokenizer(folder)
    try:
        model.save_pretrained(str(folder))
    except Exception as error:
        # safetensors has no type of its own for a full disk.
        if "No space left" in str(error):
            raise FileWriteError(
                f"{folder} could not be written",
                "the disk is full",
                f"Free {n_parameters * 4 / 2**30:.1f} GiB on that disk",
            ) from error
        raise


def _main(arguments: list[str]) -> int:
    source, folder, available = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    problem: Optional[StudioError] = None
    try:
        _convert(source, folder, available)
    except StudioError as error:
        problem = error
    except Exception as error:
        # The outermost boundary of the process: transformers raises anything on a damaged file.
        problem = ConversionError(
            f"{source.name} could not be converted",
            f"{type(error).__name__}: {error}",
            "The file may be damaged or of an unknown architecture; try the model's safetensors",
        )
    if problem is None:
        return 0
    report = {"kind": type(problem).__name__, "what": problem.what, "why": problem.why}
    sys.stdout.write("\n" + json.dumps({**report, "todo": problem.todo}) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
