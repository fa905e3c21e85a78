"""How the Hub is asked: with timeouts, and its answers told apart into what may be asked again and what is final."""

from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

# Not exported, but it alone brings the library's hooks (offline mode, request ids) to a client with timeouts.
from huggingface_hub.utils._http import default_client_factory

from release.retry import UnclearError
from stages.errors import UserError

PASSING = frozenset({408, 409, 412, 429, 500, 502, 503, 504})  # any other error is the Hub's final word
LONGEST_WAIT = 300.0  # seconds of a Retry-After that are waited
T = TypeVar("T")


def set_timeout(seconds: float) -> None:
    """Give every request a timeout; the library has none. Global in huggingface_hub."""

    def client() -> httpx2.Client:
        made = default_client_factory()
        made.timeout = httpx2.Timeout(seconds)
        return made

    set_client_factory(client)


def answer(call: Callable[[], T], remedy: str, xet_remedy: str) -> T:
    """Return the Hub's answer.

    Args:
        call: What is asked.
        remedy: What to check when the Hub refuses, a sentence.
        xet_remedy: What to do when the client fails and says that it is about Xet.

    Raises:
        UnclearError: There is none, or one that may be another next time.
        UserError: The Hub's word is final.
    """
    try:
        return call()
    except OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE is set, and this needs the Hub. Unset it.") from error
    except HfHubHTTPError as error:
        raise _refusal(error, remedy) from error
    except LocalEntryNotFoundError as error:  # the download's name for any failure to look a file up
        cause = error.__cause__
        raise _refusal(cause, remedy) if isinstance(cause, HfHubHTTPError) else _unanswered(cause or error) from error
    except ValueError as error:
        raise UserError(f"The Hub refused: {_one_line(error)} {remedy}") from error
    except httpx2.TransportError as error:
        raise _unanswered(error) from error
    except OSError as error:
        if error.errno is not None:
            raise
        hint = f" {xet_remedy}" if "xet" in str(error).lower() else ""
        raise UnclearError(f"the Hub's client failed: {_one_line(error)}.{hint}") from error


def _refusal(error: HfHubHTTPError, remedy: str) -> Exception:
    if error.response.status_code not in PASSING:
        return UserError(f"The Hub refused: {_one_line(error)} {remedy}")
    value = error.response.headers.get("Retry-After", "")
    return UnclearError(_one_line(error), min(float(value), LONGEST_WAIT) if value.isdecimal() else 0.0)


def _unanswered(error: BaseException) -> UnclearError:
    return UnclearError(f"no answer from the Hub ({type(error).__name__}: {_one_line(error)})")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
