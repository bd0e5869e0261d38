"""Portability: what in a request only who issued it can read, and what who is asked next refuses.

BONDS is the table: what binds a request is a row, which says where it stands in each dialect and whether
the request goes without it, with it under another name, or stays behind; replay.makers says when it acts.
docs/portability.md is the same table for people.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from tbench.capture.exchange import Headers
from tbench.replay.body_paths import Json, Tree, grow, pruned
from tbench.replay.dialects.messages import SHAPE_NAME
from tbench.replay.makers import Level

ANY: Final = "any"
"""Beside the names of endpoints: all of them."""


@dataclass(frozen=True, kw_only=True)
class Bond:
    """One thing that binds a request to who issued it.

    `places` has its paths in a body, by endpoint or ANY. A path is names with dots between them. `[]` behind
    a name means each item of a list; `[a|b*]` the items that are such a text or an object of such a `type`;
    `[!a|b]` the objects of any other type; `[a+m]` and `[a-m]` those that have, or have not, a member m.
    `=true`, `=none` behind the last name ask for that value. Null and what is empty stands nowhere. The last
    name or item is what goes, or, where not `drops`, why the whole request is left out. What `becomes`
    another member, at the top of the body, goes under that name, unless that is there as well. What no path
    can tell `rewrites` does: it gives the members at the top that change, with what they are then (None: they
    go); `places` and `becomes` say it to people. `headers` (names in lower case) go, whatever the endpoint
    is. The row acts at its `level`, and at those that are `also`.
    """

    level: Level
    drops: bool
    why: str
    also: Sequence[Level] = ()
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    headers: Sequence[str] = ()
    becomes: str | None = None
    rewrites: Callable[[Json], Json] | None = None

    def acts(self, levels: frozenset[Level]) -> bool:
        """Whether it does where these act."""
        return not levels.isdisjoint((self.level, *self.also))


def _second_limit(body: Json) -> Json:
    both = None not in (body.get("max_tokens"), body.get("max_completion_tokens"))
    return {"max_tokens": None} if both else {}


def _counted_logprobs(body: Json) -> Json:
    """Together's number of likely tokens, in the two members that OpenAI has for it."""
    number, top = body.get("logprobs"), body.get("top_logprobs")
    if type(number) is not int or not 0 <= number <= MOST_LOGPROBS:
        return {}
    return {"logprobs": True, "top_logprobs": number if top is None else top}


def _other_logprobs(body: Json) -> Json:
    if isinstance(body.get("logprobs"), bool | None):
        return {}
    return {"logprobs": None, "top_logprobs": None}


def _named_schema(body: Json) -> Json:
    """The schema of an answer where OpenAI has it, under the name that it must have."""
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": dict(named), **rest}:
            if isinstance(named.get("name"), str) and not rest:
                return {}
        case {"type": "json_schema" | "json_object", "schema": dict(schema)} if schema:
            named = {"schema": schema}
        case {"type": "json_object", **rest} if rest:
            return {"response_format": {"type": "json_object"}}
        case _:
            return {}
    named = {**named, "name": named.get("name") or SHAPE_NAME}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _other_shape(body: Json) -> Json:
    match body.get("response_format"):
        case (
            None | {"type": "text" | "json_object"} | {"type": "json_schema", "json_schema": dict()}
        ):
            return {}
    return {"response_format": None}


def has_functions(body: Json) -> bool:
    """Whether a request brings functions, in whatever dialect (Messages have them without a type)."""
    tools = body.get("tools")
    return isinstance(tools, list) and any(
        isinstance(tool, dict) and (tool.get("type") == "function" or "input_schema" in tool)
        for tool in tools
    )


def _calls_alone(body: Json) -> Json:
    """No effort beside functions, which a model may be asked for by itself, too."""
    if body.get("reasoning_effort") == "none" or not has_functions(body):
        return {}
    return {"reasoning_effort": "none"}


MOST_LOGPROBS: Final = 20
"""So many likely tokens Together and OpenAI give for each."""

BONDS: Final[dict[str, Bond]] = {
    # Rows that leave a request out come before those that drop: the first that fits is the reason.
    "previous_response_id": Bond(
        level="state",
        drops=False,
        why="the server holds what was said before",
        places={"responses": ("previous_response_id",)},
    ),
    "conversation": Bond(
        level="state",
        drops=False,
        why="the server holds what was said before",
        places={"responses": ("conversation",)},
    ),
    "background": Bond(
        level="state",
        drops=False,
        why="the answer is a job that the server keeps",
        places={"responses": ("background=true",)},
    ),
    "item_reference": Bond(
        level="state",
        drops=False,
        why="the server holds the item",
        places={"responses": ("input[item_reference]",)},
    ),
    "container": Bond(
        level="state",
        drops=False,
        why="the server holds the container's files",
        places={"messages": ("container",)},
    ),
    "mcp": Bond(
        level="state",
        drops=False,
        why="the server calls servers of others, which do who knows what",
        places={"messages": ("mcp_servers",), "responses": ("tools[mcp]",)},
    ),
    "compaction": Bond(
        level="issuer",
        drops=False,
        why="what was said before is encrypted",
        places={"responses": ("input[compaction|compaction_summary]",)},
    ),
    "prompt_template": Bond(
        level="issuer",
        drops=False,
        why="the issuer holds the text of the prompt",
        places={"responses": ("prompt",)},
    ),
    "file_id": Bond(
        level="issuer",
        drops=False,
        why="the issuer holds the file",
        places={
            "chat": ("messages[].content[].file.file_id",),
            "messages": (
                "messages[].content[].source.file_id",
                "messages[].content[].content[].source.file_id",
                "messages[].content[container_upload]",
            ),
            "responses": ("input[].content[].file_id", "input[].output[].file_id"),
        },
    ),
    "vector_store": Bond(
        level="issuer",
        drops=False,
        why="the issuer holds the documents that are searched",
        places={"responses": ("tools[file_search]",)},
    ),
    "server_tool_calls": Bond(
        level="issuer",
        drops=False,
        why="the history holds what tools of the issuer gave back, in forms of its own",
        places={
            "messages": ("messages[].content[server_tool_use|mcp_tool_use|*_tool_result]",),
            "responses": ("input[!message|reasoning|function_call*|custom_tool_call*]",),
        },
    ),
    "encrypted_reasoning": Bond(
        level="issuer",
        drops=True,
        why="encrypted by its issuer",
        places={
            "chat": ("messages[].reasoning_details[reasoning.encrypted]",),
            "responses": (
                "include[reasoning.encrypted_content]",
                "input[reasoning+encrypted_content]",
                "input[reasoning-content]",
            ),
        },
    ),
    "thought_signature": Bond(
        level="issuer",
        drops=True,
        why="signed by Gemini, which refuses it after a change of model, key or route",
        places={
            "chat": tuple(
                f"messages[].{place}"
                for place in (
                    "extra_content",
                    "provider_specific_fields",
                    "tool_calls[].extra_content",
                    "tool_calls[].provider_specific_fields",
                    "tool_calls[].thought_signature",
                    "tool_calls[].thoughtSignature",
                    "tool_calls[].function.thought_signature",
                )
            ),
        },
    ),
    "thinking_signature": Bond(
        level="issuer",
        drops=True,
        why="signed by Anthropic, or redacted: the whole block goes",
        places={
            "chat": ("messages[].thinking_blocks", "messages[].reasoning_details[+signature]"),
            "messages": ("messages[].content[thinking|redacted_thinking]",),
        },
    ),
    "store": Bond(
        level="issuer",
        drops=True,
        why="asks a server to keep the answer, which many refuse",
        places={"chat": ("store=true",), "responses": ("store=true",)},
    ),
    "beta": Bond(
        level="issuer",
        drops=True,
        why="asks for what its issuer alone tries out",
        headers=("anthropic-beta", "openai-beta"),
    ),
    "server_tools": Bond(
        level="issuer",
        drops=True,
        why="tools that the issuer runs, or whose form is its own: answers may be others without them",
        places={
            "chat": ("tools[!function|custom]", "web_search_options", "plugins"),
            "messages": ("tools[!function|custom]",),
            "responses": ("tools[!function|custom]",),
        },
    ),
    "cache_control": Bond(
        level="gateway",
        also=("openai",),
        drops=True,
        why="marks for Anthropic's cache",
        places={
            "chat": tuple(
                f"{place}.cache_control"
                for place in ("tools[]", "messages[]", "messages[].content[]")
            ),
            "messages": (
                "cache_control",
                *(
                    f"{place}.cache_control"
                    for place in (
                        "tools[]",
                        "system[]",
                        "messages[].content[]",
                        "messages[].content[].content[]",
                    )
                ),
            ),
        },
    ),
    "cache_key": Bond(
        level="gateway",
        drops=True,
        why="hints for a cache of prefixes",
        places={ANY: ("prompt_cache_key", "prompt_cache_retention", "cache_salt")},
    ),
    "account": Bond(
        level="gateway",
        drops=True,
        why="names for the issuer's own accounts",
        places={ANY: ("metadata", "user", "safety_identifier", "service_tier")},
    ),
    "engine": Bond(
        level="gateway",
        also=("openai",),
        drops=True,
        why="extensions of vLLM and SGLang: without ignore_eos and min_tokens an answer may be shorter",
        places={
            ANY: (
                "ignore_eos",
                "min_tokens",
                "return_token_ids",
                "priority",
                "kv_transfer_params",
                "chat_template_kwargs",
            )
        },
    ),
    "stream_extras": Bond(
        level="gateway",
        drops=True,
        why="extensions of vLLM and of OpenAI to the usage of a stream",
        places={
            ANY: ("stream_options.continuous_usage_stats", "stream_options.include_obfuscation")
        },
    ),
    "reasoning_text": Bond(
        level="gateway",
        also=("openai",),
        drops=True,
        why="earlier reasoning in members that no common form has",
        places={
            "chat": (
                "messages[].reasoning",
                "messages[].reasoning_content",
                "messages[].reasoning_details",
            )
        },
    ),
    "foreign_sampling": Bond(
        level="openai",
        drops=True,
        why="ways of sampling that OpenAI has not: answers may be others without them",
        places={
            ANY: (
                *(
                    "top_k",
                    "top_a",
                    "min_p",
                    "typical_p",
                    "tfs_z",
                    "mirostat",
                    "repetition_penalty",
                ),
                *("repeat_penalty", "length_penalty", "no_repeat_ngram_size", "use_beam_search"),
                *("stop_token_ids", "include_stop_str_in_output", "bad_words", "do_sample"),
            )
        },
    ),
    "foreign_members": Bond(
        level="openai",
        drops=True,
        why="members that the chats of other makers, gateways and engines have, and OpenAI's has not",
        places={
            ANY: ("stream_options.continuous_usage_stats", "cache_salt"),
            "chat": (
                # Together, Mistral, Groq, Anthropic's and the Chinese makers' ways to think, OpenRouter,
                # vLLM and SGLang, llama.cpp and Ollama.
                *("echo", "safety_model", "compliance", "context_length_exceeded_behavior"),
                *("safe_prompt", "random_seed", "prompt_mode"),
                *("reasoning_format", "include_reasoning", "citation_options", "documents"),
                *("thinking", "enable_thinking", "thinking_budget", "enable_search", "reasoning"),
                *("provider", "models", "route", "transforms", "usage"),
                *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
                *("regex", "ebnf"),
                *("structured_outputs", "chat_template", "add_generation_prompt"),
                *("continue_final_message", "add_special_tokens", "skip_special_tokens"),
                *("spaces_between_special_tokens", "truncate_prompt_tokens", "prompt_logprobs"),
                *("separate_reasoning", "request_id", "num_ctx", "n_predict", "cache_prompt"),
            ),
        },
    ),
    **{
        name: Bond(
            level="gateway",
            also=("openai",),
            drops=True,
            why="a chat's member that the dialect has not: answers may be others without it",
            places={"responses": (name,)},
        )
        for name in ("stop", "seed", "n", "presence_penalty", "frequency_penalty", "logit_bias")
    },
    "second_limit": Bond(
        level="openai",
        drops=True,
        why="of two limits OpenAI takes one: max_completion_tokens stays",
        places={"chat": ("max_tokens",)},
        rewrites=_second_limit,
    ),
    "logprobs_form": Bond(
        level="openai",
        drops=True,
        why="OpenAI takes Together's number of logprobs as logprobs true, and top_logprobs",
        places={"chat": ("logprobs",)},
        becomes="top_logprobs",
        rewrites=_counted_logprobs,
    ),
    "logprobs_value": Bond(
        level="openai",
        drops=True,
        why=f"neither true nor false, nor a number from 0 to {MOST_LOGPROBS}",
        places={"chat": ("logprobs", "top_logprobs")},
        rewrites=_other_logprobs,
    ),
    "schema_form": Bond(
        level="openai",
        drops=True,
        why="OpenAI takes the schema of an answer in json_schema alone, with a name",
        places={"chat": ("response_format.schema",)},
        becomes="response_format.json_schema",
        rewrites=_named_schema,
    ),
    "answer_form": Bond(
        level="openai",
        drops=True,
        why="a form that OpenAI cannot hold an answer to (a regex, a grammar): it may have any",
        places={"chat": ("response_format",)},
        rewrites=_other_shape,
    ),
    "effort": Bond(
        level="plain",
        drops=True,
        why="OpenAI's models that do not reason take no effort",
        places={
            "chat": ("reasoning_effort",),
            "responses": ("reasoning.effort", "reasoning.summary"),
        },
    ),
    "effort_none": Bond(
        level="restless",
        drops=True,
        why="this model of OpenAI's cannot be asked not to reason: it will",
        places={"chat": ("reasoning_effort=none",), "responses": ("reasoning.effort=none",)},
    ),
    "limit_name": Bond(
        level="reasoning",
        drops=True,
        why="OpenAI's models that reason take max_completion_tokens in place of max_tokens",
        places={"chat": ("max_tokens",)},
        becomes="max_completion_tokens",
    ),
    "stop_and_penalties": Bond(
        level="reasoning",
        drops=True,
        why="OpenAI's models that reason do not take them: an answer may go on where it would have ended",
        places={"chat": ("stop", "presence_penalty", "frequency_penalty", "logit_bias")},
    ),
    "fixed_sampling": Bond(
        level="sampling",
        drops=True,
        why="OpenAI's models sample in one way where they reason: answers may vary more",
        places={
            "chat": ("temperature", "top_p", "logprobs", "top_logprobs"),
            "responses": ("temperature", "top_p", "top_logprobs"),
        },
    ),
    "tools_effort": Bond(
        level="calling",
        drops=True,
        why="OpenAI's models from GPT-5.4 on take functions in a chat with the effort none alone: they do "
        "not reason (--to responses lets them)",
        places={"chat": ("reasoning_effort",)},
        rewrites=_calls_alone,
    ),
}
"""Reason -> what it is about."""


def left_out(payload: Json, endpoint: str, levels: frozenset[Level]) -> str | None:
    """Why a request cannot be sent without losing its meaning; None where it can."""
    tree = _tree(endpoint, levels, False, len(BONDS)) if levels else {}
    if tree.keys().isdisjoint(payload):  # mostly
        return None
    reasons: set[str] = set()
    pruned(payload, tree, reasons)
    return next((reason for reason in BONDS if reason in reasons), None)


def carried(payload: Json, endpoint: str, levels: frozenset[Level]) -> tuple[Json, list[str]]:
    """The payload without what must not go along (itself where all may), and what that was, by reason."""
    reasons: set[str] = set()
    if levels:
        body = pruned(payload, _tree(endpoint, levels, True, len(BONDS)), reasons)
        for reason in _rewriting(endpoint, levels, len(BONDS)):
            rewrites = BONDS[reason].rewrites
            if rewrites and (changes := rewrites(body)):
                reasons.add(reason)
                body = {
                    name: value
                    for name, value in {**body, **changes}.items()
                    if value is not None or name not in changes
                }
    if not reasons:
        return payload, []
    body = _mended(body, payload)
    for reason in reasons:
        bond = BONDS[reason]
        if (name := bond.becomes) and bond.rewrites is None and body.get(name) is None:
            (place,) = bond.places[endpoint]
            body[name] = payload[place]
    return body, [name for name in BONDS if name in reasons]


def renamed(endpoint: str, levels: frozenset[Level]) -> frozenset[str]:
    """The members of a body that go under another name where these act."""
    acting = (
        [bond for bond in BONDS.values() if bond.becomes and bond.acts(levels)] if levels else []
    )
    return frozenset(name for bond in acting for name in bond.places.get(endpoint, ()))


def unread(headers: Headers, levels: frozenset[Level]) -> list[str]:
    """Why headers must not go along, by reason."""
    if not levels:
        return []
    names = {name for name, _ in headers}
    acting = (reason for reason, bond in BONDS.items() if bond.acts(levels))
    return [reason for reason in acting if not names.isdisjoint(BONDS[reason].headers)]


def _mended(body: Json, before: Json) -> dict[str, Any]:
    """The body without what makes no sense any more: a choice of tools that are gone, turns of nothing."""
    mended = dict(body)
    tools, choice, turns = (body.get(name) for name in ("tools", "tool_choice", "messages"))
    # By identity: `pruned` gives the very list back where nothing of it went.
    if tools is not before.get("tools"):
        if not tools:
            mended.pop("tool_choice", None)
            mended.pop("parallel_tool_calls", None)
        elif isinstance(choice, dict):
            free = choice.get("type") in ("auto", "any", "none", "allowed_tools")
            if not free and _name(choice) not in map(_name, tools):
                del mended["tool_choice"]
    if isinstance(turns, list):
        mended["messages"] = [turn for turn in turns if turn != {"role": "assistant"}]
    return mended


def _name(tool: object) -> object:
    """The name in a tool or in a choice of one, which some dialects have in an object of their own."""
    holders = [tool, *tool.values()] if isinstance(tool, dict) else []
    names = (holder.get("name") for holder in holders if isinstance(holder, dict))
    return next((name for name in names if name), None)


@cache
def _rewriting(endpoint: str, levels: frozenset[Level], _rows: int) -> list[str]:
    """The rows that act and rewrite bodies of an endpoint, in their order."""
    return [
        reason
        for reason, bond in BONDS.items()
        if bond.rewrites and bond.acts(levels) and endpoint in bond.places
    ]


@cache
def _tree(endpoint: str, levels: frozenset[Level], drops: bool, _rows: int) -> Tree:
    """The paths of all rows that act. Raises ValueError for one that is no path: a defect of the table."""
    tree: Tree = {}
    for reason, bond in BONDS.items():
        if bond.drops is not drops or bond.rewrites or not bond.acts(levels):
            continue
        for path in (*bond.places.get(endpoint, ()), *bond.places.get(ANY, ())):
            grow(tree, path, reason)
    return tree
