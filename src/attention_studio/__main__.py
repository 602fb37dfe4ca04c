"""``attention-studio``: without a subcommand the window, with one the headless commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Optional


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the program.

    Returns:
        0 done, 1 failed, 2 wrong usage.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] != "app":
        from attention_studio import cli

        return cli.main(arguments)
    return _open_window(arguments[1:])


def _open_window(arguments: Sequence[str]) -> int:
    from attention_studio.utils.errors import StudioError

    try:
        from attention_studio.ui import app
    except ImportError as error:
        # Qt's libraries lean on the system's (libEGL, libxkbcommon), which a server may not have.
        _tell(f"The window cannot be opened: {error}.")
        return 1
    if not app.has_display():
        _tell("There is no display here, so no window can be opened.")
        return 1
    try:
        return app.run(arguments)
    except StudioError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _tell(problem: str) -> None:
    sys.stderr.write(
        f"{problem} The headless commands do the same work: try 'attention-studio --help', "
        f"or 'attention-studio doctor' to see what is missing.{os.linesep}"
    )


if __name__ == "__main__":
    sys.exit(main())
