"""The tools that the studio is compared with, each in an environment of its own.

    python benchmarks/peers.py sae-lens eai-sparsify circuit-tracer

Their requirements exclude each other's and the studio's, so none is installed beside it. An
environment is made once per machine, below the cache folder; ``peer_python`` gives its interpreter.
Benchmarks run the peers there, and the slow tests of ``core.dictionaries.foreign`` have them read
what the studio wrote.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

import platformdirs
from filelock import FileLock

TORCH = "torch==2.13.0"
"""Installed first, so that no peer brings in another build."""

PEERS: dict[str, tuple[str, ...]] = {
    "circuit-tracer": ("circuit-tracer==0.5.0",),
    "sae-lens": ("sae-lens==6.54.0",),
    "eai-sparsify": ("eai-sparsify==1.3.3",),
    # It allows TransformerLens 4, which lacks what it imports.
    "llamascopium": ("llamascopium==2.0.0b34", "transformer-lens<4"),
    # What it requires would replace torch by a newer one, and bring a pyarrow for numpy 2 alone.
    "sae-dashboard": ("sae-dashboard==0.8.0", TORCH, "pyarrow<22"),
}


UNUSED: dict[str, tuple[str, ...]] = {
    # Builds that fit torch for graphics cards fail to load beside the one for CPUs, and take
    # transformers along.
    "sae-dashboard": ("torchvision", "torchaudio"),
}
"""What a peer requires and never uses, taken out again."""


class PeerError(RuntimeError):
    """An environment could not be made, or what ran in it failed; holds the last lines said."""


def peers_folder() -> Path:
    """Where the environments live."""
    root = os.environ.get("ATTENTION_STUDIO_PEERS")
    return Path(root) if root else Path(platformdirs.user_cache_dir("attention-studio")) / "peers"


def peer_python(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there yet (minutes).

    Args:
        peer: a key of ``PEERS``.

    Raises:
        PeerError: it cannot be installed.
    """
    requirements = PEERS[peer]
    tag = f"py{sys.version_info.major}{sys.version_info.minor}"
    folder = peers_folder() / f"{requirements[0].replace('==', '-')}-{tag}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "complete"
    if done.exists():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(
        folder.with_name(folder.name + ".lock")
    ):  # two processes must not install into one place
        if not done.exists():
            venv.create(folder, clear=True, with_pip=True)
            for what in ((TORCH,), requirements):
                run_checked([str(python), "-m", "pip", "install", "--quiet", *what])
            if peer in UNUSED:
                run_checked([str(python), "-m", "pip", "uninstall", "--yes", *UNUSED[peer]])
            done.touch()
    return python


def run_checked(command: list[str], **environment: str) -> str:
    """Run ``command`` without a network for models; give what it wrote to standard output.

    Raises:
        PeerError: it failed; the message holds the end of its output.
    """
    finished = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "WANDB_MODE": "disabled",
            "TOKENIZERS_PARALLELISM": "false",
            **environment,
        },
    )
    if finished.returncode != 0:
        raise PeerError(
            f"{' '.join(command[:4])} …\n{finished.stdout[-500:]}{finished.stderr[-4000:]}"
        )
    return finished.stdout


def main() -> None:
    """Make the environments that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("peers", nargs="+", choices=sorted(PEERS))
    for peer in parser.parse_args().peers:
        print(peer, peer_python(peer))


if __name__ == "__main__":
    main()
