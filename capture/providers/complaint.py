"""What a server complains about: one line out of any error body, short and without secrets."""

import re

LONGEST = 200

_MARKUP = re.compile(
    r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]{0,2000}>", re.DOTALL | re.IGNORECASE
)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.DOTALL | re.IGNORECASE)
_HIDDEN = (
    (re.compile(r"\b(bearer|basic)\s+[^\s\"',;]+", re.IGNORECASE), r"\1 ***"),
    (
        re.compile(
            r"(\b(?:(?:api|secret|access|auth)[ _-]?(?:key|token)|secret|password)"
            r"(?: provided)?[\"']?\s*[:=]\s*)[\"']?[^\s\"',;]+",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    (re.compile(r"://[^/\s@]+@"), "://***@"),
    (re.compile(r"\b(?:sk|pk|rk|gsk|tgp|fw|hf|r8|xai|key|AIza|eyJ)[-_A-Za-z0-9.*]{10,}"), "***"),
)
_TOKEN = re.compile(r"[A-Za-z0-9_\-+/=]{20,}")
_WORD = re.compile(r"[a-z]{7}")
_RUN = re.compile(r"[A-Za-z0-9]{20,}")


def complaint(payload: object) -> str | None:
    """The message in an error body, or None where it holds no error.

    Args:
        payload: decoded JSON: `{"error": {"message"}}`, `{"error": "text"}`, `{"message"}`,
            `{"detail"}`, `{"errors": [...]}`; or a string.
    """
    return one_line(text) if (text := _message(payload)) else None


def one_line(text: str) -> str:
    """A text for people: markup dropped, white space joined, secrets masked, at most 200 characters."""
    if title := _TITLE.search(text):
        text = title[1]
    text = " ".join(_MARKUP.sub(" ", text[:20_000]).split())
    text = masked(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def masked(text: str) -> str:
    """The text with everything that looks like a credential replaced by `***`."""
    for pattern, mask in _HIDDEN:
        text = pattern.sub(mask, text)
    return _TOKEN.sub(lambda match: "***" if _random(match[0]) else match[0], text)


def _random(token: str) -> bool:
    """Whether a long token looks drawn rather than named: model names hold words, keys do not."""
    if not any(char.isdigit() for char in token):
        return False
    if any(any(c.isdigit() for c in run) for run in _RUN.findall(token)):
        return True
    return len(token) >= 32 and not _WORD.search(token)


def _message(payload: object) -> str | None:
    if isinstance(payload, str):
        return payload
    if isinstance(payload, list):
        return next((text for item in payload if (text := _message(item))), None)
    if not isinstance(payload, dict):
        return None
    keys = ("error", "message", "detail", "errors", "msg", "error_type", "type", "code")
    return next((text for key in keys if (text := _message(payload.get(key)))), None)
