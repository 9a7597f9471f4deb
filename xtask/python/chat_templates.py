"""Chat-template fixtures: published templates, conversations, and the text that
transformers makes of them (or the message of the exception that the template raises)."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

SOURCES = Path(__file__).resolve().parent / "chat-templates"

DATE = "26 Jul 2024"
SYSTEM = {"role": "system", "content": "You are a terse assistant."}
HELLO = {"role": "user", "content": "Hello! Who are you?"}
ANSWER = {"role": "assistant", "content": "A language model."}
MORE = {"role": "user", "content": "Say it in one word:\n  \"model\" <b>& 'more'</b>"}
SPACES = {"role": "user", "content": "  spaces around, and a tail \n"}
UNICODE = {"role": "user", "content": "Grüße, 世界! 🦀"}
EMPTY = {"role": "user", "content": ""}

CONVERSATIONS = {
    "single": [HELLO],
    "system": [SYSTEM, HELLO],
    "multi-turn": [HELLO, ANSWER, MORE],
    "system-multi-turn": [SYSTEM, HELLO, ANSWER, MORE],
    "ends-with-assistant": [HELLO, ANSWER],
    "spaces": [SPACES],
    "unicode": [UNICODE],
    "empty-content": [EMPTY],
    "two-users": [HELLO, MORE],
    "starts-with-assistant": [ANSWER, HELLO],
    "late-system": [HELLO, SYSTEM],
    "unknown-role": [{"role": "critic", "content": "No."}],
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place <now> & \"soon\"",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A town, e.g. Zürich"},
                "days": {"type": "integer"},
            },
            "required": ["place"],
        },
    },
}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "call00001", "type": "function",
         "function": {"name": "get_weather", "arguments": {"place": "Zürich", "days": 2}}}
    ],
}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "18 degrees"}
TOOL_CONVERSATIONS = {
    "tools": [SYSTEM, HELLO],
    "tools-no-system": [HELLO],
    "tool-call": [HELLO, CALL],
    "tool-result": [HELLO, CALL, RESULT],
}

# Template: bos, eos, whether it knows tools.
TEMPLATES = {
    "llama-2": ("<s>", "</s>", False),
    "llama-3": ("<|begin_of_text|>", "<|eot_id|>", False),
    "llama-3.1": ("<|begin_of_text|>", "<|eot_id|>", True),
    "llama-3.2": ("<|begin_of_text|>", "<|eot_id|>", True),
    "mistral-v0.2": ("<s>", "</s>", False),
    "mistral-v0.3": ("<s>", "</s>", True),
    "chatml": ("<s>", "<|im_end|>", False),
    "qwen2": (None, "<|im_end|>", False),
    "qwen2.5": (None, "<|im_end|>", True),
    "internlm2": ("<s>", "</s>", False),
    "zephyr": ("<s>", "</s>", False),
}


def make(out):
    out.mkdir(parents=True, exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    cases = []
    for template, (bos, eos, knows_tools) in TEMPLATES.items():
        source = (SOURCES / f"{template}.jinja").read_text(encoding="utf-8")
        (out / f"{template}.jinja").write_text(source, encoding="utf-8")
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.BPE()), bos_token=bos, eos_token=eos, chat_template=source)
        plans = [(name, messages, None, {}) for name, messages in CONVERSATIONS.items()]
        if knows_tools:
            plans += [(name, messages, [WEATHER], {}) for name, messages in TOOL_CONVERSATIONS.items()]
            plans.append(("two-tools", [HELLO], [WEATHER, WEATHER], {}))
        if template.startswith("llama-3."):
            plans.append(("tools-in-system", [SYSTEM, HELLO], [WEATHER], {"tools_in_user_message": False}))
            plans.append(("tools-without-user", [SYSTEM], [WEATHER], {}))
            plans.append(("two-calls", [HELLO, {**CALL, "tool_calls": CALL["tool_calls"] * 2}], [WEATHER], {}))
        if template == "llama-3.1":
            plans.append(("builtin-tools", [SYSTEM, HELLO], None,
                          {"builtin_tools": ["brave_search", "code_interpreter", "wolfram_alpha"]}))
        for name, messages, tools, variables in plans:
            if template.startswith("llama-3."):
                variables = {"date_string": DATE, **variables}
            for generation in (False, True):
                case = {
                    "template": f"{template}.jinja",
                    "name": name,
                    "bos_token": bos,
                    "eos_token": eos,
                    "messages": messages,
                    "add_generation_prompt": generation,
                }
                if tools is not None:
                    case["tools"] = tools
                if variables:
                    case["variables"] = variables
                try:
                    case["expected"] = tokenizer.apply_chat_template(
                        messages, tools=tools, tokenize=False, add_generation_prompt=generation, **variables)
                except Exception as error:  # the template's own raise_exception, or Jinja's
                    case["error"] = str(error)
                    case["error_type"] = type(error).__name__
                cases.append(case)
    (out / "cases.json").write_text(
        json.dumps(cases, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    failed = sum("error" in case for case in cases)
    print(f"chat templates: {len(TEMPLATES)} templates, {len(cases)} cases, {failed} of them errors")
