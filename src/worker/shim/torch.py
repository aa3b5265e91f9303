"""A stand-in for `torch`: tensors without numbers, operations that are questions to the worker.

What torch knows without computing is known here: a tensor's shape and dtype come with its name.
"""

import contextlib
import functools
import sys
import types

import link


class Size(tuple):
    """`torch.Size`."""

    def numel(self):
        """How many elements a tensor of this shape has."""
        n = 1
        for size in self:
            n *= size
        return n

    def __getitem__(self, index):
        got = tuple.__getitem__(self, index)
        return Size(got) if isinstance(index, slice) else got

    def __add__(self, other):
        return Size(tuple(self) + tuple(other))

    def __repr__(self):
        return f"torch.Size({list(self)})"


class dtype:
    """`torch.dtype`; one object for each."""

    is_complex = False

    def __init__(self, name):
        self.name = name
        self.is_floating_point = "float" in name

    def _wire(self, _encoder):
        return {"y": self.name}

    def __repr__(self):
        return f"torch.{self.name}"

    def __reduce__(self):
        return (_dtype, (self.name,))


_DTYPES = {
    name: dtype(name)
    for name in "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64".split()
}
_ALIASES = {"float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32", "short": "int16"}


def _dtype(name):
    return _DTYPES[name]


class device:
    """`torch.device`. Every tensor of a block is on the worker's host, whatever it says."""

    def __init__(self, type="cpu", index=None):
        text = str(type)
        self.type, _, number = text.partition(":")
        self.index = int(number) if number else index

    def _wire(self, _encoder):
        return {"v": str(self)}

    def __str__(self):
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self):
        return f"device(type='{self.type}'" + ("" if self.index is None else f", index={self.index}") + ")"

    def __eq__(self, other):
        return isinstance(other, device) and str(self) == str(other)

    def __hash__(self):
        return hash(str(self))

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        return False


CPU = device("cpu")


def _refuse(name):
    """The error for a name that torch may have and a block may not use."""
    served = ", ".join(sorted(n for n in link.SERVED if not n.startswith("_")))
    return AttributeError(f"`{name}` is not served in a remote block. Served are: {served}")


class Tensor:
    """The name of a tensor that the worker holds."""

    requires_grad = False
    is_cuda = False
    is_sparse = False
    is_leaf = True
    layout = "torch.strided"
    names = None

    def __init__(self, *args):
        raise TypeError("torch.Tensor(...) is not served in a remote block; write torch.tensor(...) or torch.zeros(...)")

    def _wire(self, encoder):
        encoder.tensors[self._id] = self
        return {"t": self._id}

    def __del__(self):
        number = self.__dict__.get("_id")
        if number is not None:
            link.died(number)

    # what is known here
    @property
    def shape(self):
        return self._shape

    def size(self, dim=None):
        """`torch.Tensor.size`."""
        return self._shape if dim is None else self._shape[dim]

    def dim(self):
        """`torch.Tensor.dim`."""
        return len(self._shape)

    ndimension = dim

    @property
    def ndim(self):
        return len(self._shape)

    def numel(self):
        """`torch.Tensor.numel`."""
        return self._shape.numel()

    nelement = numel

    @property
    def dtype(self):
        return self._dtype

    @property
    def device(self):
        return CPU

    def is_floating_point(self):
        """`torch.Tensor.is_floating_point`."""
        return self._dtype.is_floating_point

    def requires_grad_(self, requires_grad=True):
        """Refused: there is no backward pass in a remote block."""
        if requires_grad:
            raise NotImplementedError("gradients are not served in a remote block yet")
        return self

    def backward(self, *_args, **_kwargs):
        """Refused: there is no backward pass in a remote block."""
        raise NotImplementedError("`backward` is not served in a remote block yet")

    @property
    def grad(self):
        raise NotImplementedError("`.grad` is not served in a remote block yet")

    @property
    def data(self):
        return self.detach()

    @property
    def T(self):
        return link.ask("T", self)

    @property
    def mT(self):
        return link.ask("mT", self)

    @property
    def H(self):
        return link.ask("mT", self)

    # what Python asks of it
    def __len__(self):
        if not self._shape:
            raise TypeError("len() of a 0-d tensor")
        return self._shape[0]

    def __iter__(self):
        if not self._shape:
            raise TypeError("iteration over a 0-d tensor")
        return iter(link.ask("unbind", self))

    def __contains__(self, x):
        return bool((self == x).any())

    def __getitem__(self, index):
        return link.ask("getitem", self, index)

    def __setitem__(self, index, value):
        link.ask("setitem", self, index, value)

    def __bool__(self):
        if self.numel() != 1:
            raise RuntimeError(
                "Boolean value of Tensor with no values is ambiguous"
                if self.numel() == 0
                else "Boolean value of Tensor with more than one value is ambiguous"
            )
        return bool(self.item())

    def __int__(self):
        return int(self.item())

    def __float__(self):
        return float(self.item())

    def __index__(self):
        if self._dtype.is_floating_point or self.numel() != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.item())

    def __round__(self, n=None):
        return self.round() if n is None else self.round(decimals=n)

    def __repr__(self):
        return link.ask("repr", self)

    def __format__(self, spec):
        if not self._shape:
            return format(self.item(), spec)
        if spec:
            raise TypeError("unsupported format string passed to Tensor.__format__")
        return repr(self)

    def __hash__(self):
        return id(self)

    def __deepcopy__(self, _memo):
        return self.clone()

    def __copy__(self):
        return self.detach()

    def __reduce_ex__(self, _protocol):
        raise TypeError("a tensor cannot be pickled in a remote block")

    def __array__(self, *_args, **_kwargs):
        raise TypeError("NumPy is not served in a remote block; use torch's functions")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(f"'Tensor' object has no attribute '{name}'")
        if not link.serves(name):
            raise _refuse(f"Tensor.{name}")
        return functools.partial(link.ask, name, self)


def _operators():
    def forward(op):
        return lambda self, other: _maybe(op, self, other)

    def reflected(op):
        return lambda self, other: _maybe(op, other, self)

    def in_place(op):
        return lambda self, other: _maybe(op, self, other)

    def alone(op):
        return lambda self: link.ask(op, self)

    both = {
        "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "floordiv": "floor_divide", "mod": "remainder",
        "pow": "pow", "matmul": "matmul", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    }
    for python, op in both.items():
        setattr(Tensor, f"__{python}__", forward(op))
        setattr(Tensor, f"__r{python}__", reflected(op))
        if python != "matmul":
            setattr(Tensor, f"__i{python}__", in_place(op + "_"))
    for op in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Tensor, f"__{op}__", forward(op))
    for python, op in {"neg": "neg", "pos": "clone", "abs": "abs", "invert": "bitwise_not"}.items():
        setattr(Tensor, f"__{python}__", alone(op))


def _maybe(op, a, b):
    # Python then tries the other operand, and raises its own TypeError at last.
    for x in (a, b):
        if not isinstance(x, (Tensor, int, float, bool)):
            return NotImplemented
    return link.ask(op, a, b)


_operators()


def _tensor(number, shape, name, known):
    """The stand-in of a tensor the worker named; `known`: the one that has this name already."""
    tensor = object.__new__(Tensor) if known is None else known
    tensor.__dict__.update(_id=number, _shape=Size(shape), _dtype=_DTYPES[name])
    return tensor


_NAMED = {}


def _named(name, members):
    """A tuple whose members have names: `torch.return_types.topk`."""
    fields = tuple(field for field, _ in members)
    made = _NAMED.get((name, fields))
    if made is None:
        made = type(name, (tuple,), {f: property(lambda self, i=i: self[i]) for i, f in enumerate(fields)})
        _NAMED[name, fields] = made
    return made(value for _, value in members)


link.MAKE.update(tensor=_tensor, named=_named, dtype=_dtype, device=device)


class Parameter(Tensor):
    """`torch.nn.Parameter`: in a block, the tensor itself."""

    def __new__(cls, data=None, requires_grad=True):
        return data

    def __init__(self, *_args, **_kwargs):
        pass


class _Grad(contextlib.ContextDecorator):
    """`torch.no_grad` and its kin: there are no gradients here, on or off."""

    def __init__(self, *_args):
        pass

    def __new__(cls, *args):
        # `@torch.no_grad` without parentheses
        if len(args) == 1 and callable(args[0]):
            return args[0]
        return object.__new__(cls)

    def __enter__(self):
        return None

    def __exit__(self, *_error):
        return False


class Function:
    """A function of torch's."""

    def __init__(self, name):
        self.__name__ = name

    def __call__(self, *args, **kwargs):
        kwargs.pop("device", None)
        kwargs.pop("pin_memory", None)
        if not kwargs.get("requires_grad", False):
            kwargs.pop("requires_grad", None)
        return link.ask(self.__name__, *args, **kwargs)

    def __repr__(self):
        return f"<built-in function {self.__name__}>"


class Module(types.ModuleType):
    """A module of torch's: what is not written down here is an operation of the worker's, if it serves that name."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if link.serves(name):
            function = Function(name)
            setattr(self, name, function)
            return function
        raise _refuse(f"{self.__name__}.{name}")


def _from_numpy(array):
    if not isinstance(array, Tensor):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    return array


def _is_tensor(x):
    return isinstance(x, Tensor)


def _as_tensor(data, dtype=None, device=None):
    if isinstance(data, Tensor):
        return data if dtype is None else data.to(dtype)
    return link.ask("tensor", data, **({} if dtype is None else {"dtype": dtype}))


def install():
    """Puts the stand-ins where `import torch` finds them."""
    torch, nn, functional, cuda, linalg = (
        Module(name) for name in ("torch", "torch.nn", "torch.nn.functional", "torch.cuda", "torch.linalg")
    )
    for module in (torch, nn, cuda, linalg):
        module.__path__ = []
    torch.__dict__.update(_DTYPES)
    torch.__dict__.update({alias: _DTYPES[name] for alias, name in _ALIASES.items()})
    torch.__dict__.update(
        Tensor=Tensor, Size=Size, dtype=dtype, device=device, nn=nn, cuda=cuda, linalg=linalg, inf=float("inf"), nan=float("nan"),
        pi=3.141592653589793, no_grad=_Grad, inference_mode=_Grad, enable_grad=_Grad, set_grad_enabled=_Grad,
        from_numpy=_from_numpy, is_tensor=_is_tensor, as_tensor=_as_tensor, strided="torch.strided",
        is_grad_enabled=lambda: False, is_floating_point=lambda x: x.is_floating_point(), numel=lambda x: x.numel(),
        get_default_dtype=lambda: _DTYPES["float32"], __version__="mediant",
    )
    nn.__dict__.update(functional=functional, Parameter=Parameter)
    cuda.__dict__.update(is_available=lambda: False, device_count=lambda: 0, empty_cache=lambda: None, synchronize=lambda *_: None)
    for module in (torch, nn, functional, cuda, linalg):
        sys.modules[module.__name__] = module
    return torch
