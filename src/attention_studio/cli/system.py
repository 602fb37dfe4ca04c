"""Headless commands about the machine and the models on it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Optional

import attention_studio
from attention_studio.cli.console import GIB, ConsoleContext, Report, UsageError, model_manager
from attention_studio.utils.config import Settings
from attention_studio.utils.display import (
    draws_on_x11,
    has_display,
    how_to_install,
    missing_packages,
    x11_answers,
)
from attention_studio.utils.outgoing import public_address


def doctor(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """What is installed, which devices there are, and what is missing."""
    import platform
    from importlib import metadata

    import psutil

    from attention_studio.core.model_sources import ModelSources

    packages = ("torch", "transformers", "PySide6-Essentials", "pyqtgraph", "safetensors", "numpy")
    versions: dict[str, Optional[str]] = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    missing = [name for name, version in versions.items() if version is None]
    devices = _devices() if versions["torch"] else ["unknown without torch"]
    memory = psutil.virtual_memory()
    display = has_display() and (not draws_on_x11() or x11_answers())
    libraries = missing_packages(draws_on_x11())
    models = ModelSources(settings.cache_dir, settings).list_models()
    data = {
        "studio": attention_studio.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "devices": devices,
        "threads": settings.thread_count,
        "memory_total_gib": round(memory.total / GIB, 1),
        "memory_available_gib": round(memory.available / GIB, 1),
        "cache": str(settings.cache_dir),
        "cached_models": [entry.name for entry in models if entry.cached],
        "display": display,
        "offline": settings.offline,
        "agents": _agents(settings),
        "missing": missing,
        "missing_system_packages": libraries,
    }
    lines = [
        f"AttentionStudio {data['studio']} on Python {data['python']}, {data['system']}",
        *(f"  {name:20} {version or 'MISSING'}" for name, version in versions.items()),
        f"Devices    {', '.join(devices)} ({settings.thread_count} threads)",
        f"Memory     {data['memory_available_gib']} of {data['memory_total_gib']} GiB free",
        f"Cache      {settings.cache_dir}",
        f"Models     {', '.join(e.name for e in models if e.cached) or 'none cached yet'}",
        f"Display    {'yes' if display else 'none: the window cannot open, commands can run'}",
        f"Network    {'off (offline setting)' if settings.offline else 'used when asked for'}",
        f"Agents     ask {data['agents']}",
    ]
    if missing:
        lines.append(f"Missing    {', '.join(missing)}: pip install attention-studio again")
    if libraries:
        lines.append(f"Missing    what Qt needs for the window. {how_to_install(libraries)}")
    return Report(data, lines)


def _agents(settings: Settings) -> str:
    """Which chat model agents would ask; nothing is asked for that."""
    local = f"{settings.agent_local_model}, in this process"
    if settings.agent_url is None:
        return local
    place = public_address(settings.agent_url)
    if settings.offline:
        return f"{local} ({place} is not asked: offline setting)"
    if settings.agent_model is None:
        return f"nobody: {place} is set, and ATTENTION_STUDIO_AGENT_MODEL is not"
    return f"{settings.agent_model} at {place}, {'with a' if settings.agent_key else 'without'} key"


def models(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """List the models at hand, fetch one, or describe one without loading it."""
    manager = model_manager(settings)
    if arguments.action == "list":
        entries = manager.list_models()
        rows = [
            f"{entry.name:24} {'cached' if entry.cached else 'to fetch':9} {entry.summary}"
            for entry in entries
        ]
        return Report({"models": [asdict(entry) for entry in entries]}, rows)
    if arguments.name is None:
        raise UsageError(f"models {arguments.action} needs the name of a model")
    if arguments.action == "fetch":
        folder = manager.fetch(arguments.name, ctx)
        return Report({"name": arguments.name, "folder": str(folder)}, [f"Ready in {folder}"])
    description = manager.describe(arguments.name, ctx)
    estimate = manager.estimate_memory(arguments.name, ctx)
    data = {
        **asdict(description),
        "memory_bytes": estimate.total,
        "available_bytes": estimate.available,
        "fits": estimate.fits,
        "device": estimate.device,
        "dtype": estimate.dtype,
    }
    fits = "fits" if estimate.fits else "does not fit"
    lines = [
        f"{description.name} ({description.family}), {_origin(description.source)}",
        f"  {description.n_parameters / 1e6:,.0f} M parameters, {description.n_layers} layers, "
        f"width {description.d_model}, {description.n_heads} heads",
        f"  vocabulary {description.vocab_size:,}, context {description.context_length:,}",
        f"  {estimate.total / GIB:.2f} GiB in {estimate.dtype} on {estimate.device}; "
        f"{estimate.available / GIB:.2f} GiB are free: it {fits}",
    ]
    return Report(data, lines)


def _origin(source: str) -> str:
    return source if source.startswith("comes with ") else f"from {source}"


def _devices() -> list[str]:
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [
            f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices
