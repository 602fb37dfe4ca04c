"""Headless commands that make dictionaries and measure them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from attention_studio.cli.console import ConsoleContext, Report, UsageError, load_model
from attention_studio.utils.config import Settings
from attention_studio.utils.launch import launched
from attention_studio.utils.paths import crm_folder
from attention_studio.utils.ranges import RangeError, parse_ranges

if TYPE_CHECKING:
    from attention_studio.core.crm_quality import CRMComparison
    from attention_studio.core.distributed import Peers
    from attention_studio.core.loaded_model import LoadedModel
    from attention_studio.core.training_request import TrainRequest

_FIXED = (
    "heldout",
    "layers",
    "mlp",
    "attention_layers",
    "attention_latents",
    "attention_k",
    "tokens",
    "latents",
    "activation",
    "k",
    "skip",
    "learning_rate",
    "seed",
)
"""Options of a run that are decided when it starts."""


def train(
    arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext
) -> Optional[Report]:
    """Train dictionaries for the chosen modules from one pass over the text.

    One of several processes that a launcher started joins the others; only the first one reports.
    """
    launch = launched()
    if launch is None:
        return _train(arguments, settings, ctx, None)
    from attention_studio.core.distributed import Peers

    peers = Peers.join(launch)
    arguments.device = peers.device(arguments.device)
    report = _train(arguments, settings, ctx, peers)
    peers.leave()
    return report if peers.is_first else None


def _train(
    arguments: argparse.Namespace,
    settings: Settings,
    ctx: ConsoleContext,
    peers: Optional[Peers],
) -> Report:
    from attention_studio.core.crm_trainer import run_to_end
    from attention_studio.core.dictionaries.crm_folder import load_manifest
    from attention_studio.core.training_request import prepare_training, read_request

    out = Path(arguments.out)
    if arguments.resume and not arguments.text:
        request = _resumed(arguments, read_request(out))
        name = arguments.model or request.model
    elif arguments.model and arguments.text:
        request = None
        name = arguments.model
    else:
        raise UsageError(
            "train needs a model and text", "", "give --model and --text, or --resume and --out"
        )
    with nullcontext() if peers is None else peers.first_of_the_machine():
        loaded = load_model(arguments, settings, ctx, name)
    if request is None:
        request = _request(arguments, loaded)
    started = time.perf_counter()
    trainer = prepare_training(loaded, request, settings.max_ram_gb, ctx, peers)
    begun = trainer.step
    ctx.on_cancel = trainer.request_stop
    folder = run_to_end(trainer, ctx)
    seconds = time.perf_counter() - started
    if folder != out:
        return Report(
            {"crm": None, "checkpoint": str(folder), "step": trainer.step},
            [
                f"Stopped after step {trainer.step}. Go on with",
                f"  attention-studio train --resume --out {out}",
            ],
        )
    manifest = load_manifest(folder)
    rows = {name: entry.metrics for name, entry in manifest.dictionaries.items()}
    tokens = manifest.training.tokens_trained
    now = (trainer.step - begun) * trainer.config.batch_tokens
    data = {
        "crm": str(folder),
        "model": loaded.info.name,
        "layers": list(manifest.layers_of("mlp")),
        "attention_layers": list(manifest.layers_of("attention")),
        "tokens": tokens,
        "tokens_now": now,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(now / seconds, 1),
        "metrics": rows,
        "together": manifest.training.metrics,
    }
    share = "" if now == tokens else f", {now:,} of them now,"
    lines = [
        f"Trained {len(rows)} dictionaries on {tokens:,} tokens{share} in {seconds:,.0f} s",
        *_metric_table(rows, manifest.training.metrics),
        f"Saved in {folder}",
    ]
    return Report(data, lines)


def evaluate(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Measure one or several CRMs on text, best on text that they were not trained on."""
    from attention_studio.core.crm_comparison import compare_crms
    from attention_studio.core.crm_quality import EvaluationRequest

    loaded = load_model(arguments, settings, ctx)
    request = EvaluationRequest(
        folders=tuple(crm_folder(folder) for folder in arguments.crm),
        sources=tuple(arguments.text),
        prompts=tuple(arguments.prompts),
        tokens=arguments.tokens,
        downstream_tokens=arguments.downstream_tokens,
        seq_len=arguments.seq_len,
    )
    compared = compare_crms(loaded, request, ctx)
    lines: list[str] = []
    for crm in compared.crms:
        data = crm.as_dict()
        lines += [
            f"{crm.folder}: {crm.coverage}, {crm.tokens:,} tokens",
            *_metric_table(data["metrics"], data["together"]),
        ]
        if crm.prompts:
            lines.append(f"  {'prompt':44} {'replacement':>12} {'completeness':>13}")
        lines += [
            f"  {row.prompt[-44:]!r:46} {row.replacement:10.3f} {row.completeness:13.3f}"
            for row in crm.prompts
        ]
    if len(compared.crms) > 1:
        lines += ["", *_comparison(compared)]
    record = compared.as_dict()
    first = record["crms"][0] if len(compared.crms) == 1 else {}
    return Report({**first, **record}, lines)


def _comparison(compared: CRMComparison) -> list[str]:
    """One line for each CRM: means over its modules, and what holds for all of them at once."""
    names = list(compared.crms[0].summary())
    titles = " ".join(f"{name.removesuffix('_fraction').replace('_', ' '):>14}" for name in names)
    lines = [f"  {'CRM':28} {'modules':>8} {titles}"]
    for crm in compared.crms:
        lines.append(
            f"  {crm.folder.name[-28:]:28} {len(crm.modules):8} "
            + _cells(crm.summary().values(), 14)
        )
    return lines


def _request(arguments: argparse.Namespace, loaded: LoadedModel) -> TrainRequest:
    """What the arguments ask to be trained."""
    from attention_studio.core.training_config import TrainConfig
    from attention_studio.core.training_request import TrainRequest

    given = {
        "tokens": arguments.tokens,
        "d_latent": arguments.latents,
        "activation": arguments.activation,
        "k": arguments.k,
        "skip": arguments.skip,
        "mlp": arguments.mlp,
        "attention_latents": arguments.attention_latents,
        "attention_k": arguments.attention_k,
        "learning_rate": arguments.learning_rate,
        "seed": arguments.seed,
        "parallel": arguments.parallel,
    }
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    info = loaded.info
    values["layers"] = _layers(arguments.layers or "all", info.n_layers)
    values["attention_layers"] = _layers(arguments.attention_layers or "none", info.n_layers)
    if arguments.attention_latents is None:
        # As many as a transcoder has, shared evenly among the model's heads.
        latents = values.get("d_latent", TrainConfig.model_fields["d_latent"].default)
        values["attention_latents"] = info.n_heads * max(1, latents // info.n_heads)
    default_length = TrainConfig.model_fields["seq_len"].default
    values["seq_len"] = min(default_length, loaded.info.context_length)
    values.update(_set(arguments))
    request = TrainRequest(
        model=arguments.model,
        sources=tuple(arguments.text),
        heldout_sources=tuple(arguments.heldout or ()),
        settings=tuple(values.items()),
        out_dir=Path(arguments.out),
        resume=arguments.resume,
    )
    _check(request)
    return request


def _resumed(arguments: argparse.Namespace, request: TrainRequest) -> TrainRequest:
    """The run's own request, with those settings changed that its weights do not depend on.

    Raises:
        UsageError: any other setting is given too, which would be ignored.
    """
    from attention_studio.core.training_config import RESULT_FREE_FIELDS

    changed = _set(arguments)
    if arguments.parallel is not None:
        changed["parallel"] = arguments.parallel
    given = vars(arguments)
    refused = [f"--{name.replace('_', '-')}" for name in _FIXED if given[name] is not None]
    refused += [f"--set {name}" for name in changed if name not in RESULT_FREE_FIELDS]
    if refused:
        raise UsageError(
            f"{', '.join(refused)} cannot be given with --resume",
            "a resumed run keeps its settings",
            f"leave it out, or change only {', '.join(sorted(RESULT_FREE_FIELDS))}",
        )
    request = replace(request, settings=tuple({**dict(request.settings), **changed}.items()))
    if changed:
        _check(request)
    return request


def _set(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``--set`` says, by name of the setting.

    Raises:
        UsageError: there is no such setting, or it has an option that reads it better.
    """
    from attention_studio.core.training_config import TrainConfig

    values: dict[str, Any] = {}
    for setting in arguments.set:
        name, equals, text = setting.partition("=")
        if not equals or name not in TrainConfig.model_fields:
            raise UsageError(
                f"--set {setting} cannot be used",
                f"known settings: {', '.join(TrainConfig.model_fields)}",
                "write --set NAME=VALUE",
            )
        if name in ("layers", "attention_layers"):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"--set {setting} cannot be used",
                f"{name} have an option of their own",
                f"write {option} {text}" if text else f"write {option}",
            )
        values[name] = None if text == "none" else text
    return values


def _check(request: TrainRequest) -> None:
    """Refuse settings that do not fit together as what they are here: a wrong command line."""
    from attention_studio.core.training_config import TrainSettingsError

    try:
        request.config()
    except TrainSettingsError as e:
        raise UsageError(e.what, e.why, "see attention-studio train --help") from e


def _layers(text: str, n_layers: int) -> tuple[int, ...]:
    """``0-5,9`` as (0, 1, 2, 3, 4, 5, 9); ``all`` as all layers and ``none`` as none."""
    if not text.strip():  # an unset shell variable, more likely than a wish for all
        raise UsageError("The layers are empty", "", "write 0-5, or 0,3,7, or all, or none")
    if text.strip() == "none":
        return ()
    try:
        return parse_ranges(text, n_layers)
    except RangeError as e:
        raise UsageError(f"Layers {text}: {e.what}", e.why, e.todo) from e


def _metric_table(
    rows: dict[str, dict[str, Optional[float]]], together: dict[str, Optional[float]]
) -> list[str]:
    names = list(next(iter(rows.values()), {}))
    header = f"  {'module':12} " + " ".join(f"{name:>16}" for name in names)

    lines = [header, *(f"  {name:12} {_cells(row.values(), 16)}" for name, row in rows.items())]
    lines += [
        f"  {name.replace('_', ' ')}: {value:.4f}"
        for name, value in together.items()
        if value is not None
    ]
    return lines


def _cells(values: Iterable[Optional[float]], width: int) -> str:
    return " ".join(f"{'-' if v is None else format(v, '.4f'):>{width}}" for v in values)
