"""What goes wrong between the studio and a chat endpoint, in words that say what to do."""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass
from typing import Optional

import httpx2

from attention_studio.agents.backends.chat_answer import complaint_of, shown
from attention_studio.agents.backends.records import (
    BackendAccessError,
    BackendAnswerError,
    BackendBusyError,
    BackendError,
    BackendNotFoundError,
    BackendRequestError,
    BackendUnreachableError,
)

_MAX_COMPLAINT = 64 << 10
_PASSING = {408, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}

# Who cannot be reached at all, or says nothing for minutes, is not asked again and again.
SLOW = (httpx2.TimeoutException, httpx2.ConnectError, httpx2.InvalidURL)


class Refused(Exception):  # noqa: N818 - becomes a BackendError once it is known what was asked
    """The endpoint answered with an error status.

    Attributes:
        status: the HTTP status.
        complaint: what it says, one short line.
        wait: seconds that it asks to wait; None: it does not say.
    """

    def __init__(self, status: int, complaint: str, wait: Optional[float]) -> None:
        super().__init__(status)
        self.status, self.complaint, self.wait = status, complaint, wait

    @classmethod
    async def of(cls, response: httpx2.Response) -> Refused:
        """The refusal that an answer is."""
        complaint = complaint_of(await _some_text(response))
        return cls(response.status_code, complaint, _wait_of(response.headers))

    @property
    def about_money(self) -> bool:
        """Whether the account is used up: some answer 429 then as well, and no waiting helps."""
        used_up = self.status == 429 and "quota" in self.complaint.lower() and self.wait is None
        return self.status == 402 or used_up

    @property
    def passing(self) -> bool:
        """Whether it may be different in a moment."""
        return self.status in _PASSING and not self.about_money


@dataclass(frozen=True)
class EndpointErrors:
    """The errors of one endpoint.

    Attributes:
        host: who is asked.
        address: where, without anything secret.
        model: for which model.
        has_key: whether a key is sent.
        timeout: seconds of silence after which it counts as gone.
    """

    host: str
    address: str
    model: str
    has_key: bool
    timeout: float

    def refused(self, refused: Refused, attempts: int = 1) -> BackendError:
        """An error status, after so many attempts."""
        status, said = refused.status, refused.complaint
        why = f"it says: {said}" if said else f"HTTP status {status}"
        if status in (401, 403) or refused.about_money:
            return self._no_access(refused, why)
        if status in (404, 405):
            return BackendNotFoundError(
                f"{self.host} knows no model {self.model}, or no chat at this address ({status})",
                why,
                "Check ATTENTION_STUDIO_AGENT_MODEL and ATTENTION_STUDIO_AGENT_URL: "
                f"{self.address} was asked",
            )
        if refused.passing or status >= 500:
            busy = status == 429
            parts = [why]
            if refused.wait is not None:
                parts.append(f"it asks to wait {refused.wait:,.0f} s")
            if attempts > 1:
                parts.append(f"asked {attempts} times")
            return BackendBusyError(
                f"{self.host} {'has too many requests' if busy else 'failed'} ({status})",
                "; ".join(parts),
                "Try again later" + (", or with fewer questions at once" if busy else ""),
            )
        return BackendRequestError(
            f"{self.host} refuses the request ({status})",
            why,
            "Ask for less, or choose another model",
        )

    def _no_access(self, refused: Refused, why: str) -> BackendAccessError:
        if refused.status == 401:
            what = f"{self.host} does not accept the key (401)"
        elif refused.status == 403:
            what = f"{self.host} does not allow this (403)"
        else:
            what = f"The account at {self.host} has nothing left ({refused.status})"
        if not self.has_key:
            return BackendAccessError(
                what, f"no key is set; {why}", "Set ATTENTION_STUDIO_AGENT_KEY"
            )
        todo = "Check ATTENTION_STUDIO_AGENT_KEY and the account that it belongs to"
        return BackendAccessError(what, why, todo)

    def lost(self, error: Exception) -> BackendUnreachableError:
        """A connection that failed."""
        reason = shown(str(error))
        if isinstance(error, httpx2.ReadTimeout):
            return BackendUnreachableError(
                f"{self.host} fell silent",
                f"nothing came for {self.timeout:g} s",
                "Try again, or allow more with ATTENTION_STUDIO_AGENT_TIMEOUT",
            )
        if isinstance(error, (httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.WriteError)):
            return self.broken_off(reason or "the connection was lost")
        return BackendUnreachableError(
            f"{self.host} cannot be reached",
            reason or type(error).__name__,
            "Check ATTENTION_STUDIO_AGENT_URL, that the endpoint runs, and the network",
        )

    def broken_off(self, why: str) -> BackendUnreachableError:
        """An answer that began and did not end."""
        return BackendUnreachableError(
            f"{self.host} broke off its answer", why, "Check the network and try again"
        )

    def redirected(self, place: str) -> BackendNotFoundError:
        """An endpoint that sends on to ``place``."""
        return BackendNotFoundError(
            f"{self.address} sends us on to another address ({shown(place)})",
            "redirects are not followed, because the key must not go elsewhere",
            "If you trust that address, set ATTENTION_STUDIO_AGENT_URL to it",
        )

    def no_answer(self, why: str) -> BackendAnswerError:
        """An answer that is none."""
        return BackendAnswerError(
            f"The answer of {self.host} cannot be read",
            why,
            "Check that ATTENTION_STUDIO_AGENT_URL is that of an endpoint of the OpenAI protocol",
        )


async def _some_text(response: httpx2.Response) -> str:
    """The beginning of an error's body, as far as it comes."""
    body = bytearray()
    try:
        async for piece in response.aiter_raw():
            body += piece
            if len(body) >= _MAX_COMPLAINT:
                break
    except httpx2.TransportError:
        return ""  # the status says enough
    return bytes(body[:_MAX_COMPLAINT]).decode("utf-8", errors="replace")


def _wait_of(headers: httpx2.Headers) -> Optional[float]:
    """Seconds that the endpoint asks to wait (RFC 9110, 10.2.3: seconds or a date)."""
    asked = str(headers.get("Retry-After", "")).strip()
    if asked.isdecimal():
        return float(asked[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
