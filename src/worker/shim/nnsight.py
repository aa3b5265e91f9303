"""A stand-in for `nnsight`: envoys whose values are questions to the worker, and tracers that run a block in the right order.

Nothing here waits for a forward pass. A block runs from its first to its last line; what it asks of the model is a tensor
without numbers, and the worker computes when a number is looked at or when the job ends.
"""

import contextlib
import json
import sys
import threading
import types

import block
import link
import torch

#: Objects that leave the job: those that `save` marked, by id. They are held, so that the id stays theirs.
SAVED = {}
#: How many tracers are open, one in another.
DEPTH = 0
#: What the worker said of the served model.
MODEL = {}

_running = threading.local()


class OutOfOrderError(Exception):
    """A value was asked for that the model already ran past."""

    __module__ = "nnsight.intervention.interleaver"


class NotServedError(NotImplementedError):
    """nnsight has it, this server does not."""


class EarlyStopException(Exception):
    """Ends a body: `tracer.stop()`."""


link.ERRORS.update(OutOfOrderError=OutOfOrderError, NotServedError=NotServedError)


def not_served(what):
    """The error for a part of nnsight that is left out."""
    return NotServedError(
        f"`{what}` is not served by this server yet. Served are trace, invoke, session, stop, barrier and save, and the "
        "inputs and outputs of the model's modules"
    )


def save(value, _=None):
    """Marks a value to be returned."""
    if not DEPTH:
        raise ValueError(
            "save() was called outside a trace. `.save()` / nnsight.save(x) marks a value to return from the enclosing "
            "`with model.trace(...):` block, so it only works inside one — move the save into the trace block."
        )
    SAVED[id(value)] = value
    return value


def is_saved(value):
    """Whether the very object was marked."""
    return id(value) in SAVED


def mount():
    """Gives every object `.save()`, as nnsight does with an extension; without it, `nnsight.save(x)` remains."""
    import ctypes

    torch.Tensor.save = save
    with contextlib.suppress(Exception):

        class Proxy(ctypes.Structure):
            _fields_ = [("count", ctypes.c_ssize_t), ("type", ctypes.c_void_p), ("mapping", ctypes.py_object)]

        Proxy.from_address(id(object.__dict__)).mapping["save"] = save
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(object))


# ---- the model


class Config:
    """`model.config`: what the model's `config.json` says."""

    def __init__(self, values):
        for key, value in values.items():
            setattr(self, key, Config(value) if isinstance(value, dict) else value)

    def to_dict(self):
        """The values as a dict."""
        return {k: v.to_dict() if isinstance(v, Config) else v for k, v in self.__dict__.items()}

    def get(self, key, default=None):
        """A value, or the default."""
        return getattr(self, key, default)

    def __getattr__(self, name):
        if name == "_name_or_path":
            return MODEL.get("repo_id")
        raise AttributeError(f"the model's configuration has no `{name}`")

    def __repr__(self):
        return json.dumps(self.to_dict(), indent=2)


class Tokenizer:
    """`model.tokenizer`: the server's tokenizer, text to ids and back."""

    padding_side = "left"

    def encode(self, text, add_special_tokens=True, **_options):
        """Ids of a text."""
        return link.ask("tokenize", [text], add_special_tokens)[0]

    def decode(self, ids, skip_special_tokens=False, **_options):
        """Text of ids."""
        ids = _numbers(ids)
        return link.ask("decode", [[ids] if isinstance(ids, int) else ids], skip_special_tokens)[0]

    def batch_decode(self, rows, skip_special_tokens=False, **_options):
        """Texts of rows of ids."""
        return link.ask("decode", [[r] if isinstance(r, int) else r for r in _numbers(rows)], skip_special_tokens)

    def __call__(self, text, return_tensors=None, add_special_tokens=True, padding=False, **options):
        if options:
            raise not_served(f"tokenizer(..., {next(iter(options))}=...)")
        rows = link.ask("tokenize", [text] if isinstance(text, str) else list(text), add_special_tokens)
        longest = max(map(len, rows), default=0)
        masks = [[1] * len(row) for row in rows]
        if padding or return_tensors:
            if not padding and any(len(row) != longest for row in rows):
                raise ValueError("Unable to create tensor, you should probably activate padding with 'padding=True'")
            pad = MODEL["pad"]
            masks = [[0] * (longest - len(row)) + mask for row, mask in zip(rows, masks)]
            rows = [[pad] * (longest - len(row)) + row for row in rows]
        if isinstance(text, str) and not return_tensors:
            return Encoding({"input_ids": rows[0], "attention_mask": masks[0]})
        if return_tensors:
            rows, masks = (link.ask("tensor", x) for x in (rows, masks))
        return Encoding({"input_ids": rows, "attention_mask": masks})

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"`tokenizer.{name}` is not served in a remote block. Served are: encode, decode, batch_decode, tokenizer(...)")


class Encoding(dict):
    """What a tokenizer gives."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setstate__(self, state):
        self.update(state.get("data", {}))

    def to(self, *_args, **_options):
        """All of it is on the host."""
        return self


class ModelOutput:
    """`model.output`: what the model returns, of which the logits are served."""

    past_key_values = None

    def _wire(self, _encoder):
        raise NotServedError("all of `model.output` cannot be saved or used as a tensor; save `model.output.logits`")

    def __init__(self, logits):
        self.logits = logits

    def __getitem__(self, key):
        if key in (0, "logits"):
            return self.logits
        raise KeyError(key) if isinstance(key, str) else IndexError("tuple index out of range")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"`model.output.{name}` is not served; `model.output.logits` is")


class Envoy:
    """A module of the model, by its path."""

    def __setstate__(self, state):
        # there are hundreds of them in a request
        self.__dict__ = state

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("weight", "bias", "_module", "state_dict", "parameters", "named_parameters"):
            raise not_served(f"{self.__dict__.get('path')}.{name}")
        raise AttributeError(f"{type(self).__name__!r} object (nor its module) has attribute {name!r}")

    def __getitem__(self, index):
        children = list(self._children)
        return children[index]

    def __len__(self):
        return len(self._children)

    def __iter__(self):
        return iter(self._children)

    def __repr__(self):
        return f"<{self.path}>"

    def __hash__(self):
        return id(self)

    def get(self, path):
        """The module below this one at a path."""
        found = self
        for part in path.split("."):
            found = found[int(part)] if part.isdigit() else getattr(found, part)
        return found

    # values
    def _ask(self, what, *values):
        trace = getattr(_running, "trace", None)
        if trace is None:
            raise ValueError(f"Cannot access `{self.path}.{what}` outside of interleaving")
        return link.ask("swap" if values else "tap", trace, _running.invoke, f"{self.path}.{what}", *values)

    @property
    def output(self):
        return self._ask("output")

    @output.setter
    def output(self, value):
        self._ask("output", value)

    @property
    def input(self):
        return self._ask("input")

    @input.setter
    def input(self, value):
        self._ask("input", value)

    @property
    def inputs(self):
        value = self._ask("input")
        # how transformers calls it
        if self.path.endswith(".self_attn"):
            return (), {"hidden_states": value}
        return (value,), {}

    @inputs.setter
    def inputs(self, value):
        args, kwargs = value
        self._ask("input", args[0] if args else next(iter(kwargs.values())))

    # tracers
    def trace(self, *args, **kwargs):
        """Opens a trace."""
        if kwargs.pop("trace", True) is False:
            raise not_served("trace(..., trace=False)")
        for name in ("remote", "backend", "blocking", "verbose"):
            kwargs.pop(name, None)
        trace = Trace()
        trace.__setstate__({"envoy": self, "fn": None, "args": args, "kwargs": kwargs})
        return trace

    def session(self, **_options):
        """Opens a session."""
        return Session()

    # left out
    def _left_out(name):
        def refuse(self, *_args, **_kwargs):
            raise not_served(f"{'model' if self.path == 'model' else self.path}.{name}")

        return refuse

    for _name in "generate edit scan skip pipe all clear_edits next modules named_modules to eval train".split():
        locals()[_name] = _left_out(_name)
    source = property(_left_out("source"))
    iter = property(_left_out("iter"))
    del _left_out, _name

    def __call__(self, *_args, **_kwargs):
        raise not_served(f"a call of {self.path}(...)")


class Model(Envoy):
    """`LanguageModel`, `TransformersModel`."""

    @property
    def output(self):
        return ModelOutput(self.lm_head.output)

    @output.setter
    def output(self, value):
        self.lm_head.output = getattr(value, "logits", value)

    @property
    def config(self):
        if "_config" not in self.__dict__:
            self.__dict__["_config"] = Config(MODEL["config"])
        return self.__dict__["_config"]

    @property
    def device(self):
        return torch.CPU

    @property
    def dtype(self):
        return torch._dtype(MODEL["dtype"])


# ---- prompts


def _numbers(ids):
    if isinstance(ids, torch.Tensor):
        return ids.tolist()
    if isinstance(ids, (list, tuple, range)):
        return [_numbers(x) for x in ids]
    return int(ids)


#: What may be said beside the prompt, and changes nothing that a block can see here.
_HARMLESS = {"use_cache", "return_dict", "return_tensors", "output_attentions", "max_new_tokens", "scan", "validate", "truncation", "padding"}


def rows(args, kwargs):
    """The prompts of an invoke as rows of texts or ids; `None` if there is none."""
    kwargs = dict(kwargs)
    data = args[0] if args else None
    if len(args) > 1:
        raise TypeError("a trace takes one prompt, or a list of prompts")
    fields = {}
    if isinstance(data, dict):
        fields.update(data)
        data = None
    for name in ("input_ids", "attention_mask"):
        if name in kwargs:
            fields[name] = kwargs.pop(name)
    if data is not None and fields:
        fields["input_ids"] = data
        data = None
    fields.pop("token_type_ids", None)
    for name in [*fields, *kwargs]:
        if name not in ("input_ids", "attention_mask") and (name in fields or name not in _HARMLESS):
            raise not_served(f"trace(..., {name}=...)")
    if fields.get("input_ids") is not None:
        ids = _numbers(fields["input_ids"])
        mask = fields.get("attention_mask")
        mask = None if mask is None else _numbers(mask)
        if ids and not isinstance(ids[0], list):
            ids, mask = [ids], None if mask is None else ([mask] if mask and not isinstance(mask[0], list) else mask)
        return [_unpadded(row, None if mask is None else mask[i]) for i, row in enumerate(ids)]
    if data is None:
        return None
    if isinstance(data, str):
        return [data]
    if isinstance(data, torch.Tensor) or (isinstance(data, (list, tuple)) and len(data) and isinstance(data[0], int)):
        ids = _numbers(data)
        return ids if ids and isinstance(ids[0], list) else [ids]
    if isinstance(data, (list, tuple)) and all(isinstance(x, (str, list, tuple, torch.Tensor)) for x in data):
        return [x if isinstance(x, str) else _numbers(x) for x in data]
    raise not_served(f"a prompt of type {type(data).__name__}")


def _unpadded(row, mask):
    if mask is None:
        return row
    if len(mask) != len(row):
        raise ValueError(f"`attention_mask` has {len(mask)} positions for a row of {len(row)} tokens.")
    start = mask.index(1) if 1 in mask else len(mask)
    if any(m != 1 for m in mask[start:]):
        raise not_served("an attention_mask that hides other tokens than those at a prompt's beginning")
    return row[start:]


# ---- tracers


class Tracer:
    """Takes the body of its with-statement as code."""

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        return False

    def run(self, code, scope):
        """Runs the body; what it bound."""
        global DEPTH
        DEPTH += 1
        try:
            return self.execute(code, scope)
        finally:
            DEPTH -= 1


class Session(Tracer):
    """`model.session()`: its traces run one after the other, values flow."""

    def __setstate__(self, state):
        self.__dict__.update(state)

    def execute(self, code, scope):
        """Runs the body as it is."""
        block.execute(code, scope)
        return scope.writes()


class Invoke(Tracer):
    """`tracer.invoke(...)`: a prompt and the body that sees its rows."""

    def __init__(self, trace, args, kwargs):
        self.trace = trace
        self.rows = rows(args, kwargs)

    def execute(self, code, scope):
        """Only remembers: bodies run when all prompts are known."""
        self.code, self.scope = code, scope
        self.trace.invokes.append(self)
        return {}


class Barrier:
    """`tracer.barrier(n)`: where n bodies wait for each other."""

    def __init__(self, n, trace):
        self.n = n
        self.trace = trace
        self.waiting = 0
        self.round = 0

    def __call__(self):
        turns = self.trace.turns
        if turns is None or getattr(_running, "invoke", None) is None:
            raise ValueError("Cannot access `tracer.barrier()` outside of interleaving")
        self.waiting += 1
        if self.waiting >= self.n:
            self.waiting = 0
            self.round += 1
            return
        mine = self.round
        turns.wait(lambda: self.round > mine)


class Turns:
    """Bodies on threads, one of which runs at a time: the next one goes on where this one waits or ends."""

    def __init__(self):
        self.condition = threading.Condition()
        self.waiting = []
        self.running = None
        self.error = None

    def run(self, bodies):
        """Runs all of them; the first error ends them all."""
        threads = []
        for index, body in enumerate(bodies):
            # in the order written: each starts when it is its turn
            self.waiting.append((index, lambda: True))
            threads.append(threading.Thread(target=self._one, args=(index, body), daemon=True))
        for thread in threads:
            thread.start()
        with self.condition:
            self._next()
            self.condition.wait_for(lambda: self.running is None)
        if self.error is not None:
            raise self.error
        if self.waiting:
            raise OutOfOrderError(
                "A barrier was never reached by every block it waits for; "
                "fewer blocks called it than `tracer.barrier(n)` was given"
            )

    def _next(self):
        if self.error is None:
            for i, (index, ready) in enumerate(self.waiting):
                if ready():
                    del self.waiting[i]
                    self.running = index
                    self.condition.notify_all()
                    return
        self.running = None
        self.condition.notify_all()

    def _one(self, index, body):
        with self.condition:
            self.condition.wait_for(lambda: self.running == index)
        try:
            body()
        except BaseException as error:
            self.error = self.error or error
        with self.condition:
            self._next()

    def wait(self, ready):
        """Lets others go on until `ready`."""
        with self.condition:
            index = self.running
            self.waiting.append((index, ready))
            self._next()
            self.condition.wait_for(lambda: self.running == index)


class Trace(Tracer):
    """`model.trace(...)`."""

    def __setstate__(self, state):
        self.envoy = state["envoy"]
        self.fn = state.get("fn")
        self.args = state["args"]
        self.kwargs = state["kwargs"]
        self.info = state.get("info")
        self.invokes = []
        self.barriers = 0
        self.turns = None
        self.collecting = False

    def invoke(self, *args, **kwargs):
        """A prompt with a body of its own."""
        if not self.collecting:
            raise ValueError("Cannot invoke while the model is already running.")
        return Invoke(self, args, kwargs)

    def stop(self):
        """Ends the body here."""
        raise EarlyStopException()

    def barrier(self, n):
        """A meeting point of n bodies."""
        if not self.collecting:
            raise not_served("a barrier made inside an invoke")
        self.barriers += 1
        return Barrier(n, self)

    @property
    def iter(self):
        raise not_served("tracer.iter")

    def all(self):
        """Left out."""
        raise not_served("tracer.all")

    def cache(self, *_args, **_kwargs):
        """Left out."""
        raise not_served("tracer.cache")

    @property
    def result(self):
        raise not_served("tracer.result")

    def execute(self, code, scope):
        """Runs the block, or collects its invokes and runs them."""
        name = getattr(self.fn, "__name__", "_call")
        if name not in ("_call", "__call__"):
            raise not_served(f"model.{name}")
        if not isinstance(self.envoy, Model):
            raise not_served("a trace of a part of the model")
        try:
            given = rows(self.args, self.kwargs)
            if given is not None:
                scope.shared = {}
                self._bodies([(given, code, scope)])
                return scope.writes()
            self.collecting = True
            try:
                block.execute(code, scope)
            finally:
                self.collecting = False
            if not self.invokes:
                raise ValueError("trace() needs an input, or at least one `with tracer.invoke(...)` block")
            writes = scope.writes()
            self._bodies([(i.rows, i.code, i.scope) for i in self.invokes])
            for invoke in self.invokes:
                writes.update(invoke.scope.writes())
            return writes
        finally:
            self.invokes = []
            block.forget()

    def _bodies(self, bodies):
        if getattr(_running, "trace", None) is not None:
            raise ValueError("Cannot trace while the model is already running.")
        number = link.ask("begin", [rows for rows, _, _ in bodies])

        def body(index, code, scope):
            _running.trace, _running.invoke = number, index
            try:
                block.execute(code, scope)
            except EarlyStopException:
                pass
            finally:
                _running.trace = _running.invoke = None
            link.ask("close", number, index)

        made = [lambda i=i, c=c, s=s: body(i, c, s) for i, (_, c, s) in enumerate(bodies)]
        if self.barriers:
            self.turns = Turns()
            self.turns.run(made)
        else:
            for run in made:
                run()


class _Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"`nnsight.{name}` is not served in a remote block. Served is: save")


def install():
    """Puts the stand-in where `import nnsight` finds it."""
    block.TRACER = Tracer
    module = _Module("nnsight")
    module.save = save
    module.Envoy = Envoy
    module.LanguageModel = module.TransformersModel = Model
    sys.modules["nnsight"] = module
