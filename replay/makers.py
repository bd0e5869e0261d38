"""Makers: who answers at a host, of what family a model is, and what acts on a request for it."""

import math
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Final, Literal

Level = Literal[
    "state", "issuer", "gateway", "openai", "plain", "reasoning", "restless", "sampling", "calling"
]
"""state: not even its issuer is asked again. issuer: nobody else can be. gateway: a strict one refuses.

openai: OpenAI refuses it, as it knows no such member. plain: its models that do not reason refuse it.
reasoning: those that reason do. restless: those do that cannot be asked not to. sampling: those that reason
do unless they are asked not to. calling: those do from GPT-5.4 on, of a chat with tools.
"""
Portable = Literal["off", "auto", "strict"]

MAKERS: Final[Mapping[str, str]] = {
    "anthropic": r"api\.anthropic\.com",
    "azure": r".*\.(openai|services\.ai|cognitiveservices)\.azure\.com",
    "bedrock": r"bedrock(-runtime)?\..*\.amazonaws\.com",
    "deepinfra": r"api\.deepinfra\.com",
    "deepseek": r"api\.deepseek\.com",
    "fireworks": r"api\.fireworks\.ai",
    "google": r"generativelanguage\.googleapis\.com|.*aiplatform\.googleapis\.com",
    "groq": r"api\.groq\.com",
    "mistral": r"api\.mistral\.ai",
    "openai": r"api\.openai\.com",
    "openrouter": r"openrouter\.ai",
    "together": r"api(-inference)?\.together\.(ai|xyz)",
    "xai": r"api\.x\.ai",
}
"""Who answers at a host, and reads what was issued there. Of any other host the model alone tells."""
_FAMILY: Final = re.compile(
    r"gpt-oss|claude|gemini|gemma|llama|qwen|deepseek|kimi|glm|minimax|grok|"
    r"(?P<gpt>chatgpt|gpt|codex|\bo\d)|(?P<mistral>m[ai][sx]tral|codestral|devstral|magistral)"
)


@cache
def maker(host: str) -> str | None:
    """Who answers at a host (with or without a port); None where nobody knows: a gateway, this machine."""
    name = host.lower().partition(":")[0]
    return next((who for who, hosts in MAKERS.items() if re.fullmatch(hosts, name)), None)


@cache
def family(model: str) -> str:
    """What kind of model a name means: `claude`, `llama`; of a name that is not known its first word."""
    name = model.lower().rpartition("/")[2]
    if match := _FAMILY.search(name):
        return match.lastgroup or match[0]
    word = re.match(r"[a-z]*", name)
    return (word and word[0]) or name


def changes_hands(host: str, model: str | None, to_host: str, to_model: str | None) -> bool:
    """Whether a request goes to another than its issuer.

    That is so where the family of its model changes, or where both hosts are known makers' and differ.
    """
    if model is not None and to_model is not None and family(model) != family(to_model):
        return True
    issuer, reader = maker(host), maker(to_host)
    return issuer is not None and reader is not None and issuer != reader


def levels(portable: Portable, *, foreign: bool) -> frozenset[Level]:
    """What acts on a request: `auto` where it changes hands, `strict` on each, `off` on none."""
    if portable == "strict":
        return frozenset({"state", "issuer", "gateway"})
    if portable == "auto" and foreign:
        return frozenset({"state", "issuer"})
    return frozenset()


REASONS: Final = re.compile(
    r"(?:ft:)?(?:o\d+|gpt-(?:[5-9]|\d\d+)(?:\.\d+)?(?!-chat)|gpt-(?:[5-9]|\d\d+)\.\d+-chat|codex-mini|computer-use)(?:[-:].*)?"
)
"""Models of OpenAI that reason; a `gpt-5-chat` does not, unlike those of later versions."""
CALM: Final = re.compile(r"gpt-5\.(?P<minor>\d+)(?!.*-(?:pro|codex|chat))(?:-.*)?")
"""Those of them that answer without reasoning if asked to; the first two versions do so by themselves."""
LATER: Final = re.compile(r"gpt-(?:[6-9]|\d\d+)(?!.*-(?:astra|pro|codex|chat)).*")
"""Models after GPT-5 that know the effort `none`; whether they sample as asked then is not known."""
CALLING: Final = 4
"""From this version of 5 on, none of them calls functions in a chat while it reasons."""


@lru_cache(maxsize=512)  # traffic asks few models
def refused(
    portable: Portable,
    *,
    host: str,
    model: str | None,
    to_host: str,
    to_model: str | None,
    effort: str | None,
    functions: bool = False,
) -> frozenset[Level]:
    """What acts on a request by who is asked, whoever issued it; `effort` is that of its reasoning.

    `functions` says that it is a chat with functions, which goes without reasoning where both are refused.

    `auto` acts at OpenAI, unless the request was recorded there with that very model: then it went, and goes,
    as it is. `strict` takes any host for one before OpenAI if a model of its family is asked for.
    """
    name = (to_model or "").lower().rpartition("/")[2]
    asked = maker(to_host) == "openai" and not (maker(host) == "openai" and model == to_model)
    if portable == "strict":
        asked = maker(to_host) == "openai" or family(name) == "gpt"
    if portable == "off" or not asked:
        return frozenset()
    if not REASONS.fullmatch(name):
        return frozenset({"openai", "plain"})
    calm = CALM.fullmatch(name)
    minor = int(calm["minor"]) if calm else math.inf
    if not calm and not LATER.fullmatch(name):
        return frozenset({"openai", "reasoning", "restless", "sampling"})
    acting: set[Level] = {"openai", "reasoning"}
    if minor >= CALLING:
        acting.add("calling")
        effort = "none" if functions else effort
    if not calm or (effort != "none" and (effort is not None or minor > 2)):
        acting.add("sampling")
    return frozenset(acting)
