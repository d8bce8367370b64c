"""Renders a chat template: messages to the text of a prompt, as Hugging Face's `apply_chat_template` does.

Jinja2 in its immutable sandbox, with a bound on its work (template_work.py). A rendering depends on nothing but its
arguments: the clock is the task's own, and what draws numbers or shows addresses of objects is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jinja2
import jinja2.meta

from rota.common.errors import BadPayload, CodeError
from rota.common.shown import shown
from rota.common.text_calls import ChatMessage, ChatTool
from rota.generation.template_work import CountingEnvironment, counting

PROMPT_CHARS_MAX: Final = 16 << 20
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# What a prompt always gives; a request cannot set these.
RESERVED: Final = (
    "messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "raise_exception", "strftime_now", "now",
)  # fmt: skip


class ChatTemplate:
    """A compiled template. `variables` are all names that it reads."""

    def __init__(self, source: str, where: str, *, bos_token: str, eos_token: str) -> None:
        """Raises `CodeError` naming the file `where` if the template is none."""
        self.source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        environment = self._environment = _environment()
        try:
            self._template = environment.from_string(source)
            self.variables = frozenset(jinja2.meta.find_undeclared_variables(environment.parse(source)))
        except Exception as error:  # Python itself refuses some, such as loops in 21 levels
            raise CodeError(f"{where} is no chat template that can be used: {str(error)[:300]}") from None

    @property
    def takes_tools(self) -> bool:
        """Whether the template has a form for tools."""
        return "tools" in self.variables

    def render(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[ChatTool],
        variables: Mapping[str, Any],
        now_ms: int,
    ) -> str:
        """Return the prompt. Raises `BadPayload` for variables that the template does not use, or if it refuses."""
        for name in variables:
            if name in RESERVED or name not in self.variables:
                free = sorted(self.variables - {*RESERVED})
                what = f"its variables are {', '.join(free)}" if free else "it has no variables of its own"
                raise BadPayload(f"the model's chat template takes no variable {shown(name)}: {what}")
        now = _EPOCH + timedelta(milliseconds=min(now_ms, _NOW_MS_MAX))
        values = {
            **self._tokens,
            **variables,
            "messages": [_fields_of(message) for message in messages],
            "add_generation_prompt": True,
            "strftime_now": now.strftime,
            "now": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "raise_exception": _refuse,
        }
        if tools:
            values["tools"] = [_tool_fields(tool) for tool in tools]
        return self._rendered(values)

    def _rendered(self, values: Mapping[str, Any]) -> str:
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(self._environment.counted(values)):
                size += len(part)
                if size > PROMPT_CHARS_MAX:
                    raise BadPayload(f"the chat template makes more than {PROMPT_CHARS_MAX} characters of this")
                parts.append(part)
        except BadPayload:
            raise
        except _TemplateRefusal as error:
            raise BadPayload(f"the model's chat template refuses the messages: {error}") from None
        except (MemoryError, RecursionError):
            raise BadPayload("the model's chat template needs too much memory for this") from None
        except Exception as error:  # a template can run into any error of Python
            raise BadPayload(f"the model's chat template fails: {type(error).__name__}: {str(error)[:300]}") from None
        return "".join(parts)


_NOW_MS_MAX: Final = 253_402_300_799_999  # the last one of the year 9999


class _TemplateRefusal(Exception):
    """The template called `raise_exception`."""


def _refuse(message: object) -> str:
    raise _TemplateRefusal(str(message)[:500])


def _environment() -> CountingEnvironment:
    environment = CountingEnvironment(_plain)
    environment.filters["tojson"] = counting("tojson", _to_json)
    return environment


def _plain(value: object) -> object:
    """Return what `{{ }}` shows. Python would show the address of any other object, which differs between processes."""
    if value is None or isinstance(value, str | int | float | list | tuple | dict | jinja2.Undefined):
        return value
    raise TypeError(f"a value of type {type(value).__name__} cannot be written into a prompt")


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def _fields_of(message: ChatMessage) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        fields["name"] = message.name
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    return fields


def _tool_fields(tool: ChatTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}
    return {"type": "function", "function": function}


def facts() -> dict[str, str]:
    """Return the version of the template's library, for the fingerprint."""
    return {"jinja2": jinja2.__version__}
