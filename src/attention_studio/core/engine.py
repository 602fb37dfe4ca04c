"""Getting torch and transformers ready without stopping whoever else runs in the process.

``import torch`` opens libtorch with the interpreter's lock held, which would stop a window for the
fifth of a second that the linker needs. A foreign call lets go of the lock, and the import then
finds the library open. On Windows torch itself does it that way.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import sys
from pathlib import Path

from loguru import logger

from attention_studio.utils.config import Settings
from attention_studio.utils.progress import WorkContext


def start_engine(ctx: WorkContext, settings: Settings) -> None:
    """Import torch and transformers, and set the number of threads.

    Raises:
        Cancelled: through ``ctx``, between the two.
    """
    ctx.progress(0, None, "Starting the engine")
    if "torch" not in sys.modules:
        _open_torch_library()
    import torch

    torch.set_num_threads(settings.thread_count)
    ctx.check()
    ctx.progress(0, None, "Starting the model library")
    import transformers

    ctx.check()
    # With the first family comes the code that all of them share, which takes seconds. Here, so
    # that a small model is there at once when it is asked for.
    import transformers.models.llama.modeling_llama  # noqa: F401

    # A million long-lived objects: the collector need not look at them ever again.
    gc.freeze()


def _open_torch_library() -> None:
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations or sys.platform == "win32":
        return
    folder = Path(next(iter(spec.submodule_search_locations))) / "lib"
    suffix = "dylib" if sys.platform == "darwin" else "so"
    opener = ctypes.CDLL(None).dlopen
    opener.restype = ctypes.c_void_p
    opener.argtypes = [ctypes.c_char_p, ctypes.c_int]
    for name in ("libc10", "libtorch_cpu"):
        path = folder / f"{name}.{suffix}"
        if path.exists() and not opener(os.fsencode(path), os.RTLD_NOW | os.RTLD_LOCAL):
            logger.debug(f"{path.name} could not be opened ahead of the import")
