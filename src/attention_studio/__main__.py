"""``attention-studio``: without a subcommand the window, with one the headless commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Optional


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the program.

    Returns:
        0 done, 1 failed, 2 wrong usage, 130 stopped at once by Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] != "app":
        try:
            from attention_studio import cli

            return cli.main(arguments)
        except KeyboardInterrupt:  # before the work began, or for the second time
            sys.stderr.write("\nattention-studio: Stopped at once, as asked.\n")
            return 130
    return _open_window(arguments[1:])


def _open_window(arguments: Sequence[str]) -> int:
    from attention_studio.utils.display import (
        draws_on_x11,
        has_display,
        how_to_install,
        missing_packages,
        x11_answers,
    )
    from attention_studio.utils.errors import StudioError

    asks_for_help = bool({"-h", "--help"} & set(arguments))
    if not has_display() and not asks_for_help:
        _tell("There is no display here, so no window can be opened.")
        return 1
    # Where Qt cannot load its plugin for X11 or reach the server it ends the process: ask before.
    missing = missing_packages(draws_on_x11())
    if missing:
        _tell(f"No window can be opened without what Qt draws with. {how_to_install(missing)}.")
        return 1
    if draws_on_x11() and not x11_answers():
        display = os.environ.get("DISPLAY", "")
        _tell(f"The display '{display}' does not answer, so no window can be opened.")
        return 1
    try:
        from attention_studio.ui import app
    except ImportError as error:
        _tell(f"The window cannot be opened: {error}.")
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
