"""Who takes part in a comparison: scripts, each in a process and an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers import peer_python

STUDIO = "attention-studio"
Job = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One row of a table: a script, the environment it runs in, and what it is told."""

    name: str
    environment: str
    script: str
    options: Job = field(default_factory=dict)


def told(job: Job, entry: Entry) -> Job:
    """The job as a contestant hears it."""
    settings = {**job.get("settings", {}), **entry.options.get("settings", {})}
    return {**job, **entry.options, "settings": settings}


class Process:
    """A contestant's process, which answers in lines of JSON.

    Args:
        entry: whom to start.
        job: what it is told; ``threads`` is how many it may use.
        scripts: the folder of its script.
        work_dir: where its log goes.
    """

    def __init__(self, entry: Entry, job: Job, scripts: Path, work_dir: Path) -> None:
        self.entry = entry
        log = work_dir / "logs" / f"{entry.script}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        threads = str(job["threads"])
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(Path(__file__).parent),  # answers.py
        }
        with log.open("a", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [
                    str(python_of(entry.environment)),
                    str(scripts / entry.script),
                    json.dumps(told(job, entry)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )

    def answer(self) -> Job:
        """The next answer; ends the whole benchmark if the process has died."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.entry.name} failed; see {self._log}")
        found: Job = json.loads(line)
        return found

    def ask(self, words: str) -> Job:
        """Say something and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        return self.answer()

    def do(self, what: str, **told: Any) -> Job:
        """Say ``{"do": what, …}`` in JSON, and wait for the answer."""
        return self.ask(json.dumps({"do": what, **told}))

    def close(self) -> None:
        """Let it end by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def python_of(environment: str) -> Path:
    """The interpreter of the studio's environment, which is this one, or of a peer's."""
    return Path(sys.executable) if environment == STUDIO else peer_python(environment)


def versions(environment: str) -> dict[str, str]:
    """Torch and the contestant, as installed."""
    wanted = ("torch", environment)
    code = "import sys\nfrom importlib.metadata import version\nprint(*map(version, sys.argv[1:]))"
    found = subprocess.run(
        [python_of(environment), "-c", code, *wanted], check=True, capture_output=True, text=True
    )
    return dict(zip(wanted, found.stdout.split(), strict=True))
