"""Explaining many features: several at once, resumable, with what it will take said before.

The log is a file of JSON lines: the first says what it is about, every other is the verdict on one
feature. A line is written and flushed whole when its feature is done; a line that a kill cut off is
dropped when the run goes on.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from attention_studio.agents.backends.chat_answer import about_tokens
from attention_studio.agents.backends.records import Price, Usage
from attention_studio.agents.choice_judge import ChoiceJudge
from attention_studio.agents.explanations import (
    ExplanationError,
    FeatureVerdict,
    read_verdict,
    verdict_record,
)
from attention_studio.agents.feature_agent import AgentSettings, FeatureAgent
from attention_studio.agents.feature_material import FeatureMaterial
from attention_studio.agents.judges import ModelJudge, shown_text
from attention_studio.core.sites import Site
from attention_studio.utils.errors import StudioError
from attention_studio.utils.files import FileReadError, explain_write_errors
from attention_studio.utils.progress import WorkContext

FORMAT, VERSION = "attention-studio explanations", 1
_MAX_BYTES = 1 << 30
_PROPOSAL_TOKENS, _ATTACK_TOKENS, _QUESTION_TOKENS, _LEVELS_TOKENS = 120, 200, 220, 120
_CHOICE_TOKENS = 8

Feature = tuple[Site, int]
Explain = Callable[[FeatureMaterial], FeatureVerdict]


class ExplanationLogError(StudioError):
    """A file of explanations cannot be gone on with."""


class ExplanationLog:
    """Verdicts on disk, one a line. Safe from any thread.

    Args:
        path: of the file; made if there is none.
        about: what the run is of (model, CRM, text, settings); a file about something else is not
            gone on with.

    Raises:
        ExplanationLogError: the file is about something else, or damaged before its last line.
        FileReadError, FileWriteError: it cannot be read or written.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self._lock = threading.Lock()
        header = {"format": FORMAT, "version": VERSION, "about": dict(about)}
        self._done: dict[str, FeatureVerdict] = {}
        if path.exists() and path.stat().st_size:
            self._go_on(header)
        else:
            with explain_write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._append(header)

    @property
    def done(self) -> Mapping[str, FeatureVerdict]:
        """Verdicts by the feature's name."""
        with self._lock:
            return dict(self._done)

    def add(self, verdict: FeatureVerdict) -> None:
        """Write a verdict, whole.

        Raises:
            FileWriteError: it cannot be written.
        """
        with self._lock, explain_write_errors(self.path):
            self._append(verdict_record(verdict))
            self._done[verdict.chosen.explanation.feature] = verdict

    def _append(self, value: Mapping[str, Any]) -> None:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
        with self.path.open("ab") as stream:
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())

    def _go_on(self, header: Mapping[str, Any]) -> None:
        found, verdicts, whole = _read(self.path)
        if found != json.loads(json.dumps(header)):
            raise ExplanationLogError(
                f"{self.path} is about something else",
                "it was made with another model, replacement model, text or settings",
                "Name another file, or ask for the same again",
            )
        self._done = {verdict.chosen.explanation.feature: verdict for verdict in verdicts}
        with explain_write_errors(self.path), self.path.open("r+b") as stream:
            stream.truncate(whole)


def read_explanations(path: Path) -> tuple[Mapping[str, Any], list[FeatureVerdict]]:
    """What a log is about, and its verdicts.

    Raises:
        ExplanationLogError: it is no such file, or damaged before its last line.
        FileReadError: it cannot be read.
    """
    header, verdicts, _ = _read(path)
    return header["about"], verdicts


def _read(path: Path) -> tuple[dict[str, Any], list[FeatureVerdict], int]:
    """The first line, the verdicts, and how many bytes of the file are whole lines."""
    data = _bytes_of(path)
    whole = data[: data.rfind(b"\n") + 1]
    try:
        # Not splitlines of a text: what models and corpora write may hold other ends of lines.
        values = [json.loads(line) for line in whole.split(b"\n")[:-1]]
        header = values[0]
        if header["format"] != FORMAT or header["version"] != VERSION:
            raise ValueError("another format")
        verdicts = [read_verdict(value) for value in values[1:]]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError, ExplanationError) as error:
        raise ExplanationLogError(
            f"{path} is no file of explanations that can be read here",
            str(error),
            "Name another file",
        ) from error
    return header, verdicts, len(whole)


def _bytes_of(path: Path) -> bytes:
    """What a log holds.

    Raises:
        ExplanationLogError: it is larger than any.
        FileReadError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise FileReadError(f"{path} cannot be read", error.strerror or str(error)) from error
    if len(data) > _MAX_BYTES:
        raise ExplanationLogError(
            f"{path} is too large", f"at most {_MAX_BYTES:,} bytes are read", "Name another file"
        )
    return data


# ---- what it will take -------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """About what explaining takes, measured on some features' real questions.

    ``features``; ``calls`` of the model, ``tokens_in`` and ``tokens_out``, ``cost`` in the
    currency of the price (None: no price is known).
    """

    features: int
    calls: int
    tokens_in: int
    tokens_out: int
    cost: Optional[float]

    def __str__(self) -> str:
        money = "no price is known" if self.cost is None else f"{self.cost:.2f} in money"
        return (
            f"{self.features:,} features: {self.calls:,} questions, {self.tokens_in:,} tokens in, "
            f"{self.tokens_out:,} out, {money}"
        )


def estimate(agent: FeatureAgent, materials: Sequence[FeatureMaterial], features: int) -> Estimate:
    """About what ``features`` features take, if they are like ``materials``.

    Every round that the settings allow is counted, and answers of usual length. Answers that must
    be asked for again, and the judge's known cases, come on top.
    """
    settings = agent.settings
    calls = read = written = 0
    for material in materials:
        rounds = 1 + settings.revisions
        shown = agent.question(material)
        asked: list[tuple[int, str, int]] = [(rounds, shown, _PROPOSAL_TOKENS)]
        if settings.chooses:  # once with what is shown, once with nothing, and no more rounds
            rounds, asked = 1, [(1, shown, _CHOICE_TOKENS), (1, "", _CHOICE_TOKENS)]
        if settings.attacks and material.probe is not None and not settings.chooses:
            asked.append((rounds, shown[: len(shown) // 3], _ATTACK_TOKENS))
        if isinstance(agent.judge, ChoiceJudge):
            asked += _choices(material, settings, rounds)
        if isinstance(agent.judge, ModelJudge):
            held_out = [*material.held_out.fires, *material.held_out.quiet]
            text = "".join(shown_text(example.tokens) for example in held_out)
            per = agent.judge.per_question
            checks = -(-2 * settings.checked // per)
            # An attempt is judged, and where it fails once more for what is wrong with it.
            asked.append(
                (2 * rounds * checks, text[: len(text) * per // max(len(held_out), 1)], 60)
            )
            for kind, questions, answer in (
                ("detection", -(-len(held_out) // per), 60),
                ("fuzzing", -(-len(material.held_out.fires) // per), 60),
                ("simulation", len(held_out), _LEVELS_TOKENS),
            ):
                if kind in settings.kinds and questions:
                    asked.append((questions, text[: len(text) // questions], answer))
        for times, words, answer in asked:
            calls += times
            read += times * (about_tokens(len(words)) + _QUESTION_TOKENS)
            written += times * answer
    scale = features / max(len(materials), 1)
    usage = Usage(round(read * scale), round(written * scale))
    price: Optional[Price] = agent.backend.price
    cost = None if price is None else price.of(usage)
    return Estimate(
        features, round(calls * scale), usage.prompt_tokens, usage.completion_tokens, cost
    )


def _choices(
    material: FeatureMaterial, settings: AgentSettings, rounds: int
) -> list[tuple[int, str, int]]:
    """The questions of a judge that is asked about one text at a time."""
    held_out = [*material.held_out.fires, *material.held_out.quiet]
    fires, texts = len(material.held_out.fires), [shown_text(one.tokens) for one in held_out]
    text = max(texts, key=len, default="")
    times = {
        "detection": len(held_out),
        "fuzzing": fires,
        "simulation": sum(len(one.tokens) for one in held_out),
    }
    n_scored = sum(times[kind] for kind in settings.kinds)
    n_checked = 2 * settings.checked * 2 * rounds  # and again where it fails, for what is wrong
    return [(n_scored + n_checked, text, _CHOICE_TOKENS)]


# ---- running -----------------------------------------------------------------------------------


def explain_many(
    features: Sequence[Feature],
    material_of: Callable[[Site, int], FeatureMaterial],
    explain: Explain,
    log: Optional[ExplanationLog] = None,
    workers: int = 1,
    ctx: Optional[WorkContext] = None,
) -> Iterator[FeatureVerdict]:
    """Explain features, several at once, and give verdicts as they are done.

    What is in the log already is given from there, first.

    Raises:
        StudioError: a feature cannot be explained, or the log cannot be written; those that are
            done stay in the log.
        Cancelled: through ``ctx``.
    """
    from attention_studio.core.feature_names import FeatureName

    ctx = ctx or WorkContext()
    done = log.done if log is not None else {}
    left: list[Feature] = []
    for site, index in features:
        name = str(FeatureName(site, None, index))
        if name in done:
            yield done[name]
        else:
            left.append((site, index))
    waiting = iter(left)
    finished = len(features) - len(left)
    stopping = threading.Event()

    def work(feature: Feature) -> Optional[FeatureVerdict]:
        return None if stopping.is_set() else explain(material_of(*feature))

    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        running: set[Future[Optional[FeatureVerdict]]] = set()
        try:
            while True:
                ctx.check()
                # No more than are running: what waits in a queue cannot be stopped.
                while len(running) < max(workers, 1) and (feature := next(waiting, None)):
                    running.add(pool.submit(work, feature))
                if not running:
                    return
                ready, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in ready:
                    verdict = future.result()
                    if verdict is None:
                        continue
                    if log is not None:
                        log.add(verdict)
                    finished += 1
                    ctx.progress(finished, len(features), "Explaining features")
                    yield verdict
        finally:
            stopping.set()
