"""Child processes that stop when the person cancels."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Optional

from attention_studio.utils.progress import WorkContext

_POLL_SECONDS = 0.1


def run_process(
    command: Sequence[str],
    ctx: WorkContext,
    env: Optional[Mapping[str, str]] = None,
    on_poll: Callable[[], None] = lambda: None,
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end; kill it and whatever it started when ``ctx`` is cancelled.

    Args:
        command: program and arguments, without a shell.
        ctx: asked ten times a second.
        env: environment variables to set on top of the present ones.
        on_poll: called ten times a second, to report progress.

    Returns:
        Exit status, standard output and standard error. Whatever the status: the caller judges.

    Raises:
        Cancelled: through ``ctx``; the child is gone by then.
        OSError: the program cannot be started.
    """
    # Files, not pipes: a pipe that nobody empties would block the child.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        try:
            while True:
                ctx.check()
                on_poll()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
                    break
        finally:
            if process.poll() is None:
                _kill(process)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(
            list(command),
            process.returncode,
            out.read().decode("utf-8", "replace"),
            err.read().decode("utf-8", "replace"),
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    if os.name == "posix":
        import signal

        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
