"""One job: reads what the client sent, runs the block, says what comes of it."""

import builtins
import gc
import json
import linecache
import pickle
import struct
import sys
import traceback

import block
import einops
import link
import nnsight
import torch
import unpickle

#: Begins the file names of these stand-ins, which tracebacks do not show.
OWN = "<mediant"


class _Log:
    """`sys.stdout`: lines that were printed become lines of the job's log."""

    encoding = "utf-8"

    def __init__(self):
        self.held = ""

    def write(self, text):
        """Holds a line back until it is whole."""
        self.held += text
        while "\n" in self.held:
            line, _, self.held = self.held.partition("\n")
            link.tell("log", line)
        return len(text)

    def flush(self):
        """Lines leave as they end."""

    def finish(self):
        """Sends what was printed without an end of line."""
        if self.held:
            link.tell("log", self.held)
            self.held = ""

    def isatty(self):
        """It is none."""
        return False


class _Finder:
    """`import x` in a block: what is not here is refused with what is."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Never finds anything: it is asked last."""
        raise ModuleNotFoundError(
            f"No module named {name!r} in a remote block. It can use torch, einops, nnsight, Python's own modules, and functions "
            "and classes of your own files",
            name=name,
        )


def _text(error):
    """The traceback without the frames of this process."""

    def clean(summary, seen):
        if summary is None or id(summary) in seen:
            return
        seen.add(id(summary))
        kept = [frame for frame in summary.stack if not frame.filename.startswith(OWN) and not frame.filename.startswith("<frozen")]
        summary.stack = traceback.StackSummary.from_list(kept)
        clean(summary.__cause__, seen)
        clean(summary.__context__, seen)

    summary = traceback.TracebackException(type(error), error, error.__traceback__)
    clean(summary, set())
    # as Python itself would print them for a client that has them in nnsight
    return "".join(summary.format())


def _result(names, captured):
    """What leaves the job: names bound to saved objects, and containers from outside that now hold some."""
    found = {name: value for name, value in names.items() if nnsight.is_saved(value)}
    for name, value in captured.items():
        if name not in found and isinstance(value, (dict, list)) and _holds_saved(value, set()):
            found[name] = value
    return found


def _holds_saved(value, seen):
    if id(value) in seen:
        return False
    seen.add(id(value))
    for member in value.values() if isinstance(value, dict) else value:
        if nnsight.is_saved(member) and not isinstance(member, (bool, int, str, type(None))):
            return True
        if isinstance(member, (dict, list, tuple)) and _holds_saved(member, seen):
            return True
    return False


def _block(payload):
    tracer, (source, glbls, names) = unpickle.load(payload)
    # what came stays: nothing of it is looked through for rings of objects again
    gc.freeze()
    gc.enable()
    code = tracer.info.frame.f_code
    compiled = compile(block.parse(source, code.co_filename, code.co_name), code.co_filename, "exec").replace(co_name=code.co_name)
    captured = {**glbls, **names}
    scope = block.Scope(names, {}, {"__builtins__": builtins, "__name__": "__main__", **glbls})
    return _result(tracer.run(compiled, scope), captured)


# ---- before a job


#: A request as a client of a model of a few layers made it, to get warm with.
REQUEST = b""
#: Modules of a model of thirty layers, to be read like a request.
_MODULES = []


def _modules():
    """A pickle with as many modules as a small model has."""

    def module(path, children):
        made = nnsight.Envoy()
        made.__dict__.update(path=path, _children=children, _default=None, _alias=None, _edits=[], _iteration=None, _child_map={})
        return made

    parts = [f"part{i}" for i in range(12)]
    layers = [module(f"model.layers.{i}", [module(f"model.layers.{i}.{part}", []) for part in parts]) for i in range(30)]
    return pickle.dumps((module("model", layers), ("", {}, {})), protocol=4)


class _Echo:
    """Answers like a worker that has no numbers: every tensor has one shape."""

    def sendall(self, sent):
        """Hears a question."""
        self.asked = sent

    def recv(self, _n, _flags=0):
        """Answers it."""
        (text,) = struct.unpack_from("<I", self.asked, 4)
        what, args, _named, _dead = json.loads(self.asked[8 : 8 + text])
        tensor = {"t": 1, "h": [1, 4, 16], "y": "float32"}
        answer = {"serves": True, "begin": 0, "close": None, "swap": None, "setitem": None}.get(what, tensor)
        text = json.dumps({"ok": answer}).encode()
        return struct.pack("<II", 4 + len(text), len(text)) + text


def _warm():
    """Reads and runs a job once, without a worker. The first time that a forked process touches a page, the kernel copies it: better
    before its job comes than after.
    """
    unpickle.load(_MODULES[0])
    link.connect(_Echo())
    nnsight.MODEL.update(repo_id="", config={}, dtype="float32", pad=0)
    before = set(linecache.cache)
    link.tell("done", _block(REQUEST))
    link.forget()
    nnsight.SAVED.clear()
    nnsight.MODEL.clear()
    block.CODES.clear()
    for name in set(linecache.cache) - before:
        del linecache.cache[name]


def run(socket):
    """Serves the one job of this process."""
    gc.disable()
    _warm()
    link.connect(socket)
    begin, payload = link.begin()
    link.SERVED = frozenset(begin["served"])
    nnsight.MODEL.update(begin["model"])
    log = _Log()
    sys.stdout = sys.stderr = log
    sys.setrecursionlimit(3000)
    try:
        found = _block(payload)
        log.finish()
        link.tell("done", found)
    except link.Gone:
        return
    except BaseException as error:
        try:
            text = _text(error)
        except BaseException as again:
            text = f"{type(error).__name__}: its message cannot be shown ({type(again).__name__})"
        try:
            log.finish()
            link.tell("failed", text)
        except BaseException:
            return


def install():
    """Puts all stand-ins in place, once, before any job."""
    torch.install()
    nnsight.install()
    nnsight.mount()
    einops.install()
    block.install()
    _MODULES.append(_modules())
    _warm()
    sys.meta_path.append(_Finder)
    linecache.checkcache = lambda filename=None: None
