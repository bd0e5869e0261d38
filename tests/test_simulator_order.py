"""What a request orders and what is said in answer: bodies, refusals, seeded texts."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.simulator.answer import Branch, Kind, compose, instance
from tbench.simulator.engine import Lengths
from tbench.simulator.messages import order as messages_order
from tbench.simulator.order import Refusal, chat_order, completion_order, parse_body
from tbench.simulator.responses import order as responses_order
from tbench.simulator.strict import check_strict

CONTEXT = 10_000
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["C", "F"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
                "spare": {"type": "string"},
            },
            "required": ["city", "unit", "days"],
        },
    },
}


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello there"}], **changes}


def answer(tokens: int | None = None, seed: int = 0, **changes: Any) -> list[Branch]:
    return compose(chat_order(body(**changes), CONTEXT), Lengths(), seed, tokens)


def text(branch: Branch) -> str:
    return branch.text(Kind.TEXT)


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": None},
        {"messages": []},
        {"messages": ["hello"]},
        {"max_tokens": 0},
        {"max_tokens": "many"},
        {"n": 129},
        {"temperature": 3},
        {"stream": "yes"},
        {"ignore_eos": 1},
        {"stop": 7},
        {"tools": {}},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
    ],
)
def test_a_body_that_makes_no_sense_is_refused_with_400(changes: dict[str, Any]) -> None:
    """The refusal is a validation error in Together's form."""
    with pytest.raises(Refusal, match="Input validation error") as caught:
        chat_order(body(**changes), CONTEXT)

    assert caught.value.status == 400


def _nested(deep: int) -> bytes:
    return b'{"model":"m","tools":' + b"[" * (deep - 1) + b"]" * (deep - 1) + b"}"


@pytest.mark.parametrize(
    ("endpoint", "odd"),
    [
        ("messages", {"messages": 5}),
        ("messages", {"messages": [{"role": "user", "content": 5}]}),
        ("responses", {"include": 5}),
    ],
)
def test_a_strict_gateway_leaves_to_others_what_is_in_the_place_of_a_list_or_text(
    endpoint: str, odd: dict[str, Any]
) -> None:
    """Whoever reads the body refuses it; nothing is raised here."""
    check_strict(endpoint, odd)


def test_a_strict_gateway_refuses_a_number_for_encrypted_content() -> None:
    """As it does whatever another has encrypted: 400, never a 500."""
    with pytest.raises(Refusal, match="could not be verified") as caught:
        check_strict("responses", {"input": [{"type": "reasoning", "encrypted_content": 5}]})

    assert caught.value.status == 400


def test_a_body_as_deep_as_can_be_is_taken() -> None:
    assert parse_body(_nested(254))["model"] == "m"


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"{}", b'{"model": 3}', b'{"model": ""}', _nested(255), _nested(1000)],
)
def test_a_body_without_a_model_is_refused(raw: bytes) -> None:
    """Or without JSON or an object, or nested too deep: 400."""
    with pytest.raises(Refusal) as caught:
        parse_body(raw)

    assert caught.value.status == 400


def test_more_than_the_context_holds_is_refused_unless_truncated() -> None:
    """Prompt and max_tokens must fit; `truncate` makes max_tokens fit."""
    with pytest.raises(Refusal, match="must be <= 10000"):
        chat_order(body(max_tokens=10_000), CONTEXT)

    fitted = chat_order(
        body(max_tokens=10_000, context_length_exceeded_behavior="truncate"), CONTEXT
    )
    assert fitted.max_tokens == CONTEXT - fitted.prompt_tokens


@given(prompt=st.text(max_size=50), seed=st.integers(0, 99))
def test_the_same_prompt_gives_the_same_answer(prompt: str, seed: int) -> None:
    """Text and length follow from seed and prompt, not from model, stream or temperature."""
    messages = [{"role": "user", "content": prompt}]
    (one,) = answer(seed=seed, messages=messages)
    (other,) = answer(seed=seed, messages=messages, model="n", stream=True, temperature=1.5)

    assert one == other


def test_another_seed_or_prompt_gives_another_answer() -> None:
    """Neither the server's seed nor the prompt is ignored."""
    texts = {text(answer(seed=seed)[0]) for seed in range(20)}
    texts |= {text(answer(messages=[{"role": "user", "content": str(i)}])[0]) for i in range(20)}

    assert len(texts) == 40


@given(limit=st.integers(1, 80))
def test_max_tokens_bounds_the_same_text(limit: int) -> None:
    """A limit cuts the answer where it would have gone on, and says so."""
    (free,), (bound,) = answer(), answer(max_tokens=limit)

    assert len(bound.pieces) == min(limit, len(free.pieces))
    assert text(free).startswith(text(bound))
    assert bound.finish == ("stop" if limit >= len(free.pieces) else "length")


def test_max_completion_tokens_is_taken_too() -> None:
    """OpenAI's newer name for the limit."""
    assert len(answer(max_completion_tokens=5)[0].pieces) == 5


def test_lengths_follow_the_profile() -> None:
    """The median over 400 prompts is the profile's within a tenth, and none exceeds the maximum."""
    lengths = sorted(
        len(answer(messages=[{"role": "user", "content": str(i)}])[0].pieces) for i in range(400)
    )

    assert 54 <= lengths[200] <= 66
    assert lengths[-1] <= 400
    assert lengths[0] >= 2


def test_a_set_length_counts_the_end_of_the_turn() -> None:
    """x-sim-tokens N gives N tokens in all, also when some of them are reasoning."""
    for reasoning in (False, True):
        (branch,) = answer(tokens=9, reasoning={"enabled": reasoning})
        assert len(branch.pieces) == 9
        assert branch.reasoning_tokens == (4 if reasoning else 0)
        assert branch.finish == "stop"


def test_choices_differ() -> None:
    """`n` answers are n different texts."""
    assert len({text(branch) for branch in answer(n=4)}) == 4


@given(stop=st.text(alphabet="aeo t.", min_size=1, max_size=3))
def test_a_stop_string_ends_the_text_before_it(stop: str) -> None:
    """The text is the part before the first stop string."""
    (free,), (stopped,) = answer(), answer(stop=[stop])

    assert text(stopped) == text(free).partition(stop)[0]
    assert stopped.finish == "stop"


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({}, True),
        ({"tool_choice": "auto"}, True),
        ({"tool_choice": "none"}, False),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, True),
        ({"messages": [{"role": "tool", "content": "12 C", "tool_call_id": "x"}]}, False),
    ],
)
def test_a_tool_is_called_until_it_has_answered(changes: dict[str, Any], calls: bool) -> None:
    """Tools are used when offered, unless forbidden or just answered."""
    (branch,) = answer(tools=[TOOL], **changes)

    assert (branch.finish == "tool_calls") is calls


def test_arguments_follow_the_tool_s_schema() -> None:
    """The required properties, each of its type, within its bounds."""
    (branch,) = answer(tools=[TOOL])
    arguments = orjson.loads(branch.text(Kind.CALL_ARGUMENTS))

    assert set(arguments) == {"city", "unit", "days"}
    assert isinstance(arguments["city"], str)
    assert arguments["unit"] in {"C", "F"}
    assert 1 <= arguments["days"] <= 7


def test_json_is_written_when_json_is_asked_for() -> None:
    """response_format json_schema and json_object give text that is such JSON."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    shaped = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    assert set(orjson.loads(text(answer(response_format=shaped)[0]))) == {"ok"}
    assert orjson.loads(text(answer(response_format={"type": "json_object"})[0]))


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "array", "items": {"type": "number"}, "minItems": 3}, list),
        ({"type": ["string", "null"]}, str),
        ({"const": 5}, int),
        ({"type": "null"}, type(None)),
        ({"type": "number", "minimum": 0.5, "maximum": 0.6}, float),
    ],
)
def test_values_are_of_their_type(schema: dict[str, Any], kind: type) -> None:
    """One value per common schema."""
    from random import Random

    assert isinstance(instance(schema, Random(0)), kind)


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, False),
        ({"reasoning": {"enabled": True}}, True),
        ({"reasoning_effort": "low"}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"model": "deepseek-ai/DeepSeek-R1"}, True),
        ({"model": "deepseek-ai/DeepSeek-R1", "reasoning": {"enabled": False}}, False),
    ],
)
def test_reasoning_is_on_where_asked_or_by_the_model(
    changes: dict[str, Any], reasons: bool
) -> None:
    """Reasoning comes first, and its length is on top of the answer's."""
    (branch,) = answer(**changes)
    kinds = [piece.kind for piece in branch.pieces]

    assert (kinds[0] is Kind.REASONING) is reasons
    assert kinds == sorted(kinds, key=[Kind.REASONING, Kind.TEXT, Kind.END].index)


def test_a_seed_in_the_body_comes_back() -> None:
    """Otherwise it is above the range of signed 64 bits, as recorded."""
    assert answer(seed=1)[0].seed > 1 << 63
    assert compose(chat_order(body(seed=7), CONTEXT), Lengths(), 0)[0].seed == 7


def test_a_completion_takes_several_prompts() -> None:
    """Each prompt has its own choices."""
    order = completion_order({"model": "m", "prompt": ["a", "b"], "n": 2}, CONTEXT)

    assert order.branches == len(compose(order, Lengths(), 0)) == 4
    assert order.prompt_tokens == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1, 1) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "function", "name", "enum", "items"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
KEYS = [
    "messages prompt max_tokens n stop tools tool_choice response_format reasoning reasoning_effort",
    "chat_template_kwargs logprobs echo seed stream context_length_exceeded_behavior",
    "input system instructions thinking output_config text max_output_tokens",
]


@given(fields=st.dictionaries(st.sampled_from(" ".join(KEYS).split()), JSON, max_size=4))
def test_no_body_breaks_the_simulator(fields: dict[str, Any]) -> None:
    """Whatever stands in a body, it is answered or refused."""
    for make in (chat_order, completion_order, messages_order, responses_order):
        try:
            order = make({**body(prompt="a", input="a", max_tokens=9), **fields}, CONTEXT)
        except Refusal as refused:
            assert refused.status == 400
        else:
            assert len(compose(order, Lengths(), 0)) == order.branches


@given(schema=JSON | st.dictionaries(st.sampled_from(["type", "minimum", "minItems"]), JSON))
def test_no_schema_breaks_the_simulator(schema: Any) -> None:
    """A tool with an odd schema is refused or called."""
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    try:
        (branch,) = answer(tools=[tool], tool_choice="required")
    except Refusal:
        return
    assert branch.finish == "tool_calls"


def test_a_schema_cannot_ask_for_an_answer_without_bounds() -> None:
    """Lists of 64 within lists of 64, five deep, would be a thousand million values."""
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(5):
        schema = {"type": "array", "minItems": 64, "items": schema}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}

    with pytest.raises(Refusal, match="more than 10,000 values"):
        answer(tools=[tool], tool_choice="required")


def test_ignore_eos_goes_on_to_max_tokens() -> None:
    """Exactly so many tokens, ended by the length; without it the turn ends where it ends."""
    for number in (1, 7, 1000):
        (branch,) = answer(max_tokens=number, ignore_eos=True)
        assert (len(branch.pieces), branch.finish) == (number, "length")
        assert Kind.END not in {piece.kind for piece in branch.pieces}
    assert answer(max_tokens=1000, ignore_eos=False)[0].finish == "stop"
