"""The headless commands: one function each, over the same core calls as the window.

With ``--json`` a command prints one JSON object on stdout; logs and progress go to stderr. Exit
status: 0 done, 1 failed (one line says why and what to do), 2 wrong usage. The core is imported by
the command that needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from loguru import logger

import attention_studio
from attention_studio.utils.config import Settings, load_settings, usable_cores
from attention_studio.utils.errors import Cancelled, StudioError
from attention_studio.utils.logging import configure_logging
from attention_studio.utils.progress import WorkContext
from attention_studio.utils.ranges import RangeError, parse_ranges

if TYPE_CHECKING:
    from attention_studio.core.model_manager import LoadedModel, ModelConfig, ModelManager
    from attention_studio.core.replacement_model import CompleteReplacementModel

_GIB = 1 << 30


class UsageError(StudioError):
    """The words of a command do not fit together."""


@dataclass(frozen=True)
class Report:
    """What a command found: ``data`` for ``--json``, ``lines`` for people."""

    data: dict[str, Any]
    lines: list[str]


class ConsoleContext(WorkContext):
    """Progress on stderr: one line that is written over on a terminal, a line now and then else."""

    def __init__(self, quiet: bool) -> None:
        super().__init__()
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._last = 0.0
        self._text = ""
        self.on_cancel: Optional[Callable[[], None]] = None
        """Called by the first ``cancel`` in its stead, for work with an orderly end of its own."""

    def cancel(self) -> None:
        """Ask the work to end in good order if it can, else (or the second time) to stop."""
        if self.on_cancel is not None:
            orderly, self.on_cancel = self.on_cancel, None
            orderly()
        else:
            super().cancel()

    def progress(self, done: float, total: Optional[float], text: str = "") -> None:
        """Show progress, at most ten times a second on a terminal and every ten seconds else."""
        now = time.monotonic()
        stage = text.split(":", 1)[0]
        wait = 0.1 if self._terminal else 10.0
        if self._quiet or (now - self._last < wait and stage == self._text):
            return
        self._last, self._text = now, stage
        share = f" {100 * done / total:3.0f}%" if total else ""
        if self._terminal:
            sys.stderr.write(f"\r\033[K{text}{share}")
        else:
            sys.stderr.write(f"{text}{share}\n")
        sys.stderr.flush()

    def finish(self) -> None:
        """Clear the progress line."""
        if self._terminal and self._text:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one headless command and return its exit status."""
    parser = make_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as e:  # argparse has printed help (0) or what is wrong (2)
        return int(e.code or 0)
    try:
        settings = load_settings()
    except StudioError as e:
        return _failed(str(e), arguments.json)
    configure_logging(settings, console=True)
    ctx = ConsoleContext(quiet=arguments.quiet)
    if not settings.threads:
        # No window needs a core kept free.
        settings = settings.model_copy(update={"threads": usable_cores()})
    run: Callable[[argparse.Namespace, Settings, ConsoleContext], Report] = arguments.run
    try:
        with _interrupt_cancels(ctx):
            report = run(arguments, settings, ctx)
        # Here, so that what JSON has no word for (NaN) is a failure like any other.
        printed = (
            json.dumps(report.data, allow_nan=False, default=str)
            if arguments.json
            else "\n".join(report.lines)
        )
    except UsageError as e:
        ctx.finish()
        _failed(str(e), arguments.json)
        return 2
    except Cancelled:
        ctx.finish()
        return _failed("Stopped before the end, as asked.", arguments.json)
    except StudioError as e:
        ctx.finish()
        return _failed(str(e), arguments.json)
    except Exception as e:  # the outermost boundary: a person gets a line, the log the traceback
        ctx.finish()
        logger.opt(exception=e).debug("A headless command failed")
        return _failed(
            f"Something went wrong inside AttentionStudio ({type(e).__name__}: {e}). "
            "Run again with ATTENTION_STUDIO_LOG_LEVEL=DEBUG and report what the log says.",
            arguments.json,
        )
    ctx.finish()
    print(printed)
    return 0


def _failed(message: str, as_json: bool) -> int:
    print(f"attention-studio: {message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message}))
    return 1


@contextmanager
def _interrupt_cancels(ctx: WorkContext) -> Iterator[None]:
    """Ctrl-C asks the work to stop; once it has been asked for good, another stops at once."""

    def stop(_signal: int, _frame: Any) -> None:
        if ctx.cancelled:
            raise KeyboardInterrupt
        ctx.cancel()

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not the main thread: nobody can press Ctrl-C here
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# ---- the commands ------------------------------------------------------------------------------


def doctor(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """What is installed, which devices there are, and what is missing."""
    import os
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
    display = sys.platform != "linux" or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    models = ModelSources(settings.cache_dir, settings).list_models()
    data = {
        "studio": attention_studio.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "devices": devices,
        "threads": settings.thread_count,
        "memory_total_gib": round(memory.total / _GIB, 1),
        "memory_available_gib": round(memory.available / _GIB, 1),
        "cache": str(settings.cache_dir),
        "cached_models": [entry.name for entry in models if entry.cached],
        "display": display,
        "offline": settings.offline,
        "missing": missing,
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
    ]
    if missing:
        lines.append(f"Missing    {', '.join(missing)}: pip install attention-studio again")
    return Report(data, lines)


def models(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """List the models at hand, fetch one, or describe one without loading it."""
    manager = _manager(settings)
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
        f"{description.name} ({description.family}), from {description.source}",
        f"  {description.n_parameters / 1e6:,.0f} M parameters, {description.n_layers} layers, "
        f"width {description.d_model}, {description.n_heads} heads",
        f"  vocabulary {description.vocab_size:,}, context {description.context_length:,}",
        f"  {estimate.total / _GIB:.2f} GiB in {estimate.dtype} on {estimate.device}; "
        f"{estimate.available / _GIB:.2f} GiB are free: it {fits}",
    ]
    return Report(data, lines)


def train(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Train a transcoder for each chosen layer from one pass over the text."""
    from attention_studio.core.corpus import build_corpus, split_corpus
    from attention_studio.core.crm_trainer import CRMTrainer, run_to_end
    from attention_studio.core.dictionaries.crm_folder import load_manifest

    loaded = _load(arguments, settings, ctx)
    config = _train_config(arguments, loaded)
    corpus = build_corpus(loaded, arguments.text, config.seq_len, seed=config.seed, ctx=ctx)
    if arguments.heldout:
        heldout = build_corpus(
            loaded,
            arguments.heldout,
            config.seq_len,
            max_tokens=4 * config.heldout_tokens,
            seed=config.seed,
            ctx=ctx,
        )
    else:
        corpus, heldout = split_corpus(corpus, config.heldout_tokens, config.seed)
    started = time.perf_counter()
    out = Path(arguments.out)
    trainer = CRMTrainer(
        loaded,
        corpus,
        heldout,
        config,
        out,
        resume=arguments.resume,
        max_ram_gb=settings.max_ram_gb,
    )
    ctx.on_cancel = trainer.request_stop
    folder = run_to_end(trainer, ctx)
    seconds = time.perf_counter() - started
    if folder != out:
        return Report(
            {"crm": None, "checkpoint": str(folder), "step": trainer.step},
            [f"Stopped after step {trainer.step}. Go on with the same command and --resume"],
        )
    manifest = load_manifest(folder)
    rows = {layer: entry.metrics for layer, entry in manifest.dictionaries.items()}
    data = {
        "crm": str(folder),
        "model": loaded.info.name,
        "layers": list(manifest.layers),
        "tokens": manifest.training.tokens_trained,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(manifest.training.tokens_trained / seconds, 1),
        "metrics": rows,
        "all_layers": manifest.training.metrics,
    }
    lines = [
        f"Trained {len(manifest.layers)} transcoders on {data['tokens']:,} tokens "
        f"in {seconds:,.0f} s",
        *_metric_table(rows, manifest.training.metrics),
        f"Saved in {folder}",
    ]
    return Report(data, lines)


def evaluate(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Measure a CRM on text that it was not trained on."""
    from attention_studio.core.activations import ActivationSource
    from attention_studio.core.corpus import build_corpus
    from attention_studio.core.evaluation import DENSITY_EDGES, Evaluator

    loaded = _load(arguments, settings, ctx)
    replacement = _open_crm(arguments, loaded, ctx)
    seq_len = min(arguments.seq_len, loaded.info.context_length)
    # Some positions of a text are left out, so read a little more than is measured.
    corpus = build_corpus(loaded, arguments.text, seq_len, max_tokens=2 * arguments.tokens, ctx=ctx)
    adapter = replacement.adapter
    source = ActivationSource(
        adapter, corpus, replacement.layers, block_tokens=1, seed=0, device=adapter.device
    )
    evaluator = Evaluator(source, adapter, arguments.tokens, arguments.downstream_tokens)
    result = evaluator.evaluate(replacement.transcoders, ctx)
    rows: dict[int, dict[str, Optional[float]]] = {}
    for layer, quality in result.layers.items():
        rows[layer] = {
            "fvu": quality.fvu,
            "l0": quality.l0,
            "dead_fraction": quality.dead_fraction,
        }
        if quality.downstream is not None:
            rows[layer]["loss_recovered"] = quality.downstream.loss_recovered
            rows[layer]["kl"] = quality.downstream.kl
    together: dict[str, Optional[float]] = {}
    if result.all_layers is not None:
        together = {
            **asdict(result.all_layers),
            "loss_recovered": result.all_layers.loss_recovered,
        }
    data = {
        "crm": str(arguments.crm),
        "model": loaded.info.name,
        "tokens": result.n_tokens,
        "metrics": rows,
        "all_layers": together,
        "density": {layer: list(quality.density) for layer, quality in result.layers.items()},
        "density_edges": list(DENSITY_EDGES),
    }
    lines = [f"{result.n_tokens:,} held-out tokens", *_metric_table(rows, together)]
    return Report(data, lines)


def features(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """The strongest features of a prompt, per position and overall."""
    from attention_studio.core.feature_extractor import FeatureExtractor

    loaded = _load(arguments, settings, ctx)
    extractor = FeatureExtractor(_open_crm(arguments, loaded, ctx))
    report = extractor.extract_features(arguments.prompt, arguments.top_k, ctx)
    data = {
        "prompt": report.prompt,
        "tokens": list(report.tokens),
        "n_active": report.n_active,
        "seconds": round(report.seconds, 3),
        "overall": [asdict(record) for record in report.overall],
        "by_position": [[asdict(record) for record in records] for records in report.by_position],
    }
    lines = [
        f"{report.n_active:,} active features on {len(report.tokens)} tokens "
        f"({report.seconds:.2f} s). The strongest:",
        f"  {'feature':>14}  {'at':<16} {'activation':>10}  promotes",
    ]
    for record in report.overall:
        token = f"{record.position} {report.tokens[record.position]!r}"
        promotes = ", ".join(repr(word) for word, _ in record.promoted[:5])
        name = f"L{record.layer} #{record.index}"
        lines.append(f"  {name:>14}  {token:<16} {record.activation:10.3f}  {promotes}")
    return Report(data, lines)


def attribute(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Trace a prompt to an attribution graph."""
    from attention_studio.core.graph_builder import GraphBuilder, GraphSettings

    out = None if arguments.out is None else Path(arguments.out)
    if out is not None and out.suffix not in (".json", ".safetensors"):
        raise UsageError(
            f"A graph cannot be written to {out.name}", "", "end it in .json or .safetensors"
        )
    loaded = _load(arguments, settings, ctx)
    builder = GraphBuilder(_open_crm(arguments, loaded, ctx))
    wanted = GraphSettings(
        max_logits=arguments.max_logits,
        logit_mass=arguments.logit_mass,
        max_features=arguments.max_features,
    )
    graph = builder.build(arguments.prompt, wanted, ctx)
    pruned = graph.prune(arguments.node_threshold, arguments.edge_threshold)
    if out is not None:
        graph.save(out, pruned)
    data = {
        **graph.summary(),
        "peak_mb": _peak_megabytes(),
        "n_nodes_pruned": len(pruned.node_ids),
        "n_edges_pruned": len(pruned.edge_weight),
        "out": None if out is None else str(out),
    }
    scores = graph.scores
    outputs = ", ".join(f"{o['token']!r} {100 * o['probability']:.1f}%" for o in data["output"])
    lines = [
        f"{graph.prompt!r} -> {outputs}",
        f"  {data['n_tokens']} tokens, {graph.n_features:,} active features, "
        f"{data['n_nodes']:,} nodes, {data['n_edges']:,} edges in {graph.seconds:.1f} s",
        f"  pruned to {len(pruned.node_ids)} nodes and {len(pruned.edge_weight)} edges",
        f"  replacement score {scores.replacement:.3f}, completeness {scores.completeness:.3f}, "
        f"largest identity error {scores.max_identity_error:.1e}",
    ]
    if out is not None:
        lines.append(f"Saved in {out}")
    return Report(data, lines)


def validate(arguments: argparse.Namespace, settings: Settings, ctx: ConsoleContext) -> Report:
    """Ablate sampled features in the model and compare with what the graph predicts."""
    from attention_studio.core.interventions import validate as run_validation

    loaded = _load(arguments, settings, ctx)
    replacement = _open_crm(arguments, loaded, ctx)
    report = run_validation(replacement, arguments.prompt, arguments.samples, arguments.seed, ctx)
    lines = [
        f"{report.n_samples} features ablated one at a time in {report.prompt!r}",
        f"  {'':34} {'pairs':>7} {'r':>7} {'slope':>7} {'error':>7}",
    ]
    for name, row in (
        ("logits, nothing frozen", report.logits),
        ("downstream features, nothing frozen", report.features),
        ("control: random directions", report.control),
    ):
        lines.append(
            f"  {name:34} {row.n:7,} {row.correlation:7.3f} {row.slope:7.3f} "
            f"{row.relative_error:7.3f}"
        )
    lines.append(
        f"  with everything frozen, edges and measured changes differ by at most "
        f"{report.largest_freeze_gap:.1e} of the largest edge"
    )
    return Report(asdict(report), lines)


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


# ---- what the commands share -------------------------------------------------------------------


def _manager(settings: Settings) -> ModelManager:
    from attention_studio.core.model_manager import ModelManager

    return ModelManager(settings=settings)


def _load(arguments: argparse.Namespace, settings: Settings, ctx: WorkContext) -> LoadedModel:
    from attention_studio.core.model_manager import ModelConfig

    config: ModelConfig = ModelConfig(
        name=arguments.model,
        device=arguments.device or "auto",
        dtype=arguments.dtype or "auto",
        allow_remote_code=arguments.allow_remote_code,
    )
    return _manager(settings).load_model_sync(config, ctx)


def _open_crm(
    arguments: argparse.Namespace, loaded: LoadedModel, ctx: WorkContext
) -> CompleteReplacementModel:
    from attention_studio.core.replacement_model import CompleteReplacementModel

    return CompleteReplacementModel.from_folder(loaded, Path(arguments.crm), ctx)


def _train_config(arguments: argparse.Namespace, loaded: LoadedModel) -> Any:
    from pydantic import ValidationError

    from attention_studio.core.training_config import TrainConfig

    given = {
        "tokens": arguments.tokens,
        "d_latent": arguments.latents,
        "activation": arguments.activation,
        "k": arguments.k,
        "skip": arguments.skip,
        "learning_rate": arguments.learning_rate,
        "seed": arguments.seed,
    }
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    values["layers"] = _layers(arguments.layers, loaded.info.n_layers)
    default_length = TrainConfig.model_fields["seq_len"].default
    values["seq_len"] = min(default_length, loaded.info.context_length)
    for setting in arguments.set:
        name, equals, text = setting.partition("=")
        if not equals or name not in TrainConfig.model_fields:
            raise UsageError(
                f"--set {setting} cannot be used",
                f"known settings: {', '.join(TrainConfig.model_fields)}",
                "write --set NAME=VALUE",
            )
        values[name] = None if text == "none" else text
    try:
        return TrainConfig(**values)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"The training settings do not fit: {where} {first['msg']}".replace(":  ", ": "),
            "",
            "see attention-studio train --help",
        ) from e


def _layers(text: Optional[str], n_layers: int) -> tuple[int, ...]:
    """``0-5,9`` as (0, 1, 2, 3, 4, 5, 9); None or ``all`` as all layers."""
    if text is None:
        return tuple(range(n_layers))
    if not text.strip():  # an unset shell variable, more likely than a wish for all
        raise UsageError("--layers is empty", "", "write 0-5, or 0,3,7, or all")
    try:
        return parse_ranges(text, n_layers)
    except RangeError as e:
        raise UsageError(f"--layers {text}: {e.what}", e.why, e.todo) from e


def _metric_table(
    rows: dict[int, dict[str, Optional[float]]], together: dict[str, Optional[float]]
) -> list[str]:
    names = list(next(iter(rows.values()), {}))
    header = "  layer " + " ".join(f"{name:>16}" for name in names)

    def cells(values: Iterable[Optional[float]]) -> str:
        return " ".join(f"{'-' if v is None else format(v, '.4f'):>16}" for v in values)

    lines = [header, *(f"  {layer:5} {cells(row.values())}" for layer, row in rows.items())]
    lines += [
        f"  {name.replace('_', ' ')}: {value:.4f}"
        for name, value in together.items()
        if value is not None
    ]
    return lines


def _peak_megabytes() -> Optional[float]:
    """The most memory that this process held, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)


def _positive(text: str) -> int:
    """For argparse: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _not_negative(text: str) -> int:
    """For argparse: a whole number of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number


# ---- the words of the commands -----------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    """The parser of all headless commands."""
    parser = argparse.ArgumentParser(
        prog="attention-studio",
        description="Look inside language models. Without a command, the window opens.",
    )
    parser.add_argument(
        "--version", action="version", version=f"attention-studio {attention_studio.__version__}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    output.add_argument("--quiet", action="store_true", help="show no progress")
    model = argparse.ArgumentParser(add_help=False, parents=[output])
    model.add_argument(
        "--model", required=True, help="smollm2-135m, a hub id, a folder or a .gguf file"
    )
    model.add_argument("--device", help="cpu, cuda, cuda:1, mps or auto")
    model.add_argument("--dtype", help="float32, bfloat16, float16 or auto")
    model.add_argument(
        "--allow-remote-code",
        action="store_true",
        help="let this model run Python code of its own",
    )
    crm = argparse.ArgumentParser(add_help=False, parents=[model])
    crm.add_argument("--crm", required=True, help="the folder of a trained CRM")
    prompt = argparse.ArgumentParser(add_help=False, parents=[crm])
    prompt.add_argument("--prompt", required=True, help="the text to look at")

    def command(
        name: str,
        run: Callable[[argparse.Namespace, Settings, ConsoleContext], Report],
        parent: argparse.ArgumentParser,
    ) -> argparse.ArgumentParser:
        summary = (run.__doc__ or "").splitlines()[0]
        sub = commands.add_parser(name, parents=[parent], help=summary, description=summary)
        sub.set_defaults(run=run)
        return sub

    command("doctor", doctor, output)

    sub = command("models", models, output)
    sub.add_argument("action", nargs="?", choices=("list", "fetch", "info"), default="list")
    sub.add_argument("name", nargs="?", help="smollm2-135m, a hub id, a folder or a .gguf file")

    sub = command("train", train, model)
    sub.add_argument(
        "--text",
        nargs="+",
        required=True,
        help="files, folders, hub:OWNER/NAME or samples:N (the model's own)",
    )
    sub.add_argument("--heldout", nargs="+", help="held-out text; else a part of --text")
    sub.add_argument("--out", required=True, help="the folder of the CRM")
    sub.add_argument("--layers", help="such as 0-5 or 0,3,7; all if left out")
    sub.add_argument("--tokens", type=int, help="activations to train on")
    sub.add_argument("--latents", type=int, help="latents of each transcoder")
    sub.add_argument("--activation", choices=("relu", "topk", "batchtopk", "jumprelu"))
    sub.add_argument("--k", type=int, help="active latents per token")
    sub.add_argument("--skip", action=argparse.BooleanOptionalAction, help="a linear skip")
    sub.add_argument("--learning-rate", type=float)
    sub.add_argument("--seed", type=int)
    sub.add_argument("--resume", action="store_true", help="go on where --out stopped")
    sub.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting"
    )

    sub = command("evaluate", evaluate, crm)
    sub.add_argument("--text", nargs="+", required=True, help="files or folders")
    sub.add_argument("--tokens", type=_positive, default=16_384, help="at most so many tokens")
    sub.add_argument("--seq-len", type=int, default=128, help="tokens per sequence")
    sub.add_argument(
        "--downstream-tokens",
        type=_not_negative,
        default=1024,
        help="tokens on which the model's own loss is measured; 0 leaves it out",
    )

    sub = command("features", features, prompt)
    sub.add_argument("--top-k", type=int, default=20, help="features per position and overall")

    sub = command("attribute", attribute, prompt)
    sub.add_argument("--out", help="graph.json (pruned, for viewers) or graph.safetensors (whole)")
    sub.add_argument("--node-threshold", type=float, default=0.8)
    sub.add_argument("--edge-threshold", type=float, default=0.98)
    sub.add_argument("--max-logits", type=int, default=10)
    sub.add_argument("--logit-mass", type=float, default=0.95)
    sub.add_argument("--max-features", type=int, help="trace at most so many features")

    sub = command("validate", validate, prompt)
    sub.add_argument("--samples", type=int, default=32, help="features to ablate")
    sub.add_argument("--seed", type=int, default=0)
    return parser
