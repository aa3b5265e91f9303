"""Makes tests/golden/chat.json: conversations rendered by the chat templates of several families, and their tokens.

    pip install transformers tokenizers gguf
    python tests/python/make_chat_golden.py MODEL.gguf TEMPLATES

MODEL.gguf is the default model, whose tokenizer cuts every text, and whose own template is the first. TEMPLATES is a folder of
templates called by their names (llama3.jinja, ...), as models and the packages trl and llama-cpp-python ship them.
"""

import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
from transformers import AutoTokenizer

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "chat.json"

USER = {"role": "user", "content": "Comfort Alice about her dog."}
SYSTEM = {"role": "system", "content": "You are kind."}
SAID = {"role": "assistant", "content": "I'm sorry \u2013 what happened?"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in \"Z\u00fcrich\" & elsewhere",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Z\u00fcrich", "Bern"]}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern", "days": 2}}}],
}
DAY = {"date_string": "26 Jul 2024"}

CASES = [
    ([USER], {}),
    ([USER], {"add_generation_prompt": False}),
    ([SYSTEM, USER], {}),
    ([SYSTEM, USER, SAID, {"role": "user", "content": "  It ran away.\n"}], {}),
    ([USER, SAID], {"continue_final_message": True}),
    ([USER, {"role": "assistant", "content": "I am sorry. "}], {"continue_final_message": True}),
    ([{"role": "user", "content": "user"}, {"role": "assistant", "content": "user"}, {"role": "user", "content": "user"}], {}),
    ([{"role": "user", "content": "東京は \U0001f30a\u200d\U0001f525 <b> 'x' \"y\" \\n {{ x }}"}], {}),
    ([USER, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nOh no."}, USER], {}),
    ([USER], {"enable_thinking": False}),
    ([SYSTEM, USER], {"tools": TOOLS}),
    ([USER, CALL, {"role": "tool", "content": "{\"sun\": true}"}], {"tools": TOOLS}),
    ([USER, USER], {}),
    ([{"role": "narrator", "content": "Once upon a time"}], {}),
]


def main():
    file, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    templates = {"smollm2": tokenizer.chat_template}
    templates |= {path.stem: path.read_text() for path in sorted(folder.glob("*.jinja"))}
    special = {name: str(text) for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
    found = []
    for name, template in templates.items():
        for messages, given in CASES:
            options = {"add_generation_prompt": not given.get("continue_final_message", False)} | given
            if "date_string" in template:
                options |= DAY
            case = {"template": name, "messages": messages, "options": options}
            try:
                text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
                ids = tokenizer.apply_chat_template(messages, chat_template=template, return_dict=False, **options)
                assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
                case |= {"text": text, "ids": ids}
            except Exception as error:
                case["error"] = str(error)
            found.append(case)
    golden = {"special": special, "templates": templates, "cases": found}
    GOLDEN.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
    print(len(found), "cases,", sum("error" in case for case in found), "errors", special)


main()
