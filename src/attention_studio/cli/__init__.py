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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional

from loguru import logger

import attention_studio
from attention_studio.cli.asking import add_ask_words, add_mcp_words, ask, mcp
from attention_studio.cli.atlas import add_atlas
from attention_studio.cli.attention import heads, qk
from attention_studio.cli.console import (
    ConsoleContext,
    Report,
    UsageError,
    not_negative,
    positive,
    say,
)
from attention_studio.cli.dashboards import add_dashboards
from attention_studio.cli.describing import add_describe_words, describe
from attention_studio.cli.dictionaries import evaluate, train
from attention_studio.cli.explaining import add_explain_words, explain
from attention_studio.cli.graphs import (
    add_diff_words,
    add_paths_words,
    compare,
    diff,
    paths,
    rerun,
)
from attention_studio.cli.intervening import (
    add_intervene_words,
    add_validate_words,
    intervene,
    validate,
)
from attention_studio.cli.lens import add_attention_words, add_lens_words, attention, lens
from attention_studio.cli.looking import attribute, features
from attention_studio.cli.system import doctor, models
from attention_studio.cli.transfer import CRM_TOOLS, GRAPH_TOOLS, export_to, import_from
from attention_studio.utils.config import Settings, load_settings, usable_cores
from attention_studio.utils.errors import Cancelled, StudioError
from attention_studio.utils.launch import launched
from attention_studio.utils.logging import configure_logging
from attention_studio.utils.progress import WorkContext

__all__ = ["ConsoleContext", "Report", "UsageError", "main", "make_parser"]


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one headless command and return its exit status."""
    parser = make_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as e:  # argparse has printed help (0) or what is wrong (2)
        say("", sys.stdout)
        return int(e.code or 0)
    try:
        settings = load_settings()
        launch = launched() if arguments.command == "train" else None
    except StudioError as e:
        return _failed(str(e), arguments.json)
    configure_logging(settings, console=True)
    # Of several processes the first one speaks for all.
    ctx = ConsoleContext(quiet=arguments.quiet or (launch is not None and launch.rank > 0))
    if not settings.threads:
        # No window needs a core kept free.
        processes = 1 if launch is None else launch.local_size
        threads = max(1, usable_cores() // processes)
        settings = settings.model_copy(update={"threads": threads})
    run: Callable[[argparse.Namespace, Settings, ConsoleContext], Optional[Report]] = arguments.run
    try:
        with _interrupt_cancels(ctx):
            report = run(arguments, settings, ctx)
        # Here, so that what JSON has no word for (NaN) is a failure like any other.
        printed = None
        if report is not None:
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
    if printed is not None:
        say(f"{printed}\n", sys.stdout)
    return 0


def _failed(message: str, as_json: bool) -> int:
    say(f"attention-studio: {message}\n", sys.stderr)
    if as_json:
        say(json.dumps({"error": message}) + "\n", sys.stdout)
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
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--device", help="cpu, cuda, cuda:1, mps or auto")
    where.add_argument("--dtype", help="float32, bfloat16, float16 or auto")
    where.add_argument(
        "--allow-remote-code",
        action="store_true",
        help="let this model run Python code of its own",
    )
    device = argparse.ArgumentParser(add_help=False, parents=[output, where])
    which = "smollm2-135m, a hub id, a folder or a .gguf file"
    model = argparse.ArgumentParser(add_help=False, parents=[device])
    model.add_argument("--model", required=True, help=which)
    crm = argparse.ArgumentParser(add_help=False, parents=[model])
    crm.add_argument(
        "--crm", help="the folder of a trained CRM; left out, the one that comes with the model"
    )
    text = argparse.ArgumentParser(add_help=False)
    text.add_argument("--prompt", required=True, help="the text to look at")
    prompt = argparse.ArgumentParser(add_help=False, parents=[crm, text])
    plain = argparse.ArgumentParser(add_help=False, parents=[model, text])

    def command(
        name: str,
        run: Callable[[argparse.Namespace, Settings, ConsoleContext], Optional[Report]],
        parent: argparse.ArgumentParser,
    ) -> argparse.ArgumentParser:
        summary = (run.__doc__ or "").splitlines()[0]
        sub = commands.add_parser(name, parents=[parent], help=summary, description=summary)
        sub.set_defaults(run=run)
        return sub

    command("doctor", doctor, output)

    sub = command("models", models, output)
    sub.add_argument("action", nargs="?", choices=("list", "fetch", "info"), default="list")
    sub.add_argument("name", nargs="?", help=which)

    sub = command("train", train, device)
    sub.add_argument("--model", help=f"{which}; a resumed run knows its own")
    sub.add_argument(
        "--text",
        nargs="+",
        help="files, folders, hub:OWNER/NAME or samples:N (the model's own)",
    )
    sub.add_argument("--heldout", nargs="+", help="held-out text; else a part of --text")
    sub.add_argument("--out", required=True, help="the folder of the CRM")
    sub.add_argument(
        "--layers", help="whose MLPs are replaced: 0-5, or 0,3,7, all (if left out) or none"
    )
    sub.add_argument(
        "--mlp", choices=("transcoder", "clt"), help="one transcoder each, or one across layers"
    )
    sub.add_argument("--attention-layers", help="whose attention Lorsas replace; none if left out")
    sub.add_argument("--attention-latents", type=int, help="latents of each Lorsa")
    sub.add_argument("--attention-k", type=int, help="active latents per token of each Lorsa")
    sub.add_argument("--tokens", type=int, help="activations to train on")
    sub.add_argument("--latents", type=int, help="latents of each transcoder")
    sub.add_argument("--activation", choices=("relu", "topk", "batchtopk", "jumprelu"))
    sub.add_argument("--k", type=int, help="active latents per token")
    sub.add_argument("--skip", action=argparse.BooleanOptionalAction, help="a linear skip")
    sub.add_argument("--learning-rate", type=float)
    sub.add_argument("--seed", type=int)
    sub.add_argument("--resume", action="store_true", help="go on where --out stopped")
    sub.add_argument(
        "--parallel",
        choices=("layers", "data"),
        help="how processes that torchrun started share the run: modules (if left out) or batches",
    )
    sub.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting"
    )

    sub = command("evaluate", evaluate, model)
    sub.add_argument(
        "--crm", required=True, nargs="+", help="folders of CRMs; several are compared"
    )
    sub.add_argument(
        "--prompts", nargs="+", default=[], help="trace these too, for the scores of their graphs"
    )
    sub.add_argument("--text", nargs="+", required=True, help="files or folders")
    sub.add_argument("--tokens", type=positive, default=16_384, help="at most so many tokens")
    sub.add_argument("--seq-len", type=int, default=128, help="tokens per sequence")
    sub.add_argument(
        "--downstream-tokens",
        type=not_negative,
        default=1024,
        help="tokens on which the model's own loss is measured; 0 leaves it out",
    )

    sub = command("import", import_from, device)
    sub.add_argument(
        "source",
        help="a folder that circuit-tracer, SAELens, sparsify or Llamascopium wrote, or a graph "
        "file (.json) of circuit-tracer, Neuronpedia or Llamascopium",
    )
    sub.add_argument("--model", help=f"for dictionaries: {which}")
    sub.add_argument("--out", required=True, help="the new CRM's folder, or GRAPH.safetensors")
    sub.add_argument(
        "--normalized",
        choices=("before gain", "after gain"),
        help="for models with LayerNorms: what hook_normalized meant where they were trained",
    )

    sub = command("export", export_to, output)
    sub.add_argument("--crm", help="the folder of a CRM: its dictionaries are exported")
    sub.add_argument("--graph", help="a graph (.safetensors or .json), which is exported instead")
    sub.add_argument(
        "--tool",
        required=True,
        choices=tuple(dict.fromkeys((*CRM_TOOLS, *GRAPH_TOOLS))),
        help=f"dictionaries: {', '.join(CRM_TOOLS)}; graphs: {', '.join(GRAPH_TOOLS)}",
    )
    sub.add_argument(
        "--only", choices=("mlp", "attention"), help="dictionaries of one kind of module"
    )
    sub.add_argument(
        "--out",
        required=True,
        help="the new folder or file; a graph for circuit-tracer goes into a file (.json), or "
        "beside others into a folder that its server shows",
    )
    sub.add_argument("--node-threshold", type=float, default=0.8)
    sub.add_argument("--edge-threshold", type=float, default=0.98)
    sub.add_argument("--slug", help="the graph's short name there; made of the prompt if left out")
    sub.add_argument("--scan", help="what the tool calls model and dictionaries")
    sub.add_argument(
        "--dashboards",
        metavar="STORE",
        help="for a graph in a folder: pages about its features, out of what dashboards build or "
        "import wrote",
    )

    for name, run, parent in (("rerun", rerun, crm), ("compare", compare, output)):
        sub = command(name, run, parent)
        if name == "rerun":
            sub.add_argument("graph", help="a graph (.safetensors, or another tool's .json)")
            sub.add_argument("--out", help="where the new graph goes: .safetensors or .json")
            sub.add_argument(
                "--other-model", action="store_true", help="also where the weights are others"
            )
        else:
            sub.add_argument("before", help="a graph (.safetensors, or another tool's .json)")
            sub.add_argument("after", help="the one that it is compared with")
        sub.add_argument("--top-k", type=not_negative, default=20, help="edges that are listed")
        sub.add_argument(
            "--tolerance",
            type=float,
            default=1e-4,
            help="share of a target's input up to which a change counts for nothing",
        )

    add_diff_words(command("diff", diff, output))
    add_paths_words(command("paths", paths, output))

    sub = command("features", features, prompt)
    sub.add_argument("--top-k", type=positive, default=20, help="features per position and overall")

    sub = command("attribute", attribute, prompt)
    sub.add_argument("--out", help="graph.json (pruned, for viewers) or graph.safetensors (whole)")
    sub.add_argument("--node-threshold", type=float, default=0.8)
    sub.add_argument("--edge-threshold", type=float, default=0.98)
    sub.add_argument("--max-logits", type=int, default=10)
    sub.add_argument("--logit-mass", type=float, default=0.95)
    sub.add_argument("--max-features", type=int, help="trace at most so many features")
    sub.add_argument(
        "--influence",
        type=float,
        metavar="SHARE",
        help="trace the features that hold this share of the influence of all, such as 0.95",
    )
    sub.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    sub.add_argument(
        "--max-gigabytes", type=float, default=2.0, help="bound on the edges; default: 2"
    )
    sub.add_argument(
        "--token",
        action="append",
        default=[],
        help="explain this next token (text, or #ID) instead of the likeliest; may be repeated",
    )
    sub.add_argument(
        "--contrast",
        nargs=2,
        metavar=("FOR", "AGAINST"),
        default=[],
        help="explain why the first next token and not the second",
    )
    sub.add_argument(
        "--target-feature",
        action="append",
        default=[],
        metavar="L12/P5/F1043",
        help="explain why this feature is active; may be repeated",
    )
    sub.add_argument(
        "--position",
        type=int,
        nargs="+",
        default=[-1],
        help="explain what follows these positions; negative ones count from the end",
    )
    sub.add_argument(
        "--estimate", action="store_true", help="say what it would take, and trace nothing"
    )

    sub = command("qk", qk, prompt)
    which_head = sub.add_mutually_exclusive_group(required=True)
    which_head.add_argument("--head", help="LAYER.HEAD of the model, ALAYER.HEAD of a Lorsa")
    which_head.add_argument("--feature", help="an active feature of a Lorsa, A12/P5/F1043")
    sub.add_argument("--query", type=int, help="the position it looks from; the last if left out")
    sub.add_argument("--keys", type=int, nargs="+", help="positions that it looks at")
    sub.add_argument("--top-k", type=positive, default=20, help="pairs and sources of each key")
    sub.add_argument(
        "--baseline", default="mean", help="what is subtracted: mean, none or another position"
    )
    sub.add_argument(
        "--words", action="store_true", help="follow features down to the words they read"
    )

    add_attention_words(command("attention", attention, prompt))
    add_lens_words(command("lens", lens, plain))

    sub = command("heads", heads, prompt)
    sub.add_argument("--into", help="a feature or logit; the likeliest next token if left out")
    sub.add_argument("--from", dest="source", help="of one source alone, L2/P3/F7 or P4/token")
    sub.add_argument("--top-k", type=positive, default=20, help="ways that are listed")

    add_atlas(commands, crm, output)
    add_dashboards(commands, crm, output)

    add_explain_words(command("explain", explain, crm))

    add_ask_words(command("ask", ask, device))
    add_mcp_words(command("mcp", mcp, where))

    add_describe_words(command("describe", describe, crm))
    add_validate_words(command("validate", validate, prompt))
    add_intervene_words(command("intervene", intervene, prompt))
    return parser
