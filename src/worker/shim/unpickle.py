"""Reads what a client sent: Python's own unpickler, in which every name is a stand-in or refused.

Functions, classes and the block itself come as source (nnsight 0.8) and are made anew here. What cloudpickle sends as bytecode
belongs to another Python; it is needed for the methods that `dataclasses` generates, which are generated again.
"""

import builtins
import dataclasses
import enum
import importlib
import io
import pickle
import struct
import sys
import types

import block
import einops
import link
import nnsight
import torch

#: Modules of Python's that a block may name.
MODULES = frozenset(
    "abc ast base64 bisect builtins cmath collections contextlib copy dataclasses datetime decimal enum fractions functools "
    "heapq inspect itertools json math numbers operator pprint random re statistics string textwrap threading time types typing uuid "
    "warnings __future__".split()
)


class Record:
    """An object of the client's side that is only carried along."""

    def __init__(self, *_args, **_kwargs):
        pass

    def __setstate__(self, state):
        if isinstance(state, dict):
            self.__dict__.update(state)


class Absent:
    """A part of the client's model that stays there."""

    __slots__ = ("_name",)

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise nnsight.not_served(f"{self._name}.{name}")


class Bytecode:
    """A function that came as bytecode."""

    def __init__(self, code, *_rest):
        self.__name__ = self._name = getattr(code, "name", "a function")

    def __setstate__(self, _state):
        pass

    def __call__(self, *_args, **_kwargs):
        raise TypeError(
            f"`{self._name}` has no source: it was sent as bytecode, which only the client's own Python understands. Define it in "
            "a file or a notebook cell"
        )


class Code:
    """A code object; only its name is looked at."""

    def __init__(self, *parts):
        texts = [part for part in parts if isinstance(part, str)]
        self.name = texts[1] if len(texts) > 1 else "a function"


# ---- functions and classes


def _load_function(source, name, defaults, kwdefaults, annotations, filename, line):
    padded = "\n" * (line - 1) + source
    label = f"[{name}:{line}] {filename}"
    code = _find(compile(block.parse(padded, label, name), label, "exec"), name)
    if code is None:
        raise ValueError(f"Could not find function {name!r} in its source")
    function = types.FunctionType(code, {"__builtins__": builtins}, name, defaults)
    if kwdefaults:
        function.__kwdefaults__ = kwdefaults
    if annotations:
        function.__annotations__ = annotations
    return function


def _find(code, name):
    found = None
    for part in code.co_consts:
        if isinstance(part, types.CodeType) and part.co_name == name:
            found = part
    return found


def _fill(function, glbls):
    function.__globals__.update(glbls)


_TRACKED = {}


def _skeleton_class(kind, name, bases, keywords, tracker, _extra):
    made = types.new_class(name, bases, {"metaclass": kind}, lambda names: names.update(keywords))
    return _TRACKED.setdefault(tracker or id(made), made)


def _skeleton_enum(bases, name, qualname, members, module, tracker, _extra):
    kind = type(bases[-1])
    names = kind.__prepare__(name, bases)
    for member, value in members.items():
        names[member] = value
    made = kind.__new__(kind, name, bases, names)
    made.__module__, made.__qualname__ = module, qualname
    return _TRACKED.setdefault(tracker or id(made), made)


def _class_setstate(cls, state):
    attributes = dict(state[0])
    attributes.pop("_abc_impl", None)
    fields = attributes.pop("__dataclass_fields__", None)
    parameters = attributes.pop("__dataclass_params__", None)
    if fields is not None:
        attributes = {k: v for k, v in attributes.items() if not isinstance(v, Bytecode)}
        attributes.pop("__match_args__", None)
    for name, value in attributes.items():
        if isinstance(cls, enum.EnumMeta) and name in ("_member_names_", "_member_map_", "_value2member_map_"):
            continue
        setattr(cls, name, value)
    if fields is not None:
        _dataclass(cls, fields, parameters)
    return cls


def _dataclass(cls, fields, parameters):
    """Generates the methods that `dataclasses` generated on the client's side."""
    own = cls.__dict__.get("__annotations__", {})
    for name in own:
        sent = fields.get(name)
        if sent is None:
            continue
        settings = {k: getattr(sent, k) for k in ("init", "repr", "hash", "compare", "kw_only") if hasattr(sent, k)}
        if sys.version_info < (3, 10):
            settings.pop("kw_only", None)
        for k in ("default", "default_factory"):
            value = getattr(sent, k, dataclasses.MISSING)
            if value is not dataclasses.MISSING:
                settings[k] = value
        setattr(cls, name, dataclasses.field(**settings))
    chosen = {k: getattr(parameters, k) for k in ("init", "repr", "eq", "order", "unsafe_hash", "frozen") if hasattr(parameters, k)}
    dataclasses.dataclass(**chosen)(cls)


class _Missing:
    """What stands for "no default", of which there is one."""

    def __new__(cls):
        return dataclasses.MISSING


class _Field(Record):
    """A field of a dataclass as it was sent."""

    def __setstate__(self, state):
        for part in state if isinstance(state, tuple) else (state,):
            self.__dict__.update(part or {})


def _builtin_type(name):
    if name == "MethodType":
        return _bound
    if name == "CodeType":
        return Code
    return getattr(types, name)


def _bound(function, owner):
    # how a trace names what it runs: `model._call`
    return function if isinstance(owner, nnsight.Envoy) else types.MethodType(function, owner)


def _call_marker():
    raise nnsight.not_served("a call of the model")


_call_marker.__name__ = "_call"


def _subimport(name):
    return module(name)


def module(name):
    """A module by name, if a block may have it."""
    top = name.partition(".")[0]
    if top in ("torch", "nnsight", "einops"):
        if name in sys.modules:
            return sys.modules[name]
        raise AttributeError(f"`{name}` is not served in a remote block")
    if top in MODULES:
        return importlib.import_module(name)
    return Missing(name)


class Missing(types.ModuleType):
    """A module that the client's file imported and a block cannot have; it is an error once it is used."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModuleNotFoundError(
            f"`{self.__name__}.{name}`: the module `{self.__name__}` is not served in a remote block. Served are: torch, einops, "
            f"nnsight, {', '.join(sorted(MODULES - {'__future__', 'builtins'}))}"
        )


def _local_module(name, names):
    made = types.ModuleType(name)
    made.__dict__.update(names)
    return made


# ---- tensors and arrays


class Storage:
    """The numbers of tensors of the client's, which go to the worker once, when one of them is looked at."""

    def __init__(self, data):
        self.data = data
        self.tensor = None

    def load(self):
        """All of them as one tensor."""
        if self.tensor is None:
            self.tensor, self.data = link.ask("load", self.data), None
        return self.tensor


class Sent(torch.Tensor):
    """A tensor of the client's that nothing has looked at: a notebook sends all the states that it has, and a block uses one."""

    def __init__(self, size, later):
        self.__dict__.update(_shape=torch.Size(size), _later=later)

    def __getattr__(self, name):
        if name not in ("_id", "_dtype"):
            return super().__getattr__(name)
        made = self.__dict__["_later"]()
        del self.__dict__["_later"]
        # takes the name over: the other object must not give it back
        self.__dict__.update(made.__dict__)
        made.__dict__.clear()
        self.__class__ = torch.Tensor
        return self.__dict__[name]


def _rebuild_tensor(storage, offset, size, stride, *_rest):
    return Sent(size, lambda: link.ask("as_strided", storage.load(), tuple(size), tuple(stride), offset))


def _rebuild_typed(function, _kind, args, state):
    tensor = function(*args)
    if isinstance(state, tuple):
        state = {k: v for part in state for k, v in (part or {}).items()}
    tensor.__dict__.update({k: v for k, v in (state or {}).items() if not k.startswith("_")})
    return tensor


class ArrayType:
    """`numpy.dtype`."""

    def __init__(self, code, *_rest):
        self.code = code

    def __setstate__(self, state):
        if state[1] == ">":
            raise nnsight.NotServedError("a NumPy array of big-endian numbers is not served")


_ARRAYS = {
    "f8": "float64", "f4": "float32", "f2": "float16", "i8": "int64", "i4": "int32", "i2": "int16", "i1": "int8", "u1": "uint8",
    "b1": "bool",
}


class ArrayTensor(torch.Tensor):
    """A NumPy array of the client's: a tensor from the start."""

    def __init__(self, *_args):
        pass

    def __setstate__(self, state):
        _version, shape, kind, fortran, data = state
        if kind.code not in _ARRAYS:
            raise nnsight.NotServedError(f"a NumPy array of {kind.code!r} is not served")
        if not isinstance(data, bytes):
            raise nnsight.NotServedError("a NumPy array of Python objects is not served")
        order = tuple(reversed(shape)) if fortran else tuple(shape)
        tensor = link.ask("raw", data, _ARRAYS[kind.code], order)
        if fortran:
            tensor = tensor.permute(tuple(reversed(range(len(order)))))
        # takes the name over: the other object must not give it back
        self.__dict__.update(tensor.__dict__)
        tensor.__dict__.clear()


def _array(_kind, _shape, _code):
    return object.__new__(ArrayTensor)


def _array_scalar(kind, data):
    if kind.code not in _ARRAYS:
        raise nnsight.NotServedError(f"a NumPy number of {kind.code!r} is not served")
    form = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}[kind.code]
    return struct.unpack("<" + form, data)[0]


# ---- names


_NAMES = {
    "nnsight.intervention.tracer:InterleavingTracer": nnsight.Trace,
    "nnsight.tracing.tracer:Tracer": nnsight.Session,
    "nnsight.tracing.tracer:Tracer.Info": Record,
    "nnsight.tracing.tracer:save": nnsight.save,
    "nnsight.tracing.util:SerializedFrame": Record,
    "nnsight.intervention.envoy:Envoy": nnsight.Envoy,
    "nnsight:Envoy": nnsight.Envoy,
    "nnsight.modeling.transformers:GeneratorEnvoy": nnsight.Envoy,
    "nnsight.modeling.transformers:TransformersModel": nnsight.Model,
    "nnsight.modeling.transformers:TransformersModel._call": _call_marker,
    "nnsight.modeling.language:LanguageModel": nnsight.Model,
    "nnsight.intervention.serialization:_load_function": _load_function,
    "nnsight.intervention.serialization:_fill": _fill,
    "cloudpickle.cloudpickle:subimport": _subimport,
    "cloudpickle.cloudpickle:dynamic_subimport": _local_module,
    "cloudpickle.cloudpickle:_builtin_type": _builtin_type,
    "cloudpickle.cloudpickle:_make_skeleton_class": _skeleton_class,
    "cloudpickle.cloudpickle:_make_skeleton_enum": _skeleton_enum,
    "cloudpickle.cloudpickle:_class_setstate": _class_setstate,
    "cloudpickle.cloudpickle:_make_function": Bytecode,
    "cloudpickle.cloudpickle:_function_setstate": lambda function, _state: function,
    "cloudpickle.cloudpickle:_get_dataclass_field_type_sentinel": lambda name: name,
    "cloudpickle.cloudpickle:_make_empty_cell": lambda: types.CellType(),
    "cloudpickle.cloudpickle:_make_cell": lambda *value: types.CellType(*value),
    "dataclasses:Field": _Field,
    "dataclasses:_MISSING_TYPE": _Missing,
    "dataclasses:_DataclassParams": Record,
    "torch._utils:_rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils:_rebuild_parameter": lambda tensor, *_rest: tensor,
    "torch._tensor:_rebuild_from_type_v2": _rebuild_typed,
    "torch.storage:_load_from_bytes": Storage,
    "einops.einops:rearrange": einops.rearrange,
    "transformers.tokenization_utils_base:BatchEncoding": nnsight.Encoding,
    "tokenizers:Encoding": Record,
    "numpy:ndarray": ArrayTensor,
    "numpy:dtype": ArrayType,
    "numpy._core.multiarray:_reconstruct": _array,
    "numpy.core.multiarray:_reconstruct": _array,
    "numpy._core.multiarray:scalar": _array_scalar,
    "numpy.core.multiarray:scalar": _array_scalar,
}


class _Reader(pickle.Unpickler):
    def persistent_load(self, pid):
        return nnsight.Tokenizer() if pid == "Tokenizer" else Absent(str(pid))

    def find_class(self, where, name):
        full = f"{where}:{name}"
        found = _NAMES.get(full)
        if found is not None:
            return found
        top = where.partition(".")[0]
        if top == "torch":
            return _in_torch(where, name)
        if top in MODULES:
            found = importlib.import_module(where)
            for part in name.split("."):
                found = getattr(found, part)
            return found
        if name == "Mediator":
            raise nnsight.not_served("model.edit")
        if top == "nnsight":
            raise nnsight.not_served(f"{where}.{name}")
        raise nnsight.NotServedError(
            f"`{where}.{name}` is not served in a remote block: it can use torch, einops, nnsight, Python's own modules, and functions "
            "and classes of your own files"
        )


def _in_torch(where, name):
    if where in sys.modules and name in vars(sys.modules[where]):
        return vars(sys.modules[where])[name]
    if link.serves(name):
        return torch.Function(name)
    raise nnsight.NotServedError(f"`{where}.{name}` is not served in a remote block")


def load(data):
    """What the client sent."""
    return _Reader(io.BytesIO(data)).load()
