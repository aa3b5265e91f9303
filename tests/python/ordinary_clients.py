"""Asks a server as users do, with the headers that their clients send by themselves, and reads what comes.

    python tests/python/ordinary_clients.py http://127.0.0.1:8080

Needs requests and httpx. Every route of the contract is asked for every fault that it can have; a client that cannot decode
an answer, or finds something else than a problem document in it, ends this with an error.
"""

import json
import sys
import urllib.error
import urllib.request

import httpx
import requests

JSON = {"content-type": "application/json"}


def by_requests(method, url, headers, body):
    answer = requests.request(method, url, headers=headers, data=body, timeout=60)
    return answer.status_code, answer.headers.get("content-type", ""), answer.content


def by_httpx(method, url, headers, body):
    answer = httpx.request(method, url, headers=headers, content=body, timeout=60)
    return answer.status_code, answer.headers.get("content-type", ""), answer.content


def by_urllib(method, url, headers, body):
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.headers.get("content-type", ""), answer.read()


CLIENTS = {"requests": by_requests, "httpx": by_httpx, "urllib": by_urllib}


def faults(base):
    """(method, path, headers, body, status) of every fault of every route."""
    contract = requests.get(base + "/v1/openapi.json", timeout=60).json()
    for template, methods in contract["paths"].items():
        if template.endswith("/completions") or any(m["tags"] == ["remote"] for m in methods.values()):
            continue  # routes of other tools answer in those tools' forms; check_openai.py and remote_clients.py ask them
        path = template.replace("{id}", "nothing-of-that-name")
        yield "PATCH", path, {}, None, 405
        for method in (name.upper() for name in methods):
            if path.startswith("/v1/admin/"):
                # This server needs no keys, so nobody is an admin; nothing of a body is read.
                yield method, path, JSON, b'{"promt":"a"}' if method == "POST" else None, 403
                continue
            if "{id}" in template:
                yield method, path, {}, None, 404
                if method == "GET":
                    yield "HEAD", path, {}, None, 404
            elif path not in ("/healthz", "/readyz"):
                yield method, path + "?colour=red", JSON, b"[]" if method == "POST" else None, 422
            if method == "POST":
                yield method, path, JSON, b'{"a":', 400
                yield method, path, JSON, b'{"promt":"a"}', 422
                yield method, path, {"content-type": "text/plain"}, b"a", 415
                if path != "/v1/datasets":
                    yield method, path, JSON, b" " * (3 << 20), 413
    for method in ("GET", "POST", "DELETE", "HEAD"):
        yield method, "/v1/nothing", {}, None, 404


def main(base):
    asked = 0
    for method, path, headers, body, status in faults(base):
        for name, ask in CLIENTS.items():
            got, media, content = ask(method, base + path, headers, body)
            where = f"{name}: {method} {path}"
            assert (got, media) == (status, "application/problem+json"), (where, got, media, content[:200])
            if method == "HEAD":
                assert content == b"", where
            else:
                problem = json.loads(content)
                assert problem["status"] == status and problem["detail"], (where, problem)
            asked += 1
    print(f"{asked} answers read")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
