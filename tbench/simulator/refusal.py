"""The error answers of the service: status, body and headers as Together's public documents have them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass
class Refusal(Exception):  # noqa: N818 (a refusal is an answer, not a defect)
    """An error answer, with a JSON body unless it has a page."""

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    page: bytes | None = None

    def content(self, request_id: str) -> tuple[bytes, str]:
        """The body and its content type."""
        if self.page is not None:
            return self.page, "text/html; charset=UTF-8"
        said = {"id": request_id, **error(self.message, self.type, self.code)}
        return orjson.dumps(said), "application/json; charset=utf-8"


def error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """The error object, in a body or in a stream."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


_KNOWN: dict[int, tuple[str, str, str | None]] = {
    400: ("Input validation error", "invalid_request_error", None),
    401: (
        "Invalid API key provided. You can find your API key in the settings of your account.",
        "invalid_request_error",
        "invalid_api_key",
    ),
    402: ("Credit limit exceeded. Please add credits.", "credit_limit", "credit_limit"),
    404: ("Not found", "invalid_request_error", None),
    429: (
        "You have reached the rate limit of this model. Please slow down.",
        "dynamic_request_limited",
        "rate_limit_exceeded",
    ),
    500: ("Internal server error", "server_error", None),
    503: ("The server is overloaded or not ready yet.", "service_unavailable", None),
    504: ("The request timed out.", "timeout", None),
}


def refusal(status: int, headers: Mapping[str, str] | None = None) -> Refusal:
    """The usual error answer of a status."""
    fallback = ("Server error", "server_error", None)
    return Refusal(status, *_KNOWN.get(status, fallback), headers=headers or {})


def invalid(message: str) -> Refusal:
    """400: the body is not what the endpoint takes."""
    return Refusal(400, f"Input validation error: {message}")


def no_such_model(model: str) -> Refusal:
    """404: the model is not served here."""
    message = f"Unable to access model {model}. Please see the list of supported models."
    return Refusal(404, message, code="model_not_available")


def gateway_page() -> Refusal:
    """520: what a gateway in front of the service answers in its stead."""
    title = "520: Web server is returning an unknown error"
    page = f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{title}</body></html>"
    return Refusal(520, title, page=page.encode())
