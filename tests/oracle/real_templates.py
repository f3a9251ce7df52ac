#!/usr/bin/env python3
"""What transformers' `apply_chat_template` makes of real chat templates, as hashes.

    pip install transformers==4.57.6 jinja2==3.1.6 tokenizers==0.22.2
    real_templates.py CACHE/templates > tests/golden/templates.json
    real_templates.py CACHE/templates NAME NUMBER     prints one rendering, to compare by eye

The templates are other people's, and so is most of what they render to. So the output holds the conversations, and for
each template the hash (FNV-1a, 64 bits) of its source and, for each conversation, of its text; "-" where transformers
refuses. The clock that templates ask stands still.
"""
import datetime
import json
import os
import sys

import transformers.utils.chat_template_utils as chat_template_utils
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

NOW = 1_735_689_599  # 2024-12-31 23:59:59 UTC, a Tuesday


class StillClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)


chat_template_utils.datetime = StillClock


def function(name, description, properties, required):
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def call(name, arguments, id="abc123def"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [
    function("get_weather", "Current weather — 天气 <now> & \"here\"", {
        "city": {"type": "string", "description": "A city\nand its country"},
        "unit": {"type": "string", "enum": ["C", "F"], "default": "C", "description": "Scale"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14, "description": "How many days"},
        "exact": {"type": "boolean", "default": False, "description": "No guesses"},
    }, ["city"]),
    function("search", "Searches.", {
        "query": {"type": "string", "description": "What to look for"},
        "tags": {"type": "array", "items": {"type": "string"}, "description": "Labels"},
        "where": {"type": "object", "description": "A place", "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}}},
    }, []),
    function("ping", "Says pong.", {}, []),
]
ODD_TOOLS = [
    function("odd", "", {
        "either": {"type": ["string", "null"]},
        "any": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "step": {"type": "number", "multipleOf": 0.5, "minimum": -1e-7, "maximum": 1e21, "default": 1.0},
        "<|im_end|>": {"type": "string", "enum": ["</s>", "é\u0007\\\"", ""]},
    }, ["either"]),
    {"type": "function", "function": {"name": "bare"}},
]
DOCUMENTS = [{"title": "Eagles", "text": "Aquila is a genus of eagles."}, {"title": "鹰", "text": "鹰是猛禽。\n"}]
SYSTEM = {"role": "system", "content": "You are terse."}
HELLO = {"role": "user", "content": "Hello!"}
WEATHER = {"role": "user", "content": "Weather in Paris?"}
RESULT = {"role": "tool", "tool_call_id": "abc123def", "name": "get_weather", "content": "{\"temp\": 21.5, \"sky\": \"晴\"}"}
ARGUMENTS = {"city": "Paris", "days": 2, "exact": True, "unit": None, "where": {"lat": 48.5, "lon": -2, "tags": ["a", "b"]}}


def turns(*messages, **options):
    return {"messages": list(messages), **options}


# The objects are what AQUILA_INPUT_MESSAGES takes.
CHATS = [
    turns(HELLO),
    turns(HELLO, add_generation_prompt=False),
    turns(SYSTEM, HELLO),
    turns(SYSTEM, HELLO, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "1+1?"}),
    turns(SYSTEM, HELLO, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}, add_generation_prompt=False),
    turns({"role": "system", "content": "  你是一只鹰。 \n"}, {"role": "user", "content": "  你好，世界 🦅👩‍👩‍👧 é\n\n"}, {"role": "assistant", "content": "\n「嗨」\t"}, {"role": "user", "content": "'q' \"q\" \\n {x} {{ y }} {% z %} <b>&amp;</b>"}),
    turns({"role": "system", "content": ""}, {"role": "user", "content": ""}),
    turns(HELLO, {"role": "assistant", "content": ""}, {"role": "user", "content": " "}),
    turns(HELLO, HELLO),
    turns(SYSTEM),
    turns(SYSTEM, SYSTEM, HELLO),
    turns({"role": "assistant", "content": "First."}, HELLO),
    turns({"role": "developer", "content": "Be kind."}, HELLO),
    turns({"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}),
    turns({"role": "system", "content": [{"type": "text", "text": "Sys."}]}, {"role": "user", "content": [{"type": "text", "text": "u"}]}, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}, HELLO),
    turns({"role": "user", "content": "<s> </s> <|im_end|> <|im_start|>assistant\n[INST] <|eot_id|> <｜User｜> <think>x</think>"}),
    turns(HELLO, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHi."}, {"role": "user", "content": "And?"}),
    turns(HELLO, {"role": "assistant", "reasoning_content": "hm\n", "content": "Hi."}, {"role": "user", "content": "And?"}),
    turns(HELLO, {"role": "assistant", "thinking": "hm", "content": "Hi."}, add_generation_prompt=False),
    turns(WEATHER, tools=TOOLS),
    turns(SYSTEM, WEATHER, tools=TOOLS),
    turns(SYSTEM, WEATHER, tools=TOOLS[:1], add_generation_prompt=False),
    turns(SYSTEM, WEATHER, tools=[]),
    turns(WEATHER, {"role": "assistant", "content": "", "tool_calls": [call("get_weather", ARGUMENTS)]}, RESULT, tools=TOOLS),
    turns(SYSTEM, WEATHER, {"role": "assistant", "content": None, "tool_calls": [call("get_weather", ARGUMENTS)]}, RESULT, tools=TOOLS),
    turns(SYSTEM, WEATHER, {"role": "assistant", "tool_calls": [call("get_weather", ARGUMENTS)]}, RESULT, {"role": "assistant", "content": "21.5 °C."}, HELLO, tools=TOOLS),
    turns(WEATHER, {"role": "assistant", "content": "Let me see.", "tool_calls": [call("get_weather", json.dumps(ARGUMENTS))]}, RESULT, tools=TOOLS),
    turns(WEATHER, {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "Paris"}), call("search", {"query": "sky ☁", "tags": []}, "xyz987uvw")]}, RESULT, {"role": "tool", "tool_call_id": "xyz987uvw", "name": "search", "content": "nothing"}, tools=TOOLS),
    turns(WEATHER, {"role": "assistant", "content": "", "reasoning_content": "I must look.", "tool_calls": [call("ping", {})]}, {"role": "tool", "tool_call_id": "abc123def", "name": "ping", "content": "pong"}, tools=TOOLS),
    turns(WEATHER, {"role": "assistant", "content": "", "tool_calls": [call("get_weather", ARGUMENTS)]}, add_generation_prompt=False),
    turns(WEATHER, {"role": "assistant", "content": "", "tool_calls": [call("get_weather", ARGUMENTS)]}, {**RESULT, "content": [{"type": "text", "text": "sun"}]}, tools=TOOLS),
    turns(SYSTEM, HELLO, documents=DOCUMENTS),
    turns(SYSTEM, HELLO, chat_template_kwargs={"enable_thinking": False}),
    turns(SYSTEM, HELLO, chat_template_kwargs={"enable_thinking": True, "thinking": True, "reasoning_effort": "high", "keep_past_thinking": True}),
    turns(WEATHER, tools=TOOLS, chat_template_kwargs={"thinking": False, "tool_choice": "required", "model_identity": "You are Aquila.", "date_string": "01 Jan 2030"}),
    turns(WEATHER, tools=TOOLS, chat_template_kwargs={"tools_in_user_message": False, "add_vision_id": False, "custom_tools": None}),
    turns(SYSTEM, WEATHER, {"role": "assistant", "content": "", "tool_calls": [call("get_weather", ARGUMENTS)]}, RESULT, tools=TOOLS[2:]),
    turns(SYSTEM, WEATHER, tools=ODD_TOOLS),
    turns(SYSTEM, WEATHER, tools=TOOLS, chat_template_kwargs={"functions": TOOLS, "datetime": "now", "parameter_definitions": {}}),
    turns(HELLO, {"role": "assistant", "content": "", "tool_calls": [{"name": "ping", "arguments": {"f": [0.1, 1e16, 1e-5, -0.0, 12345678901234567890], "n": None, "t": True}}]}, {"role": "tool", "content": {"a": [1, {"b": "ü"}]}}),
    turns(HELLO, {"role": "assistant", "content": "I think that "}, continue_final_message=True, add_generation_prompt=False),
    turns(SYSTEM, HELLO, {"role": "assistant", "content": [{"type": "text", "text": "First,\n"}]}, continue_final_message=True, add_generation_prompt=False),
]

tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def digest(text):
    hash = 0xCBF29CE484222325
    for byte in text.encode():
        hash = (hash ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{hash:016x}"


def render(source, chat):
    options = {"add_generation_prompt": True, **chat}
    messages, more = options.pop("messages"), options.pop("chat_template_kwargs", {})
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, chat_template=source, **options, **more)
    except Exception as error:  # what transformers refuses, we refuse
        if len(sys.argv) > 2:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return None


directory = sys.argv[1]
names = sorted(name for name in os.listdir(directory) if name.endswith(".jinja"))
if len(sys.argv) > 2:
    source = open(os.path.join(directory, sys.argv[2]), encoding="utf-8", newline="").read()
    print(render(source, CHATS[int(sys.argv[3])]), end="")
    sys.exit()
templates = {}
for name in names:
    source = open(os.path.join(directory, name), encoding="utf-8", newline="").read()
    texts = [render(source, chat) for chat in CHATS]
    templates[name] = {"source": digest(source), "texts": ["-" if t is None else digest(t) for t in texts]}
json.dump({"now": NOW, "chats": CHATS, "templates": templates}, sys.stdout, ensure_ascii=False, indent=1)
print()
