"""Notices: mitmproxy's warnings as single lines without credentials."""

import asyncio
import logging

from tbench.capture.proxy import notices

log = logging.getLogger("mitmproxy.test")


def heard(*records: tuple[int, str, BaseException | None]) -> list[str]:
    said: list[str] = []
    with notices(said.append):
        for level, text, error in records:
            log.log(level, text, exc_info=error)
    return said


def test_warnings_become_one_line_without_traceback() -> None:
    """A crash names its kind; the details are for --debug of mitmproxy itself."""
    assert heard((logging.ERROR, "mitmproxy has\n crashed!", NotImplementedError("x"))) == [
        "mitmproxy has crashed! (NotImplementedError)"
    ]


def test_keys_in_urls_are_masked() -> None:
    """A warning may quote a request."""
    (line,) = heard((logging.WARNING, "cannot GET http://x/v1?api_key=sk-abcdefghijklm", None))

    assert "sk-abc" not in line


def test_a_warning_that_repeats_is_said_once() -> None:
    """A hundred failing handshakes must not scroll everything else away."""
    assert heard(*[(logging.WARNING, "handshake failed", None)] * 5) == ["handshake failed"]


def test_cancelled_tasks_and_mere_information_are_not_news() -> None:
    """They are how connections end."""
    assert (
        heard((logging.ERROR, "task", asyncio.CancelledError()), (logging.INFO, "hello", None))
        == []
    )


def test_the_root_logger_is_as_before_afterwards() -> None:
    """A test or a program that embeds the capture keeps its logging."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    heard()

    assert (root.level, root.handlers) == before
