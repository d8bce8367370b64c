"""The count of a template's work: bombs are refused at once, and what is counted is rendered as plain Jinja does."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import jinja2.ext
import jinja2.sandbox
import pytest

from rota.common.text_calls import ChatMessage
from rota.generation.chat_template import ChatTemplate
from rota.generation.template_work import WORK_MAX

BOMBS = [
    "{{ 'a'*3000000000 }}",
    "{{ ([1]*2000000000)|length }}",
    "{{ '%3000000000d' % 1 }}",
    "{{ '%*d' % (3000000000, 1) }}",
    "{{ '%3000000000d'|format(1) }}",
    "{{ '{:>3000000000}'.format(1) }}",
    "{{ '{:>{}}'.format(1, 3000000000) }}",
    "{{ 'a'|center(3000000000) }}",
    "{{ 'a\nb'|indent(2000000000) }}",
    "{{ messages|tojson(indent=2000000000) }}",
    "{{ 'a'.ljust(3000000000) }}",
    "{{ 'a'.zfill(3000000000) }}",
    "{{ ('\t'*1000).expandtabs(3000000) }}",
    "{{ ('a'*60000).replace('a', 'b'*60000)|length }}",
    "{{ ('a'*60000)|replace('', 'b'*60000)|length }}",
    "{{ ('b'*60000).join('a'*60000)|length }}",
    "{{ (['b'*60000]*60000)|join|length }}",
    "{{ (['b'*60000]*60000)|string|length }}",
    "{{ (['b'*60000]*60000)|tojson|length }}",
    "{{ [['b'*60000]*60000] }}",
    "{{ ('%s'*60000 % (['b'*60000]*60000))|length }}",
    "{{ ('a'*60000).translate({97: 'b'*60000})|length }}",
    "{{ (1).to_bytes(3000000000, 'big') }}",
    "{{ (9**(9**9))|string|length }}",
    "{{ [1]|batch(3000000000, 0)|list|length }}",
    "{{ [1]|slice(3000000000)|list|length }}",
    "{% set n = namespace(x='aaaa') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x|length }}",
    "{% set n = namespace(x='aaaa') %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x|length }}",
    "{% set n = namespace(l=[]) %}{% set b = 'b'*9000000 %}{% for i in range(9000) %}"
    "{% set n.l = n.l + [b[1:]] %}{% endfor %}x",
    "{% set b %}{% for i in range(99999) %}{% for i in range(99999) %}word{% endfor %}{% endfor %}"
    "{% endset %}{{ b|length }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}x",
    "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}x",
    "{% for a in range(99999) %}{% set b = range(99999)|map('string')|list %}{% endfor %}x",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for a in range(99999) %}{{ messages|tojson|length }}{% set x = 'word '*500 %}{% endfor %}",
]  # fmt: skip

CHILD = """
import json, resource, sys, time
from rota.common.errors import BadPayload
from rota.common.text_calls import ChatMessage
from rota.generation.chat_template import ChatTemplate
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.RLIM_INFINITY))
said = []
for source in json.load(sys.stdin):
    try:
        template = ChatTemplate(source, "t", bos_token="", eos_token="")
        said.append(len(template.render([ChatMessage("user", "Hi")], (), {}, 0)))
    except BadPayload as error:
        said.append(error.message)
print(json.dumps(said))
"""


def test_bombs_are_refused_at_once() -> None:
    """Goal: no template takes the memory of its worker, or its time without end. Method: bombs of each kind, compiled
    and rendered in a process with 2 GiB.
    """
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(BOMBS), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1000:]
    for source, said in zip(BOMBS, json.loads(done.stdout), strict=True):
        assert said == "the model's chat template needs too much memory or work for this", (source, said)


PLAIN = [
    "{% for m in messages[1:] %}{{ loop.index }}/{{ loop.length }}{{ m.role ~ ': ' ~ m.content }}"
    "{% else %}none{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.first }}{{ m['content'][:3] }}{{ m.content[::-1] }}"
    "{% endfor %}",
    "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{% if m.role == 'x' %}{% continue %}"
    "{% endif %}{{ m.content }}{% endfor %}",
    "{% macro say(m, end='!') %}<{{ m.role|upper }}>{{ m.content|trim }}{{ end }}{{ caller() if caller }}{% endmacro %}"
    "{% for m in messages %}{{ say(m) }}{% endfor %}{% call say(messages[0], end='?') %}called{% endcall %}",
    "{% set ns = namespace(n=0, text='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.text = ns.text + m.content %}{% endfor %}{{ ns.n }}{{ ns.text }}",
    "{% set block %}a{{ messages|length }}"
    "{% endset %}{{ block * 3 }}{{ '%s-%03d' % (block, 7) }}{{ '{:>8}|{}'.format(block, 1) }}",
    "{{ messages|map(attribute='role')|join(', ') }}{{ messages|join('; ', attribute='content') }}"
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}",
    "{{ 'a b c'.split() }}{{ 'x'.join(['1', '2']) }}{{ 'abc'.replace('b', 'dd') }}"
    "{{ 'abc'|replace('c', 'e') }}{{ ' a '.strip() }}{{ 'a'.ljust(3) }}|",
    "{{ [3, 1, 2]|sort }}{{ [1, 2, 3]|batch(2, 0)|list }}{{ 'a\nb'|indent(4) }}{{ 2 ** 10 }}{{ 7 % 4 }}"
    "{{ [1] + [2] }}{{ {'a': 1}.items()|list }}",
    "{% for a in [[1, [2, 3]], 4] recursive %}{% if a is iterable %}({{ loop(a) }}){% else %}{{ a }}"
    "{% endif %}{% endfor %}",
    "{% filter upper %}text {{ messages[0].content }}"
    "{% endfilter %}{{ missing|default('none') }}{{ messages[-1].role }}{{ messages[5:] }}",
]  # fmt: skip


@pytest.mark.parametrize("source", PLAIN)
def test_counting_changes_no_text(source: str) -> None:
    """Goal: the text that the model was trained on. Method: plain Jinja with the same options."""
    said = [ChatMessage("system", "Be brief."), ChatMessage("user", " Hi  there "), ChatMessage("assistant", "Yes?")]
    plain = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    fields: list[dict[str, Any]] = [{"role": one.role, "content": one.content} for one in said]
    expected = plain.from_string(source).render(messages=fields)
    assert ChatTemplate(source, "t", bos_token="", eos_token="").render(said, (), {}, 0) == expected


def test_long_dialogues_are_far_from_the_bound() -> None:
    """Goal: the bound is for bombs. Method: 1,000 messages of 4,000 characters each."""
    source = (
        "{% macro say(m) %}<|{{ m.role }}|>\n{{ m.content|trim }}\n{% endmacro %}{% for m in messages %}"
        "{% if loop.index0 == messages|length - 1 and messages[loop.index0:]|length %}{{ '' }}{% endif %}"
        "{{ say(m) + '' }}{% endfor %}"
    )
    text = "four" * 1_000
    said = [ChatMessage("user", text)] * 1_000
    rendered = ChatTemplate(source, "t", bos_token="", eos_token="").render(said, (), {}, 0)
    assert rendered == f"<|user|>\n{text}\n" * 1_000
    assert 12 * len(rendered) <= WORK_MAX
