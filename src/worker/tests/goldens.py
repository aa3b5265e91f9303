"""What torch says: goldens of the worker's tensors. Writes operations, storages and sequences (.jsonl.zst) beside itself.

Needs torch (CPU) and zstandard or the command zstd. The numbers in the committed files are of torch 2.15.
"""

import io
import itertools
import json
import math
import operator
import os
import random
import subprocess
import zlib

import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
torch.set_num_threads(1)
f32, f64, bf16, f16, i64, i32, u8, boolean = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool,
)


# ---- values as JSON


def numbers(t):
    if t.dtype.is_floating_point:
        return [x if math.isfinite(x) else str(x) for x in t.detach().double().reshape(-1).tolist()]
    return [int(x) for x in t.reshape(-1).tolist()]


def encode(x):
    if isinstance(x, torch.Tensor):
        # the storage as it stands, and the view on it
        whole = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
        return {"t": [str(x.dtype)[6:], list(x.shape), list(x.stride()), x.storage_offset(), numbers(whole)]}
    if isinstance(x, torch.Size):
        return {"u": [int(v) for v in x]}
    if isinstance(x, slice):
        return {"s": [encode(x.start), encode(x.stop), encode(x.step)]}
    if x is Ellipsis:
        return {"e": 1}
    if isinstance(x, tuple):
        return {"u": [encode(v) for v in x]}
    if isinstance(x, list):
        return {"l": [encode(v) for v in x]}
    if isinstance(x, torch.dtype):
        return {"d": str(x)[6:]}
    if isinstance(x, float):
        return {"f": x if math.isfinite(x) else str(x)}
    if x is None or isinstance(x, (bool, int, str)):
        return x
    raise TypeError(type(x))


OPERATORS = {"getitem": operator.getitem, "setitem": operator.setitem, "repr": repr}


def resolve(name, args):
    if name.startswith("Tensor."):
        return getattr(torch.Tensor, name[7:])
    if name in OPERATORS:
        return OPERATORS[name]
    if name.startswith("torch."):
        return getattr(torch, name[6:])
    if name.startswith("F."):
        return getattr(F, name[2:])
    if args and isinstance(args[0], torch.Tensor) and hasattr(torch.Tensor, name):
        attribute = getattr(torch.Tensor, name)
        if not callable(attribute):
            return lambda t: getattr(t, name)
        return attribute
    return getattr(torch, name)


CASES = []


def copy(x):
    if isinstance(x, torch.Tensor):
        whole = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage()).clone()
        return whole.as_strided(x.shape, x.stride(), x.storage_offset())
    if isinstance(x, (list, tuple)) and not isinstance(x, torch.Size):
        return type(x)(map(copy, x))
    return x


def case(name, *args, seed=None, **kwargs):
    out = {"name": name, "args": [encode(a) for a in args]}
    if kwargs:
        out["kwargs"] = {k: encode(v) for k, v in kwargs.items()}
    if seed is not None:
        out["seed"] = seed
        torch.manual_seed(seed)
    args = copy(tuple(args))
    try:
        out["result"] = encode(resolve(name, args)(*args, **kwargs))
        # what was written into
        if args and isinstance(args[0], torch.Tensor) and (name.endswith("_") or name == "setitem"):
            out["after"] = encode(args[0])
    except Exception as error:
        out["error"] = [type(error).__name__, str(error).split("\n")[0]]
    CASES.append(out)


def t(*shape, dtype=f32, seed=1, low=-3.0, high=3.0):
    g = torch.Generator().manual_seed(seed)
    if dtype == boolean:
        return torch.rand(shape, generator=g) > 0.5
    if not dtype.is_floating_point:
        return torch.randint(int(low), int(high) + 1, shape, generator=g).to(dtype)
    return (torch.rand(shape, generator=g, dtype=f64) * (high - low) + low).to(dtype)


def operations():
    a, b = t(2, 3), t(2, 3, seed=2)
    floats = [f32, f64, bf16, f16]
    # pointwise
    unary = "abs neg sign square relu floor ceil trunc frac round exp exp2 expm1 log1p sqrt rsqrt reciprocal sin cos tan atan sinh cosh tanh erf sigmoid positive logical_not isnan isinf isfinite".split()
    for name in unary:
        for dtype in floats:
            low = 0.1 if name in ("sqrt", "rsqrt", "log1p") else -3.0
            case(name, t(3, 4, dtype=dtype, low=low))
        case(name, t(5, dtype=i64))
        case(name, t(4, 3).T)
    for name in "log log2 log10".split():
        for dtype in floats:
            case(name, t(7, dtype=dtype, low=0.05))
        case(name, torch.tensor([1, 2, 8]))
        case(name, torch.tensor([0.0, -1.0, float("inf"), float("nan")]))
    for name in "acos asin".split():
        case(name, t(6, low=-1, high=1))
    for name in "F.relu F.gelu F.silu F.softplus F.leaky_relu F.logsigmoid F.tanh F.sigmoid".split():
        for dtype in floats:
            case(name, t(9, dtype=dtype))
    case("F.gelu", t(9), approximate="tanh")
    case("F.gelu", t(3, dtype=i64))
    case("round", t(4), decimals=1)
    case("round", torch.tensor([0.5, 1.5, 2.5, -0.5]))
    case("bitwise_not", t(4, dtype=boolean))
    case("bitwise_not", t(4, dtype=i64))
    case("neg", t(4, dtype=boolean))
    case("abs", t(4, dtype=i32))
    dtypes = [f32, f64, bf16, f16, i64, i32, u8, boolean]
    for name in "add sub mul div eq lt".split():
        for d1, d2 in itertools.product(dtypes, dtypes):
            case(name, t(3, dtype=d1, low=0), t(3, dtype=d2, seed=2, low=1))
        for d1 in dtypes:
            case(name, t(3, dtype=d1, low=0), 2)
            case(name, t(3, dtype=d1, low=0), 1.7)
            case(name, t(3, dtype=d1, low=0), True)
            case(name, t(3, dtype=d1, low=0), torch.tensor(2.5))
            case(name, t(3, dtype=d1, low=0), torch.tensor(2))
    for name in "add sub mul div pow maximum minimum eq ne lt le gt ge atan2 fmod remainder floor_divide".split():
        case(name, t(2, 3, low=0.2), t(2, 3, seed=2))
        case(name, t(2, 1, 3), t(4, 1, seed=2))
        case(name, t(4, 3).T, t(3, 4, seed=2))
        case(name, t(4, 3).T, t(4, 3, seed=2).T)
        case(name, t(2, 3), t(2, 4))
        case(name, t(2, 3, dtype=bf16, low=0.2), t(2, 3, dtype=bf16, seed=2))
    for name in "pow fmod remainder floor_divide".split():
        case(name, t(5, dtype=i64, low=-7, high=7), 3)
        case(name, t(5), 3)
        case(name, t(5, low=-7, high=7), -2.5)
    for e in (0, 1, 2, 3, 0.5, -1, -2, -0.5, 1.7):
        case("pow", t(5, low=0.1), e)
    case("pow", t(3, dtype=i64), -1)
    case("div", t(5, low=-7, high=7), 2.0, rounding_mode="floor")
    case("div", t(5, dtype=i64, low=-7, high=7), 2, rounding_mode="trunc")
    case("div", t(5, dtype=i64, low=-7, high=7), 2, rounding_mode="floor")
    case("div", t(3), 2, rounding_mode="up")
    case("remainder", t(3, dtype=i64), 0)
    case("add", a, b, alpha=0.5)
    case("sub", a, b, alpha=2)
    case("sub", t(3, dtype=boolean), t(3, dtype=boolean))
    case("rsub", a, 1)
    for name in "bitwise_and bitwise_or bitwise_xor logical_and logical_or logical_xor".split():
        case(name, t(6, dtype=boolean), t(6, dtype=boolean, seed=3))
        case(name, t(6, dtype=i64), t(6, dtype=i64, seed=3))
        case(name, t(6), t(6, seed=3))
    case("clamp", a, -1, 1)
    case("clamp", a, min=0.5)
    case("clamp", a, max=b)
    case("clamp", t(4, dtype=i64), 0, 2)
    case("clamp", t(4, dtype=i64), min=0.5)
    case("clamp", a)
    case("clamp_min", a, 0.0)
    case("clamp_max", a, 0.0)
    case("nan_to_num", torch.tensor([1.0, float("nan"), float("inf"), -float("inf")]))
    case("nan_to_num", torch.tensor([1.0, float("nan"), float("inf")]), nan=7.0, posinf=1.0)
    case("lerp", a, b, 0.3)
    case("addcmul", a, b, b, value=0.5)
    case("addcdiv", a, b, t(2, 3, seed=5, low=1), value=0.5)
    # in place
    for name in "add_ sub_ mul_ div_ pow_".split():
        case(name, t(2, 3, low=0.3), t(2, 3, seed=2))
        case(name, t(2, 3, low=0.3), t(3, seed=2))
        case(name, t(3, low=0.3), t(2, 3))
        case(name, t(3, dtype=i64), 2.5)
        case(name, t(3, dtype=i64), 2)
        case(name, t(2, 3, low=0.3)[:, 1], 2)
        case(name, t(2, 3, dtype=bf16, low=0.3), 1.1)
        case(name, t(1, 3).expand(2, 3), 1.0)
    for name in "abs_ neg_ exp_ tanh_ relu_ sqrt_ sigmoid_ zero_ clamp_ logical_not_".split():
        case(name, t(2, 3, low=0.3), *([0.5] if name == "clamp_" else []))
    case("sqrt_", t(3, dtype=i64))
    case("fill_", t(2, 3)[:, 1], 7)
    case("fill_", t(2, 3), torch.tensor(2.5))
    case("fill_", t(3, dtype=i64), 2.7)
    case("fill_", t(3), t(3))
    case("zero_", t(3, 4)[1:, ::2])
    case("copy_", t(2, 3), t(3, seed=4))
    case("copy_", t(2, 3), t(2, 3, dtype=i64, seed=4))
    case("copy_", t(2, 3, dtype=i64), t(2, 3, seed=4))
    case("copy_", t(3), t(2, 3))
    case("copy_", t(3), t(2))
    case("masked_fill_", t(2, 3), t(2, 3, dtype=boolean), -1.0)
    case("masked_fill", t(2, 3), t(3, dtype=boolean), float("-inf"))
    case("masked_fill", t(2, 3), t(2, 3), 0.0)
    case("masked_fill", t(2, 3), t(2, 3, dtype=boolean), torch.tensor(4.0))
    # shapes
    x = t(2, 3, 4)
    for shape in [(6, 4), (-1,), (2, -1, 2), (24, 1), (5, 5), (-1, -1), (2, 3, 4), (0, 4), (-2,)]:
        case("view", x, *shape)
        case("reshape", x, shape)
        case("reshape", x.transpose(0, 2), shape)
        case("view", x.transpose(0, 1), *shape)
    case("view", x[:, :, :2], 6, 2)
    case("view", x[:, :, ::2], 6, 2)
    case("view", x.transpose(1, 2), 8, 3)
    case("view", x, t(2))
    case("view_as", x, t(6, 4))
    case("reshape_as", x.mT, t(6, 4))
    for s, e in [(0, -1), (1, 2), (0, 1), (2, 1), (5, 6)]:
        case("flatten", x, s, e)
    case("flatten", torch.tensor(1.0))
    case("ravel", x.mT)
    case("unflatten", x, 2, (2, 2))
    case("unflatten", x, -1, (2, -1))
    case("transpose", x, 0, -1)
    case("transpose", x, 0, 3)
    case("swapaxes", x, 0, 1)
    case("t", t(2, 3))
    case("t", t(3))
    case("t", x)
    case("T", t(2, 3))
    case("mT", x)
    case("permute", x, 2, 0, 1)
    case("permute", x, (2, 0, 1))
    case("permute", x, -1, 0, 1)
    case("permute", x, 0, 0, 1)
    case("permute", x, 0, 1)
    case("movedim", x, 0, 2)
    case("movedim", x, (0, 1), (1, 2))
    for d in (0, 1, 3, -1, -4, 4):
        case("unsqueeze", x, d)
    case("squeeze", t(1, 3, 1))
    case("squeeze", t(1, 3, 1), 0)
    case("squeeze", t(1, 3, 1), 1)
    case("squeeze", t(1, 3, 1), (0, 2))
    case("expand", t(3, 1), 3, 4)
    case("expand", t(3, 1), -1, 4)
    case("expand", t(3, 1), (2, 3, 4))
    case("expand", t(3, 1), 4, 4)
    case("expand", t(3, 1), 3)
    case("expand", t(3, 1), -1, 3, 4)
    case("expand_as", t(3, 1), t(3, 2))
    case("broadcast_to", t(3, 1), (2, 3, 2))
    case("narrow", x, 1, 1, 2)
    case("narrow", x, 1, 2, 2)
    case("narrow", x, -1, -2, 2)
    case("narrow", x, 1, 0, -1)
    case("select", x, 1, 2)
    case("select", x, 1, -3)
    case("select", x, 1, 3)
    case("select", torch.tensor(1.0), 0, 0)
    case("unbind", x, 1)
    case("unbind", torch.tensor(1.0))
    for n in (1, 2, 3, 5, 0, -1):
        case("split", x, n, 1)
        case("chunk", x, n, 2)
    case("split", x, [1, 2], 1)
    case("split", x, [1, 3], 1)
    case("diagonal", t(3, 4))
    case("diagonal", t(3, 4), 1)
    case("diagonal", t(3, 4), -2)
    case("diagonal", x, 0, 1, 2)
    case("as_strided", t(6), (2, 2), (3, 1), 1)
    case("as_strided", t(6), (2, 4), (3, 1), 0)
    for name in "contiguous clone detach float double half bfloat16 long int bool cpu".split():
        for y in (x, x.mT, t(3, dtype=i64), t(3, dtype=bf16), t(1, 3).expand(2, 3), x[:, 1]):
            case(name, y)
    case("to", x, f64)
    case("to", x, dtype=bf16)
    case("to", x, "cpu")
    case("to", x, t(1, dtype=i64))
    case("type_as", x, t(1, dtype=i64))
    case("type", x)
    case("type", x, f64)
    for name in "shape size dim numel stride storage_offset is_contiguous element_size dtype is_floating_point ndim".split():
        case(name, x.mT[1])
    case("size", x, 1)
    case("size", x, 3)
    case("size", torch.tensor(1.0), 0)
    for y in (torch.tensor(3), torch.tensor([2.5]), torch.tensor(True), x, torch.tensor([])):
        case("item", y)
        case("tolist", y)
    # indexing
    indices = [
        0, -1, 2, slice(None), slice(1, None), slice(None, -1), slice(None, None, 2), slice(5, 1), slice(0, 2, -1), None, ...,
        (0, 1), (slice(None), 1), (slice(None), slice(1, 3), 2), (..., 0), (0, ..., 1), (None, 0), (0, None, ..., None),
        (0, 0, 0), (0, 0, 0, 0), (..., ...), [0, 1], [1], (slice(None), [0, 2]), ([0, 1], slice(None), [1, 3]), ([0, 1], [0, 2]),
        (slice(None), [0, 2], [1, 3]), (0, slice(None), [1, 3]), (slice(None), 0, [1, 3]), torch.tensor([0, 1, 1]),
        torch.tensor([[0, 1], [1, 0]]), torch.tensor(1), torch.tensor([0, -1]), torch.tensor([0, 2]), torch.tensor([0.0]),
        (slice(None), torch.tensor([[0, 1]])), (torch.tensor([0, 1]), torch.tensor([0, 1, 2])), (torch.tensor([[0], [1]]), torch.tensor([0, 2])),
        torch.tensor([True, False]), torch.tensor([True, False, True]), t(2, 3, dtype=boolean), t(2, 3, 4, dtype=boolean),
        (slice(None), t(3, dtype=boolean)), (slice(None), slice(None), t(4, dtype=boolean)), (0, t(3, dtype=boolean)), True, False,
        (slice(None), t(3, 4, dtype=boolean)), [True, False], 1.5, "a", (0, 1.0), [[0, 1]], [], (slice(None), []), ([0, 1], None, [0, 1]),
        (torch.tensor([0, 1]), ..., torch.tensor([0, 1])), (torch.tensor(0), slice(None)),
    ]
    for i in indices:
        case("getitem", x, i)
        case("setitem", x, i, 9.0)
        case("getitem", x.transpose(0, 2), i)
    case("setitem", x, (slice(None), 1), t(4, seed=5))
    case("setitem", x, (slice(None), 1), t(2, 4, seed=5))
    case("setitem", x, (slice(None), 1), t(1, 2, 4, seed=5))
    case("setitem", x, (slice(None), 1), t(3, seed=5))
    case("setitem", x, 0, 5)
    case("setitem", x, 0, [1.0, 2.0])
    case("setitem", x, (slice(None), [0, 2]), t(2, 2, 4, seed=5))
    case("setitem", x, (slice(None), [0, 2]), t(2, 4, seed=5))
    case("setitem", x, (slice(None), [0, 2]), t(3, 4, seed=5))
    case("setitem", x, (slice(None), [0, 2]), t(2, 4, dtype=f64, seed=5))
    case("setitem", x, t(2, 3, 4, dtype=boolean), 0)
    case("setitem", x, t(2, 3, 4, dtype=boolean), torch.tensor(3.0))
    case("setitem", x, 0, t(4, dtype=f64))
    case("setitem", t(3, dtype=i64), 0, 1.7)
    case("setitem", t(3, dtype=bf16), 0, 1.2345)
    case("setitem", t(1, 3).expand(2, 3), 0, 1.0)
    case("setitem", t(1, 3).expand(2, 3), (0, 0), 1.0)
    # reductions
    y = t(2, 3, 4, seed=8)
    for name in "sum mean std var amax amin prod norm all any logsumexp".split():
        for dim in (None, 0, 1, -1, (0, 2), (0, 1, 2), 3, (0, 0)):
            if name in ("prod", "all", "any") and isinstance(dim, tuple):
                continue
            if name == "logsumexp" and dim is None:
                continue
            kw = {} if dim is None else {"dim": dim}
            case(name, y, **kw)
            if dim is not None:
                case(name, y, keepdim=True, **kw)
        kw = {"dim": 0}
        for dtype in (f64, bf16, f16, i64, boolean):
            case(name, t(4, 3, dtype=dtype), **kw)
        case(name, torch.zeros(0, 3), **kw)
        case(name, torch.tensor(2.5), **kw)
        case(name, y.transpose(0, 2), dim=1)
    case("sum", y, 1, True)
    case("sum", y, dtype=f64)
    case("sum", y, axis=1, keepdims=True)
    case("mean", t(3, dtype=i64))
    case("mean", t(3, dtype=i64), dtype=f32)
    case("std", y, dim=1, unbiased=False)
    case("std", y, dim=1, correction=0)
    case("var", y, correction=2)
    case("std", torch.tensor([1.0]))
    case("var_mean", y, dim=0)
    for p in (0, 1, 2, 3, float("inf"), float("-inf"), "fro"):
        case("norm", y, p)
        case("norm", y, p, dim=1)
    case("norm", y, p=2, dim=-1, keepdim=True)
    case("norm", t(3, dtype=i64))
    case("count_nonzero", t(3, 4, dtype=i64))
    case("count_nonzero", t(3, 4, dtype=i64), dim=1)
    for name in "max min".split():
        case(name, y)
        case(name, y, 1)
        case(name, y, dim=-1, keepdim=True)
        case(name, y, t(4, seed=3))
        case(name, torch.tensor([1.0, float("nan"), 2.0]))
        case(name, torch.tensor([[1, 5, 5], [2, 2, 0]]), 1)
        case(name, torch.zeros(0))
        case(name, t(4, dtype=boolean))
    for name in "argmax argmin".split():
        case(name, y)
        case(name, y, 1)
        case(name, y, dim=-1, keepdim=True)
        case(name, torch.tensor([1.0, float("nan"), 2.0]))
        case(name, torch.tensor([[1, 5, 5], [2, 2, 0]]), 1)
        case(name, torch.zeros(0))
    case("equal", a, a.clone())
    case("equal", a, b)
    case("allclose", a, a + 1e-7)
    case("allclose", a, b)
    case("allclose", a, a.double())
    case("isclose", a, b, atol=1.0)
    # order
    for d in (0, 1, -1):
        case("sort", y, d)
        case("argsort", y, d)
        case("cumsum", y, d)
        case("cumprod", y, d)
        case("cummax", y, d)
        case("topk", y, 2, d)
    case("sort", y, descending=True)
    case("sort", torch.tensor([3.0, float("nan"), 1.0]))
    case("sort", torch.tensor([2, 1, 2, 1]), stable=True)
    case("argsort", torch.tensor([3.0, 1.0, 2.0]), descending=True)
    case("topk", y, 5)
    case("topk", t(20), 3, largest=False)
    case("topk", t(20), 20)
    case("topk", torch.tensor(1.0), 1)
    case("topk", t(20), 0)
    case("kthvalue", y, 2)
    case("median", y)
    case("median", y, 1)
    case("cumsum", t(3, dtype=boolean), 0)
    case("cumsum", torch.tensor(2.0), 0)
    case("msort", t(4, 2))
    # products
    pairs = [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((5, 1, 2, 3), (4, 3, 2)),
             ((3,), (5, 3, 2)), ((5, 2, 3), (3,)), ((2, 3), (2, 3)), ((5, 2, 3), (5, 2, 3)), ((3,), (4,)), ((2, 3), (4,)), ((2,), (3, 4)), ((), (3,)),
             ((5, 2, 3), (4, 3, 2)), ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((20, 30), (30, 40))]
    for l, r in pairs:
        case("matmul", t(*l), t(*r, seed=2))
    case("matmul", t(4, 3).T, t(4, 2))
    for dtype in (f64, bf16, f16, i64):
        case("matmul", t(3, 5, dtype=dtype), t(5, 2, dtype=dtype, seed=2))
    case("matmul", t(3, 5), t(5, 2, dtype=f64))
    case("matmul", t(3, 5), t(5, 2, dtype=bf16))
    case("mm", t(2, 3), t(3, 4))
    case("mm", t(2, 3), t(3))
    case("bmm", t(2, 3, 4), t(2, 4, 5))
    case("bmm", t(2, 3, 4), t(3, 4, 5))
    case("bmm", t(2, 3, 4), t(2, 5, 5))
    case("mv", t(2, 3), t(3))
    case("dot", t(3), t(3, seed=2))
    case("dot", t(2, 3), t(3))
    case("outer", t(3), t(2))
    case("addmm", t(4), t(2, 3), t(3, 4), beta=0.5, alpha=2.0)
    case("F.linear", t(5, 2, 3), t(4, 3))
    case("F.linear", t(2, 3), t(4, 3), t(4))
    case("F.linear", t(3), t(4, 3))
    case("F.linear", t(2, 5), t(4, 3))
    for eq, shapes in [("ij,jk->ik", [(2, 3), (3, 4)]), ("bij,bjk->bik", [(5, 2, 3), (5, 3, 4)]), ("ij->ji", [(2, 3)]), ("ii->i", [(3, 3)]), ("ij->", [(2, 3)]),
                       ("i,j->ij", [(2,), (3,)]), ("bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]), ("...d,dv->...v", [(2, 3, 4), (4, 5)]), ("ij,jk", [(2, 3), (3, 4)]),
                       ("b p h d, h d m -> b p h m", [(1, 2, 3, 4), (3, 4, 5)]), ("ij,ij,j->i", [(2, 3), (2, 3), (3,)]), ("ij,kl->", [(2, 3), (2, 2)])]:
        case("einsum", eq, *[t(*s, seed=n) for n, s in enumerate(shapes)])
    # making
    for args in [(5,), (1, 5), (1, 6, 2), (5, 0, -2), (0, 1, 0.3), (2.5,), (0, 5, -1), (1.0, 3)]:
        case("arange", *args)
    case("arange", 5, dtype=f32)
    case("arange", start=1, end=4)
    for args in [(0, 1, 5), (0, 1, 1), (3, -2, 8), (0, 10, 0), (-1, 1, 100)]:
        case("linspace", *args)
    case("logspace", 0, 2, 5)
    for name in "zeros ones".split():
        case(name, 2, 3)
        case(name, (2, 3))
        case(name, 2, dtype=i64)
        case(name, size=(1,))
        case(name, -1)
    case("full", (2, 2), 3.5)
    case("full", (2, 2), 3)
    case("full", (2,), True)
    case("full", (2,), 1, dtype=bf16)
    case("eye", 3)
    case("eye", 2, 3)
    for name in "zeros_like ones_like".split():
        case(name, t(2, 3).T)
        case(name, t(2, dtype=i64), dtype=f32)
    case("full_like", t(2, 3), 2.5)
    case("new_zeros", t(2, dtype=f64), 2, 2)
    case("new_tensor", t(2, dtype=f64), [1, 2])
    for data in [1, 1.5, True, [1, 2], [1, 2.5], [[1, 2], [3, 4]], [True, False], [], [[], []], [[1, 2], [3]], [[1], 2], [1, [2]], "a", [1, None], ((1, 2), (3, 4)),
                 [True, 2], [torch.tensor(1.5), torch.tensor(2)]]:
        case("tensor", data)
    case("tensor", [1, 2], dtype=f32)
    case("tensor", [1.7, 2], dtype=i64)
    case("tensor", [1.00001], dtype=bf16)
    case("as_tensor", [1, 2])
    # together
    case("cat", [t(2, 3), t(1, 3)])
    case("cat", [t(2, 3), t(2, 1)], 1)
    case("cat", [t(2, 3), t(2, 1)], dim=-1)
    case("cat", [t(2, 3), t(2, 2)])
    case("cat", [t(2, 3), t(2, 3, dtype=i64)])
    case("cat", [t(2, dtype=bf16), t(2)])
    case("cat", [torch.zeros(0), t(2, 3)])
    case("cat", [])
    case("cat", [torch.tensor(1.0)])
    case("cat", [t(2), t(2, 2)])
    case("stack", [t(2, 3), t(2, 3, seed=2)])
    case("stack", [t(2, 3), t(2, 3, seed=2)], -1)
    case("stack", [t(2, 3), t(2)])
    case("stack", [torch.tensor(1.0), torch.tensor(2.0)])
    case("stack", [])
    case("hstack", [t(2), t(3)])
    case("vstack", [t(2), t(2, seed=3)])
    case("hstack", [t(2, 1), t(2, 2)])
    case("torch.where", t(2, 3) > 0, a, b)
    case("torch.where", t(2, 3) > 0, a, 0)
    case("torch.where", t(2, 3) > 0, 1, 0)
    case("torch.where", t(2, 3) > 0, a, torch.tensor(1.0, dtype=f64))
    case("torch.where", t(2, 3) > 0)
    case("torch.where", t(2, 3), a, b)
    case("torch.where", t(3) > 0, t(2, 1, dtype=i64), t(3, dtype=i64))
    case("masked_select", a, a > 0)
    case("gather", t(3, 4), 1, torch.tensor([[0, 1], [3, 2], [0, 0]]))
    case("gather", t(3, 4), 0, torch.tensor([[0, 2, 1, 0]]))
    case("gather", t(3, 4), 1, torch.tensor([[4]]))
    case("gather", t(3, 4), 1, torch.tensor([0]))
    case("gather", t(3, 4), 1, torch.tensor([[0.0]]))
    case("scatter", torch.zeros(3, 4), 1, torch.tensor([[0, 1], [3, 2]]), 1.0)
    case("scatter", torch.zeros(3, 4), 1, torch.tensor([[0, 1], [3, 2]]), t(3, 4))
    case("scatter_", torch.zeros(3, 4), 1, torch.tensor([[0, 1], [3, 2]]), t(3, 4))
    case("scatter_add", torch.zeros(3, 4), 1, torch.tensor([[0, 0], [3, 2]]), t(3, 4))
    case("index_select", t(3, 4), 1, torch.tensor([0, 0, 3]))
    case("index_select", t(3, 4), 0, torch.tensor([2]))
    case("index_select", t(3, 4), 0, torch.tensor([3]))
    case("index_select", t(3, 4), 0, torch.tensor([[1]]))
    case("index_add", t(3, 4), 0, torch.tensor([0, 0]), t(2, 4))
    case("index_copy", t(3, 4), 1, torch.tensor([3, 0]), t(3, 2))
    case("index_fill", t(3, 4), 1, torch.tensor([3, 0]), 7.0)
    case("take_along_dim", t(3, 4), torch.tensor([[1], [0], [3]]), 1)
    case("take", t(3, 4), torch.tensor([1, 11]))
    case("nonzero", torch.tensor([[0, 1], [2, 0]]))
    case("nonzero", torch.tensor(1))
    case("nonzero", torch.tensor([0, 3, 0, 1]), as_tuple=True)
    case("flip", x, 0, 2)
    case("flip", x, (1,))
    case("roll", x, 1, 1)
    case("roll", x, (1, -1), (0, 2))
    case("roll", x, 5)
    case("repeat", t(2, 3), 2, 1)
    case("repeat", t(3), 2, 2)
    case("repeat", t(2, 3), 2)
    case("tile", t(2, 3), (2,))
    case("repeat_interleave", t(3), 2)
    case("repeat_interleave", t(2, 3), 2, 1)
    case("repeat_interleave", t(3), torch.tensor([1, 0, 2]), 0)
    case("tril", t(3, 4))
    case("triu", t(2, 3, 3), 1)
    case("tril", t(3, 3), -1)
    case("diag", t(3))
    case("diag", t(3), 1)
    case("diag", t(3, 4))
    case("unique", torch.tensor([3, 1, 3, 2]))
    case("unique", torch.tensor([3, 1, 3, 2]), return_inverse=True, return_counts=True)
    case("bincount", torch.tensor([0, 2, 2]))
    # functions
    for dim in (0, 1, -1):
        for name in "F.softmax F.log_softmax".split():
            case(name, y, dim)
        case("F.normalize", y, dim=dim)
        case("F.cosine_similarity", y, t(2, 3, 4, seed=9), dim=dim)
    case("softmax", y, -1)
    case("softmax", t(3, 5, dtype=bf16), -1)
    case("softmax", t(3, 5, dtype=bf16), -1, dtype=f32)
    case("softmax", t(3, dtype=i64), -1)
    case("softmax", torch.tensor([float("-inf"), 0.0]), 0)
    case("log_softmax", y, 3)
    case("F.cosine_similarity", t(3, 4), t(4), dim=-1)
    case("F.cosine_similarity", t(4), t(4, seed=3), dim=0)
    case("F.normalize", t(3, 4), p=1.0, dim=1)
    case("F.layer_norm", y, (4,))
    case("F.layer_norm", y, (3, 4), t(3, 4), t(3, 4, seed=4))
    case("F.layer_norm", y, (3,))
    case("F.rms_norm", y, (4,), t(4))
    case("F.one_hot", torch.tensor([0, 2, 1]))
    case("F.one_hot", torch.tensor([[0], [2]]), 4)
    case("F.one_hot", torch.tensor([0, 2]), 2)
    case("F.one_hot", torch.tensor([0.0]))
    case("F.embedding", torch.tensor([[0, 2]]), t(3, 4))
    case("F.embedding", torch.tensor([3]), t(3, 4))
    for reduction in ("mean", "sum", "none"):
        case("F.cross_entropy", t(3, 5), torch.tensor([0, 4, 2]), reduction=reduction)
        case("F.mse_loss", t(3, 5), t(3, 5, seed=3), reduction=reduction)
        case("F.nll_loss", t(3, 5), torch.tensor([0, 4, 2]), reduction=reduction)
    case("F.cross_entropy", t(3, 5, 2), torch.tensor([[0, 4], [1, 1], [2, 3]]))
    case("F.cross_entropy", t(3, 5), torch.tensor([0, -100, 2]))
    case("F.cross_entropy", t(3, 5), torch.tensor([0, 5, 2]))
    case("F.cross_entropy", t(3, 5), torch.tensor([0, 1]))
    case("F.cross_entropy", t(3, 5), torch.tensor([0, 1, 2]), weight=t(5, low=0.5), label_smoothing=0.1)
    case("F.cross_entropy", t(3, 5), t(3, 5, seed=6).softmax(-1))
    case("F.cross_entropy", t(5), torch.tensor(2))
    case("F.l1_loss", t(3), t(3, seed=2))
    case("F.kl_div", t(3, 4), t(3, 4, seed=3).softmax(-1), reduction="batchmean")
    case("F.kl_div", t(3, 4), t(3, 4, seed=3), log_target=True, reduction="sum")
    case("F.dropout", t(3), 0.5, False)
    # chance
    for seed in (0, 1234, -7, 2**40 + 3):
        for n in (1, 3, 15, 16, 17, 40, 64):
            case("randn", n, seed=seed)
    for dtype in floats:
        for n in (5, 16, 37):
            case("randn", n, dtype=dtype, seed=3)
            case("rand", n, dtype=dtype, seed=3)
    case("randn", 3, 7, seed=5)
    case("randn_like", t(5, 6), seed=5)
    case("randn_like", t(5, 6).T, seed=5)
    case("randn_like", t(2, 2).T, seed=5)
    case("rand_like", t(5, 6).T, seed=5)
    case("rand", 4, 4, seed=5)
    case("normal_", torch.zeros(20), 1.0, 2.0, seed=9)
    case("normal_", torch.zeros(5, 4).T, 1.0, 2.0, seed=9)
    case("normal_", torch.zeros(5), 1.0, 0.1, seed=9)
    case("uniform_", torch.zeros(5), -1, 1, seed=9)
    case("normal", 1.0, 2.0, (20,), seed=9)
    case("normal", torch.zeros(20), torch.ones(20), seed=9)
    case("randint", 10, (7,), seed=2)
    case("randint", -3, 4, (7,), seed=2)
    case("randint", 0, 2**40, (7,), seed=2)
    case("randint", 5, 5, (7,), seed=2)
    case("randint_like", t(5, dtype=i64), 10, seed=2)
    case("randperm", 11, seed=2)
    case("bernoulli", torch.full((20,), 0.4), seed=2)
    # print
    for y in (torch.tensor(1.5), torch.tensor(3), torch.tensor([1.0, 2.0]), t(2, 3), t(2, 3) * 1e5, t(2, 3) * 1e-5, t(2, 3, 4), torch.tensor([]), torch.zeros(2, 0),
              torch.tensor([float("nan"), 1.5, float("inf"), -float("inf")]), torch.tensor([True, False]), t(40), torch.arange(2000), t(50, 50), t(3, dtype=bf16), t(12, dtype=f64) * 1e9,
              torch.tensor([1e10, 1.0]), t(3, 400, 3), torch.tensor([0.0, 0.0]), torch.tensor([1, -20, 300]), torch.zeros(0, dtype=i64), torch.tensor([1e-8, 1.0]), t(8, dtype=f64) * 12345):
        case("repr", y)
    # what is not there
    case("Tensor.where", a, a > 0, b)
    case("add", a, "x")
    case("exp", 3)


# ---- sequences of views and writes


def sequence(seed):
    r = random.Random(seed)
    ndim = r.randint(1, 4)
    shape = [r.randint(1, 4) for _ in range(ndim)]
    pool = [torch.arange(math.prod(shape), dtype=f32).reshape(shape)]
    steps = []

    def index(x, advanced):
        out = []
        lists = 0
        dims = x.dim()
        used = 0
        ellipsis = False
        while used < dims and r.random() < 0.85:
            n = x.shape[used] if not ellipsis else None
            kind = r.random()
            if n is None or n == 0:
                break
            if kind < 0.3:
                out.append(r.randrange(-n, n))
                used += 1
            elif kind < 0.65:
                bounds = [r.choice([None] + list(range(-n - 1, n + 2))) for _ in range(2)]
                out.append(slice(bounds[0], bounds[1], r.choice([None, None, 1, 2, 3])))
                used += 1
            elif kind < 0.72:
                out.append(None)
                if len(out) > 8:
                    break
            elif kind < 0.78 and not ellipsis:
                out.append(...)
                break
            elif advanced and lists < 2:
                k = r.choice([1, 2, 3])
                if r.random() < 0.3:
                    mask = [r.random() < 0.5 for _ in range(n)]
                    if lists:
                        continue
                    out.append(torch.tensor(mask))
                    lists = 2
                else:
                    # each place once: what a write leaves behind is then defined
                    if k > n:
                        k = 1
                    out.append(r.sample(range(n), k))
                    lists += 1 if k == 1 else 2
                used += 1
            else:
                out.append(slice(None))
                used += 1
        if not out:
            out = [slice(None)] if dims else [...]
        return tuple(out) if len(out) != 1 or r.random() < 0.5 else out[0]

    def run(name, *args):
        real = [pool[a["r"]] if isinstance(a, dict) else a for a in args]
        result = resolve(name, real)(*real)
        steps.append([name, [a if isinstance(a, dict) else encode(a) for a in args]])
        if isinstance(result, torch.Tensor) and not name.endswith("_"):
            pool.append(result)
        elif isinstance(result, tuple):
            pool.extend(result)

    for _ in range(r.randint(4, 10)):
        at = r.randrange(len(pool))
        x = pool[at]
        me = {"r": at}
        dims = x.dim()
        kind = r.random()
        try:
            if kind < 0.14:
                run("getitem", me, index(x, False))
            elif kind < 0.18:
                run("getitem", me, index(x, True))
                # torch may lay a picked copy out in another order of dimensions
                pool[-1] = pool[-1].contiguous()
                steps.append(["contiguous_last", []])
            elif kind < 0.24:
                order = list(range(dims))
                r.shuffle(order)
                run("permute", me, order)
            elif kind < 0.30 and dims:
                run("transpose", me, r.randrange(-dims, dims), r.randrange(-dims, dims))
            elif kind < 0.38:
                n = x.numel()
                sizes = []
                left = n
                for _ in range(r.randint(1, 3)):
                    divisors = [d for d in range(1, left + 1) if left % d == 0] or [0]
                    d = r.choice(divisors)
                    sizes.append(d)
                    left = left // d if d else 0
                sizes.append(left)
                run(r.choice(["view", "reshape", "reshape"]), me, *sizes)
            elif kind < 0.41:
                run("unsqueeze", me, r.randrange(-dims - 1, dims + 1))
            elif kind < 0.44:
                run("squeeze", me)
            elif kind < 0.47:
                run("expand", me, [r.choice([2, 3]) if n == 1 else n for n in x.shape])
            elif kind < 0.50 and dims:
                run(r.choice(["unbind", "flatten"]), me)
            elif kind < 0.53 and dims:
                run("split", me, r.randint(1, 3), r.randrange(dims))
            elif kind < 0.57:
                run(r.choice(["clone", "contiguous", "detach", "ravel", "neg", "zeros_like"]), me)
            elif kind < 0.60:
                other = r.randrange(len(pool))
                run("add", me, {"r": other})
            elif kind < 0.62 and dims >= 2:
                run("diagonal", me, r.randint(-1, 1))
            elif kind < 0.64 and dims:
                d = r.randrange(dims)
                n = x.shape[d]
                start = r.randint(0, n)
                run("narrow", me, d, start, r.randint(0, n - start))
            elif kind < 0.80:
                where = index(x, True)
                target = x[where]
                if r.random() < 0.5:
                    run("setitem", me, where, float(r.randint(-99, 99)))
                else:
                    # a value of its own, so that source and target do not overlap
                    sizes = list(target.shape)
                    drop = r.randint(0, len(sizes)) if r.random() < 0.4 else 0
                    sizes = [1 if r.random() < 0.15 else n for n in sizes[drop:]]
                    run("full", sizes, float(r.randint(-99, 99)))
                    run("setitem", me, where, {"r": len(pool) - 1})
            elif kind < 0.84:
                run("add_", me, float(r.randint(-9, 9)))
            elif kind < 0.88:
                run("mul_", me, float(r.choice([-1, 2, 3])))
            elif kind < 0.92:
                run("fill_", me, float(r.randint(-99, 99)))
            elif kind < 0.95:
                run("zero_", me)
            elif kind < 0.97:
                run("clamp_", me, -5.0, 20.0)
            else:
                run("clone", me)
                run("copy_", me, {"r": len(pool) - 1})
        except (RuntimeError, IndexError, ValueError):
            # what torch refuses is no part of the sequence
            pass
        if sum(p.numel() for p in pool) > 4000 or len(pool) > 40:
            break
    crc = 0
    for p in pool:
        crc = zlib.crc32(repr((list(p.shape), [s for s, n in zip(p.stride(), p.shape) if n > 1] if p.numel() else [], p.storage_offset() if p.numel() else 0)).encode(), crc)
        crc = zlib.crc32(p.contiguous().numpy().tobytes(), crc)
    return {"shape": shape, "steps": steps, "tensors": len(pool), "crc": crc}


def storages():
    """Storages as a pickle of a payload has them."""
    for dtype in (f32, f64, bf16, f16, i64, i32, torch.int16, torch.int8, u8, boolean):
        for n in (0, 1, 7):
            x = t(n, dtype=dtype, low=0) if n else torch.zeros(0, dtype=dtype)
            file = io.BytesIO()
            torch.save(x._typed_storage(), file, _use_new_zipfile_serialization=False)
            yield {"tensor": encode(x), "hex": file.getvalue().hex()}


def write(name, rows):
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    subprocess.run(["zstd", "-19", "-q", "-f", "-o", os.path.join(HERE, name)], input=text.encode(), check=True)
    print(name, len(rows), "rows,", len(text), "bytes,", os.path.getsize(os.path.join(HERE, name)), "packed")


if __name__ == "__main__":
    operations()
    write("operations.jsonl.zst", CASES)
    write("storages.jsonl.zst", list(storages()))
    write("sequences.jsonl.zst", [sequence(seed) for seed in range(10_000)])
