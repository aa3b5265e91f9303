"""Asks a running server through OpenAI's own client: completions and chats, whole and as streams, with interventions.

    pip install openai
    target/release/mediant serve --listen 127.0.0.1:8080
    python tests/python/check_openai.py http://127.0.0.1:8080
"""

import sys

import openai

URL = sys.argv[1]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")
MODEL = client.get("/models", cast_to=object)["models"][0]["id"]
CHAT = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What is the capital of France?"}]
STEER = {
    "branches": {
        "plain": [],
        "cut": [{"site": "resid_post", "layers": [12], "positions": {"steps": "all"}, "op": "scale", "factor": 0.0}],
    },
    "compare_with": "plain",
}


def refused(call, field):
    try:
        call()
    except openai.APIStatusError as error:
        assert 400 <= error.status_code < 500, error
        assert error.body["param"] == field, error.body
        assert error.body["message"] and error.body["type"] == "invalid_request_error", error.body
        return
    raise AssertionError(f"{field} was not refused")


def completions():
    asked = {"model": MODEL, "prompt": "The Eiffel Tower is in the city of", "max_tokens": 6, "temperature": 0}
    whole = client.completions.create(**asked, logprobs=2)
    choice = whole.choices[0]
    assert choice.text.startswith(" Paris"), choice
    assert choice.finish_reason == "length" and len(choice.logprobs.tokens) == 6
    assert all(x <= 0 for x in choice.logprobs.token_logprobs) and len(choice.logprobs.top_logprobs[0]) == 2
    assert whole.usage.completion_tokens == 6 and whole.usage.total_tokens == whole.usage.prompt_tokens + 6
    assert client.completions.create(**asked, echo=True).choices[0].text == asked["prompt"] + choice.text
    pieces = [c.choices[0].text for c in client.completions.create(**asked, stream=True) if c.choices]
    assert "".join(pieces) == choice.text, pieces
    drawn = asked | {"temperature": 1.0, "n": 3, "seed": 5, "top_p": 0.9, "stop": ["\n"]}
    first, again = (client.completions.create(**drawn) for _ in range(2))
    texts = [c.text for c in first.choices]
    assert texts == [c.text for c in again.choices] and len(set(texts)) > 1, texts
    assert [c.index for c in first.choices] == [0, 1, 2]
    refused(lambda: client.completions.create(**asked, presence_penalty=0.5), "presence_penalty")
    refused(lambda: client.completions.create(**asked, suffix="x"), "suffix")
    refused(lambda: client.completions.create(**asked | {"model": "other"}), "model")
    refused(lambda: client.completions.create(**asked | {"max_tokens": -1}), "max_tokens")


def chats():
    asked = {"model": MODEL, "messages": CHAT, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    choice = whole.choices[0]
    assert choice.message.role == "assistant" and "Paris" in choice.message.content, choice
    assert len(choice.logprobs.content[0].top_logprobs) == 2
    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == choice.message.content, text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == choice.finish_reason
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens, chunks[-1]
    steered = client.chat.completions.create(**asked, extra_body={"mediant": STEER})
    plain, cut = steered.choices
    assert plain.message.content == choice.message.content != cut.message.content
    own = steered.mediant["branches"]["cut"]["samples"][0]
    assert own["text"] == cut.message.content and own["receipt"]["cells"] == own["receipt"]["expected"] > 0
    assert own["compare"]["mean_logprob"] < 0
    refused(lambda: client.chat.completions.create(**asked, tools=[]), "tools")
    bad = {"mediant": {"interventions": [{"site": "resid_pos", "positions": "last", "op": "zero"}]}}
    refused(lambda: client.chat.completions.create(**asked, extra_body=bad), "mediant.interventions.0.site")
    refused(lambda: client.chat.completions.create(**asked | {"messages": []}), "messages")


completions()
chats()
print("completions and chats, whole and streamed, as OpenAI's client", openai.__version__, "reads them")
