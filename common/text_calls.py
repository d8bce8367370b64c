"""The payloads of text tasks: generate, embed and classify. PURE.

    {"generate": {"prompt" | "tokens" | "messages": ..., options}}
    {"embed": {"texts": [text], "truncate": bool}}
    {"classify": {"texts": [text], "truncate": bool, "top": n}}

One MessagePack map with one of these keys; common/model_call.py has the payload of tensors, text_results.py has the
results. `generate_call` and its like check the fields of a call wherever they come from, so a client refuses what a
worker would refuse, in the same words. Encoding leaves out what has its default. docs/PROTOCOL.md lists the fields;
change it with this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgpack

from rota.common.errors import BadPayload
from rota.common.model_call import TEXT_TASKS, unpacked
from rota.common.shown import shown
from rota.common.text_checks import (
    check_fields,
    check_flag,
    check_json_object,
    check_list,
    check_number,
    check_plain,
    check_text,
    check_token,
    check_whole,
    check_word,
    refuse,
)

GENERATE, EMBED, CLASSIFY = TEXT_TASKS

ROLES: Final = ("system", "user", "assistant", "tool")
OUTPUT_KINDS: Final = ("json_schema", "regex", "grammar", "choices")
TOOL_CHOICES: Final = ("auto", "none", "required")  # or the name of a tool
NEW_CONVERSATION: Final = b""  # nil on the wire: the start of a chain
DIGEST_BYTES: Final = 32

MAX_TOKENS_MAX: Final = 1 << 20
PROMPT_TOKENS_MAX: Final = 1 << 20
MESSAGES_MAX: Final = 1_024  # of one call; the conversation before them is not counted
STOP_TEXTS_MAX: Final = 16
STOP_CHARS_MAX: Final = 256  # so much text may be held back before it is shown
STOP_TOKENS_MAX: Final = 256
LOGPROBS_MAX: Final = 20
CHOICES_MAX: Final = 1_024
RULE_BYTES_MAX: Final = 64 << 10  # of what the text must be; its length bounds how deep the library recurses
TOOLS_BYTES_MAX: Final = 128 << 10  # of the parameters of all tools of a call, for the same reason
TOOLS_MAX: Final = 128
TOOL_CALLS_MAX: Final = 128  # of one message
TEXTS_MAX: Final = 1_024  # of one call
LABELS_MAX: Final = 1 << 16
NAME_CHARS_MAX: Final = 64  # of tools, speakers and calls
TEMPERATURE_MAX: Final = 100.0
PENALTY_MAX: Final = 100.0
SEED_MAX: Final = (1 << 63) - 1


class ToolCall(NamedTuple):
    """A call of a tool that a model asked for. `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


class ChatMessage(NamedTuple):
    """One message of a dialogue. `tool_calls` are an assistant's; `tool_call_id` says which call a tool answers."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class ChatTool(NamedTuple):
    """A tool that a model may call. `parameters` is the text of a JSON schema, "{}" if it takes anything."""

    name: str
    description: str = ""
    parameters: str = "{}"


class OutputRule(NamedTuple):
    """What the text must be: `kind` is one of OUTPUT_KINDS, `rule` the schema, regular expression or grammar as text,
    or the choices.
    """

    kind: str
    rule: str | tuple[str, ...]


class GenerateCall(NamedTuple):
    """A checked generate task. One of `prompt`, `tokens` and `messages` is given, the others are None.

    `conversation` is None if no chain is kept, NEW_CONVERSATION if one starts with `messages`, or the head that they
    continue. `max_tokens` None: the model's default. `temperature` 0: greedy. `top_k` 0: off. `logprobs` None: none.
    `tool_choice` is "none" if there are no tools.
    """

    prompt: str | None = None
    tokens: tuple[int, ...] | None = None
    messages: tuple[ChatMessage, ...] | None = None
    conversation: bytes | None = None
    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    logprobs: int | None = None
    output: OutputRule | None = None
    tools: tuple[ChatTool, ...] = ()
    tool_choice: str = "none"
    template: Mapping[str, Any] = {}


class EmbedCall(NamedTuple):
    """A checked embed task. `truncate`: cut texts that are too long, instead of failing."""

    texts: tuple[str, ...]
    truncate: bool = False


class ClassifyCall(NamedTuple):
    """A checked classify task. `top`: how many labels of each text are wanted; None: all."""

    texts: tuple[str, ...]
    truncate: bool = False
    top: int | None = None


TextCall: TypeAlias = GenerateCall | EmbedCall | ClassifyCall


def decode_text_call(payload: bytes, task: str | None = None) -> TextCall:
    """Return the call in `payload`. Raises `BadPayload` if it is no text task, or another one than `task`."""
    value = unpacked(payload)
    wanted = " or ".join(f'"{name}"' for name in ((task,) if task else TEXT_TASKS))
    if not isinstance(value, dict) or len(value) != 1:
        raise BadPayload(
            f"the payload must be a MessagePack map with one field, {wanted}; its bytes mean {shown(value)}"
        )
    ((kind, fields),) = value.items()
    if kind not in TEXT_TASKS or (task and kind != task):
        raise BadPayload(f"this model takes {wanted}, but the payload has {shown(kind)}")
    if kind == GENERATE:
        return generate_call(fields)
    return embed_call(fields) if kind == EMBED else classify_call(fields)


def encode_text_call(call: TextCall) -> bytes:
    """Return the payload of a text task."""
    if isinstance(call, GenerateCall):
        fields, kind = _generate_fields(call), GENERATE
    elif isinstance(call, EmbedCall):
        fields, kind = _without_defaults(call), EMBED
    else:
        fields, kind = _without_defaults(call), CLASSIFY
    packed: bytes = msgpack.packb({kind: fields})
    return packed


# --- generate -------------------------------------------------------------------------------------


def generate_call(value: Any) -> GenerateCall:
    """Return a generate task from its fields by name. Raises `BadPayload`."""
    fields = check_fields(GENERATE, value, GenerateCall._fields)
    given = [name for name in ("prompt", "tokens", "messages") if name in fields]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise BadPayload(f'"generate" must have exactly one of prompt, tokens and messages, got {got}')
    for name in ("conversation", "tools", "template"):
        if name in fields and "messages" not in fields:
            raise BadPayload(f'"generate.{name}" needs messages, but the call has {given[0]}')
    checked = {name: _GENERATE_CHECKS[name](f"generate.{name}", item) for name, item in fields.items()}
    checked["tool_choice"] = _tool_choice(checked.get("tools", ()), checked.get("tool_choice"))
    if "output" in checked and checked["tool_choice"] != "none":
        raise BadPayload('"generate.output" and "generate.tools" exclude each other, unless tool_choice is "none"')
    return GenerateCall(**checked)


def _prompt_tokens(name: str, value: Any) -> tuple[int, ...]:
    return tuple([check_token(name, item) for item in check_list(name, value, 1, PROMPT_TOKENS_MAX, "tokens")])


def _messages(name: str, value: Any) -> tuple[ChatMessage, ...]:
    items = check_list(name, value, 1, MESSAGES_MAX, "messages")
    return tuple([chat_message(item, f"{name}[{at}]") for at, item in enumerate(items)])


def chat_message(value: Any, name: str = "message") -> ChatMessage:
    """Return a message from its fields by name; `name` is for the text of the `BadPayload`."""
    fields = check_fields(name, value._asdict() if isinstance(value, ChatMessage) else value, ChatMessage._fields)
    role = fields.get("role")
    if role not in ROLES:
        refuse(f"{name}.role", f"one of {', '.join(ROLES)}", role)
    calls = fields.get("tool_calls") or ()
    answers = fields.get("tool_call_id")
    if calls and role != "assistant":
        raise BadPayload(f'"{name}.tool_calls" is for the role assistant, got {role}')
    if answers is not None and role != "tool":
        raise BadPayload(f'"{name}.tool_call_id" is for the role tool, got {role}')
    speaker = fields.get("name")
    return ChatMessage(
        role,
        check_text(f"{name}.content", fields.get("content")),
        None if speaker is None else check_text(f"{name}.name", speaker, 1, NAME_CHARS_MAX),
        tool_calls(f"{name}.tool_calls", calls),
        None if answers is None else check_text(f"{name}.tool_call_id", answers, 1, NAME_CHARS_MAX),
    )


def message_fields(message: ChatMessage) -> dict[str, Any]:
    """Return a message as it is on the wire: without what it does not have."""
    fields = _without_defaults(message)
    if message.tool_calls:
        fields["tool_calls"] = [call._asdict() for call in message.tool_calls]
    return fields


def tool_calls(name: str, value: Any) -> tuple[ToolCall, ...]:
    """Return calls of tools from their fields by name."""
    found: list[ToolCall] = []
    for at, item in enumerate(check_list(name, value, 0, TOOL_CALLS_MAX, "calls")):
        here = f"{name}[{at}]"
        fields = check_fields(here, item._asdict() if isinstance(item, ToolCall) else item, ToolCall._fields)
        found.append(
            ToolCall(
                check_text(f"{here}.id", fields.get("id"), 1, NAME_CHARS_MAX),
                check_text(f"{here}.name", fields.get("name"), 1, NAME_CHARS_MAX),
                check_json_object(f"{here}.arguments", fields.get("arguments")),
            )
        )
    return tuple(found)


def _conversation(name: str, value: Any) -> bytes:
    if value is None:
        return NEW_CONVERSATION
    if not isinstance(value, bytes) or len(value) not in (0, DIGEST_BYTES):
        refuse(name, f"the {DIGEST_BYTES} bytes of a head, or nil for a new conversation", value)
    return value


def _stop(name: str, value: Any) -> tuple[str, ...]:
    items = check_list(name, value, 0, STOP_TEXTS_MAX, "texts")
    return tuple([check_text(f"{name}[{at}]", item, 1, STOP_CHARS_MAX) for at, item in enumerate(items)])


def _stop_tokens(name: str, value: Any) -> tuple[int, ...]:
    return tuple([check_token(name, item) for item in check_list(name, value, 0, STOP_TOKENS_MAX, "tokens")])


def _output(name: str, value: Any) -> OutputRule:
    fields = check_fields(name, {value.kind: value.rule} if isinstance(value, OutputRule) else value, OUTPUT_KINDS)
    if len(fields) != 1:
        raise BadPayload(f'"{name}" must have exactly one of {", ".join(OUTPUT_KINDS)}, got {shown(list(fields))}')
    ((kind, rule),) = fields.items()
    here = f"{name}.{kind}"
    if kind != "choices":
        text = check_json_object(here, rule) if kind == "json_schema" else check_text(here, rule, 1)
        _check_bytes(here, (text,), RULE_BYTES_MAX)
        return OutputRule(kind, text)
    choices = tuple([check_text(here, item, 1) for item in check_list(here, rule, 1, CHOICES_MAX, "texts")])
    _check_bytes(here, choices, RULE_BYTES_MAX)
    if len(dict.fromkeys(choices)) != len(choices):
        raise BadPayload(f'"{here}" has a choice twice')
    return OutputRule(kind, choices)


def _check_bytes(name: str, texts: Sequence[str], highest: int) -> None:
    size = sum([len(text.encode()) for text in texts])
    if size > highest:
        raise BadPayload(f'"{name}" must have at most {highest} bytes, got {size}')


def _tools(name: str, value: Any) -> tuple[ChatTool, ...]:
    found: list[ChatTool] = []
    for at, item in enumerate(check_list(name, value, 0, TOOLS_MAX, "tools")):
        here = f"{name}[{at}]"
        fields = check_fields(here, item._asdict() if isinstance(item, ChatTool) else item, ChatTool._fields)
        found.append(
            ChatTool(
                check_word(f"{here}.name", fields.get("name")),
                check_text(f"{here}.description", fields.get("description", "")),
                check_json_object(f"{here}.parameters", fields.get("parameters", "{}")),
            )
        )
    _check_bytes(f"{name}.parameters", [tool.parameters for tool in found], TOOLS_BYTES_MAX)
    names = [tool.name for tool in found]
    if len(dict.fromkeys((*names, *TOOL_CHOICES))) != len(names) + len(TOOL_CHOICES):
        raise BadPayload(
            f'"{name}" must have different names, and none of {", ".join(TOOL_CHOICES)}, got {shown(names)}'
        )
    return tuple(found)


def _tool_choice(tools: tuple[ChatTool, ...], choice: str | None) -> str:
    if choice is None:
        return "auto" if tools else "none"
    names = [tool.name for tool in tools]
    if choice not in (*(TOOL_CHOICES if tools else ("none",)), *names):
        expected = f"{', '.join(TOOL_CHOICES)} or the name of a tool" if tools else '"none" where there are no tools'
        refuse("generate.tool_choice", expected, choice)
    return choice


def _template(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        refuse(name, "a map of variables", value)
    return {
        check_text(name, variable, 1, NAME_CHARS_MAX): check_plain(f"{name}.{variable}", item)
        for variable, item in value.items()
    }


_GENERATE_CHECKS: Final[Mapping[str, Any]] = {
    "prompt": lambda name, value: check_text(name, value, 1),
    "tokens": _prompt_tokens,
    "messages": _messages,
    "conversation": _conversation,
    "max_tokens": lambda name, value: check_whole(name, value, 1, MAX_TOKENS_MAX),
    "temperature": lambda name, value: check_number(name, value, 0, TEMPERATURE_MAX),
    "top_k": lambda name, value: check_whole(name, value, 0, 1 << 31),
    "top_p": lambda name, value: check_number(name, value, 0, 1, above=True),
    "min_p": lambda name, value: check_number(name, value, 0, 1),
    "repetition_penalty": lambda name, value: check_number(name, value, 0, PENALTY_MAX, above=True),
    "seed": lambda name, value: check_whole(name, value, 0, SEED_MAX),
    "stop": _stop,
    "stop_tokens": _stop_tokens,
    "logprobs": lambda name, value: check_whole(name, value, 0, LOGPROBS_MAX),
    "output": _output,
    "tools": _tools,
    "tool_choice": lambda name, value: check_text(name, value, 1, NAME_CHARS_MAX),
    "template": _template,
}


def _generate_fields(call: GenerateCall) -> dict[str, Any]:
    fields = _without_defaults(call)
    if call.messages is not None:
        fields["messages"] = [message_fields(message) for message in call.messages]
    if call.conversation == NEW_CONVERSATION:
        fields["conversation"] = None
    if call.output is not None:
        fields["output"] = {call.output.kind: call.output.rule}
    if call.tools:
        fields["tools"] = [_without_defaults(tool) for tool in call.tools]
        if call.tool_choice == "auto":
            del fields["tool_choice"]
        else:
            fields["tool_choice"] = call.tool_choice
    return fields


# --- embed and classify ---------------------------------------------------------------------------


def embed_call(value: Any) -> EmbedCall:
    """Return an embed task from its fields by name. Raises `BadPayload`."""
    fields = check_fields(EMBED, value, EmbedCall._fields)
    return EmbedCall(_texts(EMBED, fields), check_flag("embed.truncate", fields.get("truncate", False)))


def classify_call(value: Any) -> ClassifyCall:
    """Return a classify task from its fields by name. Raises `BadPayload`."""
    fields = check_fields(CLASSIFY, value, ClassifyCall._fields)
    top = fields.get("top")
    return ClassifyCall(
        _texts(CLASSIFY, fields),
        check_flag("classify.truncate", fields.get("truncate", False)),
        None if top is None else check_whole("classify.top", top, 1, LABELS_MAX),
    )


def _texts(task: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    name = f"{task}.texts"
    items = check_list(name, fields.get("texts"), 1, TEXTS_MAX, "texts")
    return tuple([check_text(f"{name}[{at}]", item) for at, item in enumerate(items)])


def _without_defaults(value: Any) -> dict[str, Any]:
    """Return the fields of a NamedTuple that do not have their defaults."""
    defaults = value._field_defaults
    return {
        name: item
        for name, item in value._asdict().items()
        if name not in defaults or item != defaults[name] or type(item) is not type(defaults[name])
    }
