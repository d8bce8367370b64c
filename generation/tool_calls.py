"""Tool calls: how a model is told about tools, and how its calls are found in the text. PURE.

A chat template that knows tools says how: with `<tool_call>` tags (Qwen, Hermes, SmolLM2's larger kin) or as a bare
JSON object (Llama 3). For one that does not, the first system message gets a text about the tools, and calls are bare
JSON objects:

    {"name": "weather", "arguments": {"city": "Bern"}}

What is shown as text ends before the first call. A text that is nearly a call stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from rota.common.text_calls import ChatMessage, ChatTool, ToolCall

_OPENING: Final = "<tool_call>"
_TAGGED: Final = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class ToolFormat(NamedTuple):
    """How calls look: between two texts, with the arguments under a name. `opening` "": the text is the call."""

    opening: str
    closing: str
    arguments: str


def format_of(template: str, takes_tools: bool) -> ToolFormat:
    """Return the format that a chat template expects."""
    if takes_tools and _OPENING in template:
        return ToolFormat("<tool_call>\n", "\n</tool_call>", "arguments")
    has_parameters = takes_tools and '"parameters"' in template
    return ToolFormat("", "", "parameters" if has_parameters else "arguments")


def call_schema(tools: Sequence[ChatTool], tool_choice: str, form: ToolFormat) -> dict[str, Any]:
    """Return the JSON schema of one call, of any of the tools or of the one that is named."""
    wanted = [tool for tool in tools if tool_choice in ("required", "auto", tool.name)]
    return {"anyOf": [_schema_of(tool, form.arguments, place) for place, tool in enumerate(wanted)]}


def _schema_of(tool: ChatTool, arguments: str, place: int) -> dict[str, Any]:
    parameters = _with_refs_below(json.loads(tool.parameters), f"#/anyOf/{place}/properties/{arguments}")
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, arguments: {"type": "object", **parameters}},
        "required": ["name", arguments],
        "additionalProperties": False,
    }


def _with_refs_below(schema: Any, root: str) -> Any:
    """Return a schema whose references to its own root lead to `root`, where it stands in a larger one."""
    if isinstance(schema, list):
        return [_with_refs_below(part, root) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: root + value[1:]
        if key == "$ref" and isinstance(value, str) and value[:1] == "#"
        else _with_refs_below(value, root)
        for key, value in schema.items()
    }


def begin_of_calls(text: str, form: ToolFormat) -> int:
    """Return from which character on `text` may be calls; its length if nothing of it may."""
    if form.opening:
        at = text.find(_OPENING)
        if at >= 0:
            return at
        for size in range(min(len(_OPENING) - 1, len(text)), 0, -1):
            if text.endswith(_OPENING[:size]):
                return len(text) - size
        return len(text)
    return 0 if text.lstrip()[:1] in ("", "{") else len(text)


def calls_in(text: str, tools: Sequence[ChatTool], form: ToolFormat) -> tuple[ToolCall, ...]:
    """Return the calls that `text` consists of; none if any part of it is no call of one of the tools."""
    if form.opening:
        bodies = _TAGGED.findall(text)
        if _TAGGED.sub("", text).strip():
            return ()
    else:
        bodies = [text]
    names = [tool.name for tool in tools]
    found: list[ToolCall] = []
    for body in bodies:
        call = _read(body, names, form)
        if call is None:
            return ()
        found.append(ToolCall(f"call_{len(found)}", *call))
    return tuple(found)


def _read(body: str, names: Sequence[str], form: ToolFormat) -> tuple[str, str] | None:
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if type(value) is not dict:
        return None
    fields: dict[str, Any] = value
    arguments = fields.get(form.arguments, fields.get("arguments"))
    if fields.get("name") not in names:
        return None
    if not isinstance(arguments, dict):
        return None
    return fields["name"], json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


def told_of_tools(messages: Sequence[ChatMessage], tools: Sequence[ChatTool], tool_choice: str) -> list[ChatMessage]:
    """Return the messages for a template that does not know tools: with a text about them, and with earlier calls and
    their answers as plain messages.
    """
    told = [_plain(message) for message in messages]
    if not tools or tool_choice == "none":
        return told
    text = _instructions(tools, tool_choice)
    if told and told[0].role == "system":
        return [told[0]._replace(content=f"{told[0].content}\n\n{text}"), *told[1:]]
    return [ChatMessage("system", text), *told]


def _plain(message: ChatMessage) -> ChatMessage:
    if message.role == "tool":
        return ChatMessage("user", f"Result of {message.name or message.tool_call_id or 'the tool'}: {message.content}")
    if message.tool_calls:
        calls = [f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}' for call in message.tool_calls]
        return ChatMessage("assistant", "\n".join([*([message.content] if message.content else []), *calls]))
    return message


def _instructions(tools: Sequence[ChatTool], tool_choice: str) -> str:
    lines = ["You can call these functions:"]
    for tool in tools:
        described = {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}
        lines.append(json.dumps(described, ensure_ascii=False))
    when = "To call one, answer" if tool_choice == "auto" else "Answer"
    lines.append(f'{when} with a JSON object only: {{"name": the function, "arguments": its arguments}}')
    return "\n".join(lines)
