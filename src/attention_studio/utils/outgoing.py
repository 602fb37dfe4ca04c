"""The log of outgoing traffic: one line for everything that the studio asks of other machines.

Whoever opens a connection, or has a library open one, says so here first. The lines reach the log
file and the Log dock like all others.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from loguru import logger


def log_outgoing(what: str) -> None:
    """Log that something is asked of another machine: who asks, and what for."""
    logger.info(f"Outgoing: {what}")


def log_request(method: str, url: str, what: str, sent: int = 0) -> None:
    """Log an HTTP request.

    Args:
        method: GET, POST and the like.
        url: where to; its query, which may hold credentials, is left out.
        what: in words, what is asked for.
        sent: bytes of text that leave with it.
    """
    carried = f", {sent:,} bytes sent" if sent else ""
    log_outgoing(f"{method} {public_address(url)} ({what}{carried})")


def public_address(url: str) -> str:
    """``url`` without what may be secret in it: names, passwords, query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{':' + str(parts.port) if parts.port else ''}{parts.path}"
