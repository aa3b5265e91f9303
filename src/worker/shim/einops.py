"""A stand-in for `einops`: `rearrange`, from torch's views."""

import re
import sys
import types

import link


def _axes(pattern):
    """The axes of one side: names, groups of names as lists, `1` as an empty group."""
    found = []
    group = None
    for token in re.findall(r"\(|\)|\.\.\.|\w+|\S", pattern):
        if token == "(" and group is None:
            group = []
        elif token == ")" and group is not None:
            found.append(group)
            group = None
        elif token == "1":
            (found if group is None else group).append([] if group is None else "1")
        elif token == "..." or token.isidentifier():
            (found if group is None else group).append(token)
        else:
            raise ValueError(f"einops: `{token}` has no place in the pattern `{pattern}`")
    if group is not None:
        raise ValueError(f"einops: a parenthesis is not closed in `{pattern}`")
    return found


def _flat(axes):
    return [name for axis in axes for name in (axis if isinstance(axis, list) else [axis]) if name != "1"]


def rearrange(tensor, pattern, **sizes):
    """`einops.rearrange`: splits, reorders and joins axes by name."""
    if isinstance(tensor, (list, tuple)):
        tensor = link.ask("stack", list(tensor))
    left, arrow, right = pattern.partition("->")
    if not arrow:
        raise ValueError(f"einops: `{pattern}` has no `->`")
    left, right = _axes(left), _axes(right)
    shape = list(tensor.shape)
    if "..." in left:
        at = left.index("...")
        extra = len(shape) - (len(left) - 1)
        if extra < 0:
            raise ValueError(f"einops: `{pattern}` names more axes than the tensor's {len(shape)}")
        dots = [f"_{i}" for i in range(extra)]
        left[at : at + 1] = dots
        right = [n for axis in right for n in (dots if axis == "..." else [[m for n in axis for m in (dots if n == "..." else [n])]] if isinstance(axis, list) else [axis])]
    if len(left) != len(shape):
        raise ValueError(f"einops: `{pattern}` names {len(left)} axes, the tensor has {len(shape)}")
    if sorted(_flat(left)) != sorted(_flat(right)) or len(set(_flat(left))) != len(_flat(left)):
        raise ValueError(f"einops: each axis stands once on each side of `{pattern}`")
    sizes = dict(sizes)
    for axis, size in zip(left, shape):
        names = [n for n in axis if n != "1"] if isinstance(axis, list) else [axis]
        unknown = [n for n in names if n not in sizes]
        known = 1
        for n in names:
            known *= sizes.get(n, 1)
        if len(unknown) > 1:
            raise ValueError(f"einops: say the size of all but one of {', '.join(unknown)} in `{pattern}`")
        if unknown:
            if known == 0 or size % known:
                raise ValueError(f"einops: an axis of {size} is not a multiple of {known} in `{pattern}`")
            sizes[unknown[0]] = size // known
        elif known != size:
            raise ValueError(f"einops: an axis of {size} was said to be {known} in `{pattern}`")
    names, order = _flat(left), _flat(right)
    tensor = tensor.reshape(tuple(sizes[n] for n in names))
    if order != names:
        tensor = tensor.permute(tuple(names.index(n) for n in order))
    joined = []
    for axis in right:
        n = 1
        for name in axis if isinstance(axis, list) else [axis]:
            n *= 1 if name == "1" else sizes[name]
        joined.append(n)
    return tensor if joined == list(tensor.shape) else tensor.reshape(tuple(joined))


class _Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"`einops.{name}` is not served in a remote block. Served is: rearrange")


def install():
    """Puts the stand-in where `import einops` finds it."""
    module = _Module("einops")
    module.rearrange = rearrange
    sys.modules["einops"] = module
