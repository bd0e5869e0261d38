"""What in the JSON of a body is the protocol's own, by an allowlist; all else is made up, or left out.

Whoever adds to an API need not tell us: a member that no table here names does not come through.
"""

import json
import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import lru_cache
from typing import Any, Final

from tbench.capture.jsontext import loads, rewritten
from tbench.capture.privacy.standins import StandIns


class Kind(Enum):
    """What a member holds: what becomes of its string or number. Lists and objects are entered."""

    TEXT = auto()
    """Any words: made up."""
    WORD = auto()
    """One of WORDS, which stays; any other is made up as a name."""
    NUMBER = auto()
    """A setting or a count, which stays; strings are made up."""
    NAME = auto()
    """What an application calls something."""
    ID = auto()
    """What a server or an SDK calls something."""
    MODEL = auto()
    """Stays, or is mapped."""
    CODE = auto()
    """JSON in a text: the arguments of a call."""
    BLOB = auto()
    """Bytes in base64, or a text that only its maker can read."""
    ADDRESS = auto()
    """A URL: of a picture, as mostly, or of anything."""
    SCHEMA = auto()
    """A JSON schema."""
    FREE = auto()
    """An object of the application's own making: names, texts, numbers."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_MEMBERS: Final = {
    Kind.TEXT: """
        content text reasoning reasoning_content thinking refusal instructions system prompt input query
        documents document suffix description title delta output stop stop_sequences stop_sequence message
        error errors msg param transcript prediction choices messages tools tool_calls tool_call function
        functions function_call response_format json_schema stream_options output_config audio citations
        annotations usage item part content_block response results rank_fields input_text output_text caller
        context logprobs_content prompt_tokens_details completion_tokens_details input_tokens_details
        output_tokens_details cache_creation server_tool_use x_groq input_image image input_audio file
        source cache_control incomplete_details user_location allowed_tools custom grammar definition
        data_list reasoning_details thinking_blocks chat_template_kwargs action queries logs stdout stderr
        outputs
        """,
    Kind.WORD: """
        role type object finish_reason native_finish_reason stop_reason status effort reasoning_effort
        verbosity service_tier encoding_format format truncation tool_choice media_type include modalities
        ttl phase reason mode search_context_size syntax summary detail code
        """,
    Kind.NUMBER: """
        max_tokens max_completion_tokens max_output_tokens min_tokens temperature top_p top_k min_p
        typical_p n best_of seed presence_penalty frequency_penalty repetition_penalty length_penalty
        logprobs top_logprobs stream store echo ignore_eos skip_special_tokens include_usage
        include_obfuscation parallel_tool_calls disable_parallel_tool_use strict budget_tokens dimensions
        top_n return_documents index output_index content_index summary_index sequence_number created
        created_at completed_at prompt_tokens completion_tokens total_tokens input_tokens output_tokens
        cached_tokens cache_read_input_tokens cache_creation_input_tokens cache_write_tokens
        reasoning_tokens audio_tokens text_tokens image_tokens accepted_prediction_tokens
        rejected_prediction_tokens thinking_tokens ephemeral_5m_input_tokens ephemeral_1h_input_tokens
        prompt_cache_hit_tokens prompt_cache_miss_tokens prompt_time completion_time queue_time total_time
        is_error background enable_thinking enabled max_uses display_width_px display_height_px
        web_search_requests max_chunks_per_doc
        """,
    Kind.NAME: "name filename label server_label tool_name",
    Kind.ID: """
        id call_id tool_call_id tool_use_id item_id response_id previous_response_id system_fingerprint user
        safety_identifier prompt_cache_key cache_salt conversation session_id request_id container file_id
        vector_store_ids file_ids custom_id approval_request_id obfuscation
        """,
    Kind.MODEL: "model",
    Kind.CODE: "arguments partial_json",
    Kind.BLOB: "data encrypted_content signature file_data b64_json thought_signature embedding",
    Kind.ADDRESS: "url image_url file_url server_url",
    Kind.SCHEMA: "parameters input_schema schema guided_json output_schema",
    Kind.FREE: "metadata logit_bias filters",
}
MEMBERS: Final = {name: kind for kind, names in _MEMBERS.items() for name in _words(names)}
"""The members of requests and answers, of every API, that come through."""

PARTS: Final = frozenset(
    _words(
        """
        abort added agent aiff any annotation application approval approximate argument arguments array
        assistant audio auto base base64 bash block boolean browser call calls cancelled character chat
        commentary chunk citation citations cites clear code collapsed command completed completion
        compaction complete computer concise container content context control created creation custom
        cut deleted delta description detailed developer direct disabled done down edit editor embedding
        embeddings enabled encoding encrypted end ephemeral eos error event events execution exceeded
        expired failed false fetch file files filter final find first flac answer flex float format full
        function functions gif grammar guardrail heartbeat high https identifier image images in
        incomplete input insert insufficient integer interpreter invalid item items jpeg json lark
        length level limit list live local location low markdown max maximum mcp medium memory message
        messages minimal model mp3 mpeg mp4 multi multipart network no none not null number object of
        ogg opus output overloaded page param params parallel part partial patch pause pdf ping plain
        png preview priority processing progress queued rate reasoning redacted refusal refused regex
        request required rerank resource response result results retry scale schema screenshot search
        searching server service shell signature sources standard start started stop stream string sub
        summary summarized system text thinking thought timeout token tokens tool tools transcript
        transcription true turn type unavailable unsupported uint8 ubinary binary int8 update url use
        user value video wav web webp window xhigh string query extended 5m 1h 24h
        """
    )
)
"""What the protocols' words are made of."""
_WORD: Final = re.compile(r"[a-zA-Z0-9]+(?:[._/-][a-zA-Z0-9]+)*")
_DATE: Final = re.compile(r"20\d\d[01]\d[0-3]\d")
"""Of a version, at the end of a word: `web_search_20250305`."""
_MODEL: Final = re.compile(r"[\w.:/@+-]{1,128}")
_CUSTOMERS: Final = re.compile(r"ft:|accounts/(?!fireworks/)|projects/|arn:|[./~]")
"""Models of one customer: OpenAI's fine-tunes, an account's own, a cloud's resources, files of a server."""
_MODEL_STEPS: Final = frozenset({"", "/", ":", *_words("accounts models deployments projects arn")})
LONGEST_WORD: Final = 64
LONGEST_NUMBER: Final = 11
"""A longer one is no setting that anybody needs."""

SCHEMA_TEXTS: Final = frozenset(_words("description title $comment pattern"))
SCHEMA_WORDS: Final = frozenset(_words("type format contentEncoding"))
SCHEMA_NAMED: Final = frozenset(
    _words("properties $defs definitions patternProperties dependentSchemas")
)
"""Keywords whose members are called what an application chose."""
SCHEMA_VALUES: Final = frozenset(_words("enum const default examples"))
SCHEMA_NAMES: Final = frozenset(_words("required $ref $id $anchor"))
SCHEMA_INNER: Final = frozenset(
    _words(
        """
        items prefixItems contains additionalProperties unevaluatedProperties propertyNames anyOf oneOf
        allOf not if then else minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength
        maxLength minItems maxItems uniqueItems minProperties maxProperties additionalItems nullable
        readOnly writeOnly deprecated
        """
    )
)
"""Keywords with schemas or numbers in them."""
SCHEMA_FORMATS: Final = frozenset(
    _words(
        "date date-time time duration email uri uuid ipv4 ipv6 hostname int32 int64 float double"
    )
)

Leaf = Callable[[Kind, str, tuple[object, ...]], str]
"""What becomes of a text or code, by its place: the names and numbers that lead to it."""


class Bodies:
    """Bodies of JSON with stand-ins. `models` maps names of models; the others stay.

    `left_out` counts members that no table names.
    """

    def __init__(self, stand_ins: StandIns, models: Mapping[str, str] | None = None) -> None:
        self.stand_ins = stand_ins
        self.left_out = 0
        self._models = models or {}

    def made_up(self, payload: Any, leaf: Leaf | None = None) -> Any:  # noqa: ANN401 (any JSON)
        """The value with everything made up that is not the protocol's own.

        Raises ValueError for what is nested too deeply.
        """
        try:
            return self._value(payload, Kind.TEXT, (), leaf or self.leaf)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None

    def code(self, original: str) -> str:
        """The arguments of a call: JSON with the same members' number and sizes; else just a text."""
        try:
            value = loads(original)
            made_up = self._free(value)
        except (ValueError, RecursionError):
            return self.stand_ins.text(original)
        if not isinstance(value, dict | list):
            return self.stand_ins.text(original)
        if '": ' in original or '", ' in original:  # as Python writes it
            return json.dumps(made_up, ensure_ascii=False)
        return rewritten(made_up).decode()

    def leaf(self, kind: Kind, original: str, _place: tuple[object, ...] = ()) -> str:
        """What stands for a text, or for code."""
        return self.code(original) if kind is Kind.CODE else self.stand_ins.text(original)

    def _value(self, value: Any, kind: Kind, place: tuple[object, ...], leaf: Leaf) -> Any:  # noqa: ANN401
        if isinstance(value, str):
            return self._string(value, kind, place, leaf)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, dict):
            if kind is Kind.SCHEMA:
                return self._schema(value)
            return self._free(value) if kind in _FREE else self._object(value, place, leaf)
        if isinstance(value, list):
            if kind in _FREE:
                return self._free(value)
            if value and all(type(item) in (int, float) for item in value):
                # Token ids as others, equal where all before them is equal; of vectors nothing is left.
                is_vector = any(type(item) is float for item in value)
                return [0.0] * len(value) if is_vector else self.stand_ins.token_ids(value)
            kind = Kind.NAME if kind is Kind.MODEL else kind
            made_up = []
            for number, item in enumerate(value):
                # One that says which it is, is that wherever it stands.
                is_numbered = isinstance(item, dict) and type(item.get("index")) is int
                inner = place if is_numbered else (*place, number)
                made_up.append(self._value(item, kind, inner, leaf))
            return made_up
        if kind is Kind.NUMBER and len(rewritten(value)) <= LONGEST_NUMBER:
            return value
        return self.stand_ins.number(value)

    def _object(
        self, holder: dict[str, Any], place: tuple[object, ...], leaf: Leaf
    ) -> dict[str, Any]:
        place = (*place, *(holder[name] for name in _NUMBERING if type(holder.get(name)) is int))
        made_up: dict[str, Any] = {}
        for name, value in holder.items():
            kind = MEMBERS.get(name)
            # The fields of what is ranked are the application's own, and named once more beside it.
            if kind is None and not _DOCUMENTS.isdisjoint(place):
                named = self.stand_ins.name(name)
                made_up[named] = self._value(value, Kind.TEXT, (*place, name), leaf)
                continue
            if name == "rank_fields" and isinstance(value, list):
                words = map(str, value)
                made_up[name] = [w if w in MEMBERS else self.stand_ins.name(w) for w in words]
                continue
            # What nobody knows goes: a list of what is private would miss the next member that an API gets.
            if kind is None:
                self.left_out += 1
                continue
            if name == "input" and isinstance(value, dict):
                kind = Kind.FREE  # of a call, as Messages has it
            elif name == "delta" and "arguments" in str(holder.get("type")):
                kind = Kind.CODE
            elif name == "name" and _DATE.search(str(holder.get("type"))):
                kind = Kind.WORD  # a tool of the server's own
            elif name == "data" and str(holder.get("media_type")).startswith("image/"):
                made_up |= {"media_type": "image/jpeg", "data": self.stand_ins.picture(str(value))}
                continue
            elif name == "media_type" and name in made_up:
                continue
            made_up[name] = self._value(value, kind, (*place, name), leaf)
        return made_up

    def _string(self, value: str, kind: Kind, place: tuple[object, ...], leaf: Leaf) -> str:
        stand_ins = self.stand_ins
        match kind:
            case Kind.WORD if is_word(value):
                return value
            case Kind.WORD if len(value) <= LONGEST_WORD:
                return stand_ins.name(value)
            case Kind.NAME:
                return stand_ins.name(value)
            case Kind.ID:
                return stand_ins.ident(value)
            case Kind.MODEL if value in self._models:
                return self._models[value]
            case Kind.MODEL:
                return self._model(value) if _MODEL.fullmatch(value) else stand_ins.name(value)
            case Kind.BLOB:
                return stand_ins.blob(value)
            case Kind.ADDRESS:
                return self._address(value, is_picture=not _PICTURES.isdisjoint(place))
        return leaf(kind, value, place)

    def _model(self, value: str) -> str:
        """A model's name, without what a customer is called by, or calls its own."""
        if not _CUSTOMERS.match(value):
            return value
        steps = re.split(r"([:/])", value)
        known = 3 if steps[0] == "ft" else 0  # `ft:`, and the base that was tuned
        return "".join(
            step if place < known or step in _MODEL_STEPS else self.stand_ins.name(step)
            for place, step in enumerate(steps)
        )

    def _address(self, value: str, *, is_picture: bool) -> str:
        """A picture of the same pixels where it is one; bytes as many; or where nobody is."""
        head, _, data = value.partition(",")
        if head.startswith("data:image") or (is_picture and not head.startswith("data:")):
            return f"data:image/jpeg;base64,{self.stand_ins.picture(data)}"
        if head.startswith("data:"):
            return f"data:application/octet-stream;base64,{self.stand_ins.blob(data)}"
        return f"https://{self.stand_ins.name(value)}.invalid/"

    def _free(self, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return {self.stand_ins.name(name): self._free(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._free(item) for item in value]
        if isinstance(value, str):
            return self.stand_ins.text(value)
        return value if value is None or isinstance(value, bool) else self.stand_ins.number(value)

    def _schema(self, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, list):
            return [self._schema(item) for item in value]
        if not isinstance(value, dict):
            return self._value(value, Kind.NUMBER, (), self.leaf)
        made_up: dict[str, Any] = {}
        for keyword, inner in value.items():
            if keyword in SCHEMA_NAMED and isinstance(inner, dict):
                made_up[keyword] = {
                    self.stand_ins.name(name): self._schema(item) for name, item in inner.items()
                }
            elif keyword in SCHEMA_TEXTS and isinstance(inner, str):
                made_up[keyword] = self.stand_ins.text(inner)
            elif keyword in SCHEMA_WORDS | SCHEMA_NAMES | SCHEMA_VALUES:
                made_up[keyword] = self._schema_names(keyword, inner)
            elif keyword in SCHEMA_INNER:
                made_up[keyword] = self._schema(inner)
            else:
                self.left_out += 1
        return made_up

    def _schema_names(self, keyword: str, value: Any) -> Any:  # noqa: ANN401
        """Words of a schema: its own stay, an application's are the names that they are elsewhere."""
        if isinstance(value, list):
            return [self._schema_names(keyword, item) for item in value]
        if not isinstance(value, str):
            return self._free(value)
        if keyword in SCHEMA_WORDS and (value in PARTS or value in SCHEMA_FORMATS):
            return value
        if keyword == "$ref":
            steps = value.split("/")
            return "/".join(
                step if step in _REF_STEPS else self.stand_ins.name(step) for step in steps
            )
        return self.stand_ins.name(value)


_FREE: Final = {Kind.FREE, Kind.CODE}
"""Arguments are an object already with some servers."""
_NUMBERING: Final = ("index", "output_index", "content_index", "summary_index")
_DOCUMENTS: Final = frozenset({"documents", "document"})
_PICTURES: Final = frozenset({"image_url", "image", "source"})
_REF_STEPS: Final = {"", "#", "$defs", "definitions", "properties", "items", "anyOf"}


@lru_cache(maxsize=4096)
def is_word(value: str) -> bool:
    """Whether a string is a word of the protocols, such as `response.output_text.delta`."""
    if len(value) > LONGEST_WORD or _WORD.fullmatch(value) is None:
        return False
    *parts, last = re.split(r"[._/-]", value)
    return PARTS.issuperset(parts) and (last in PARTS or _DATE.fullmatch(last) is not None)
