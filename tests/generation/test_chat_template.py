"""Chat templates: rendered as known tools render them, from the arguments only, and refused with a reason."""

from __future__ import annotations

import pytest

from rota.common.errors import BadPayload, CodeError
from rota.common.text_calls import ChatMessage, ChatTool, ToolCall
from rota.generation import chat_template
from rota.generation.chat_template import ChatTemplate

NOW_MS = 1_795_000_000_123
CHATML = """{% for message in messages %}
    {%- if loop.first and message.role != 'system' -%}<|im_start|>system\nBe brief.<|im_end|>\n{% endif -%}
    <|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"""


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, "chat_template.jinja", bos_token="<s>", eos_token="</s>")


def rendered(source: str, *messages: ChatMessage, **variables: object) -> str:
    return template(source).render(messages, (), variables, NOW_MS)


def test_a_common_template() -> None:
    """Goal: the text that the model was trained on. Method: the ChatML of SmolLM2 and Qwen, by hand."""
    text = rendered(CHATML, ChatMessage("user", "Hi"), ChatMessage("assistant", "Yes?"), ChatMessage("user", "Go"))
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nGo<|im_end|>\n<|im_start|>assistant\n"
    )


def test_all_fields_arrive() -> None:
    """Goal: templates find what they look for. Method: tokens, tools, calls with their arguments as a map, a name."""
    call = ToolCall("call_0", "weather", '{"city":"Zürich"}')
    source = (
        "{{ bos_token }}{{ eos_token }}{{ tools[0].function.name }}{{ tools[0]['function']['parameters'] | tojson }}"
        "{{ messages[0].tool_calls[0].function.arguments.city }}{{ messages[1].tool_call_id }}{{ messages[1].name }}"
    )
    found = template(source).render(
        [ChatMessage("assistant", "", None, (call,)), ChatMessage("tool", "7", "weather", (), "call_0")],
        [ChatTool("weather", "", '{"type":"object"}')], {}, NOW_MS,
    )  # fmt: skip
    assert found == '<s></s>weather{"type": "object"}Zürichcall_0weather'
    assert template(source).takes_tools
    assert not template(CHATML).takes_tools


def test_the_clock_is_the_tasks() -> None:
    """Goal: a repeated task sees the same time. Method: both forms against the task's own."""
    assert rendered("{{ strftime_now('%d %b %Y %H:%M:%S') }}") == "18 Nov 2026 11:06:40"
    assert rendered("{{ now }}") == "2026-11-18T11:06:40Z"


def test_variables_of_the_template() -> None:
    """Goal: options such as `enable_thinking`. Method: set, unset, unknown, and one that is not the request's."""
    source = "{% if enable_thinking %}<think>{% endif %}{% for name in names or [] %}{{ name }}{% endfor %}"
    assert rendered(source, enable_thinking=True) == "<think>"
    assert rendered(source, names=["a", "b"]) == "ab"
    assert rendered(source) == ""
    with pytest.raises(BadPayload, match="takes no variable 'thinking': its variables are enable_thinking, names"):
        rendered(source, thinking=True)
    with pytest.raises(BadPayload, match="takes no variable 'messages': it has no variables of its own"):
        rendered(CHATML, messages=[])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses the messages: roles must alternate"),
        ("{{ messages[0].nothing.further }}", "fails: UndefinedError"),
        ("{{ messages.append(1) }}", "fails: SecurityError"),
        ("{{ ''.__class__.__mro__ }}", "fails: SecurityError"),
        ("{{ raise_exception }}", "a value of type function cannot be written"),
        ("{{ 1 / 0 }}", "fails: ZeroDivisionError"),
        ("{% for a in range(100000) %}{% for b in range(100000) %}xxxxxxxxxx{% endfor %}{% endfor %}", "more than"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "too much memory"),
    ],
)
def test_what_a_template_may_not_do(source: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an error that says why, no crash, no endless text. Method: one of each kind."""
    monkeypatch.setattr(chat_template, "PROMPT_CHARS_MAX", 100_000)
    with pytest.raises(BadPayload, match=reason):
        rendered(source, ChatMessage("user", "Hi"))


@pytest.mark.parametrize("source", ["{{ messages | random }}", "{% if %}", "{{ 'a' }"])
def test_no_template(source: str) -> None:
    """Goal: found when the model is loaded. Method: broken ones, and a filter that draws numbers."""
    with pytest.raises(CodeError, match=r"chat_template\.jinja is no chat template"):
        template(source)


def test_nothing_that_draws_numbers() -> None:
    """Goal: the same prompt each time. Method: the one function of Jinja2 that makes up text is not there."""
    with pytest.raises(BadPayload, match="UndefinedError"):
        rendered("{{ lipsum() }}")
