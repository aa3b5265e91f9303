"""The wire between this interpreter and the worker, and what a block's values look like on it.

A frame is four bytes of length, four bytes of the length of a JSON text, the text, and the bytes that the text refers to.
There are no numbers of tensors here: a tensor is a name, and every operation on it is a question to the worker.
"""

import json
import math
import socket as sockets
import struct
import threading
import time

#: Served operations, by torch's names; the worker sends them with the job.
SERVED = frozenset()

#: What kinds of errors the worker answers with; `nnsight.py` adds its own.
ERRORS = {
    "RuntimeError": RuntimeError,
    "TypeError": TypeError,
    "ValueError": ValueError,
    "IndexError": IndexError,
    "AttributeError": AttributeError,
    "MemoryError": MemoryError,
    "NotImplementedError": NotImplementedError,
}

#: Makes the stand-in of a tensor, a dtype, a device and a pair; `torch.py` sets them.
MAKE = {}

_socket = None
_lock = threading.RLock()
#: Tensors that died since the last question; the next one tells the worker.
_dead = []


class Gone(BaseException):
    """The worker is gone: nobody waits for an answer."""


def connect(socket):
    """All further questions go through this socket."""
    global _socket
    _socket = socket


#: How long to look again and again for what comes before sleeping until it does, in seconds. The other side mostly answers within
#: microseconds, and to be woken takes longer than that.
AWAKE = 100e-6
#: After so many waits in a row that were longer, as on a busy machine, looking again is of no use...
IN_VAIN = 4
#: ...for so many.
ASLEEP = 16
_in_vain = 0

#: Most messages come in one piece of so many bytes.
_PIECE = 1 << 12
#: Blobs of so many bytes together leave in one piece with the message before them.
_TOGETHER = 1 << 16


def send(message, blobs=()):
    """Sends a message; `{"b": [offset, length]}` in it refers to the blobs, one behind the other."""
    text = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    length = sum(map(len, blobs))
    head = struct.pack("<II", 4 + len(text) + length, len(text))
    if length <= _TOGETHER:
        _socket.sendall(b"".join((head, text, *blobs)))
        return
    _socket.sendall(head + text)
    for blob in blobs:
        _socket.sendall(blob)


def receive():
    """Waits for an answer: what it says, and its blobs."""
    got = _piece()
    while len(got) < 8:
        got += _piece()
    size, text = struct.unpack_from("<II", got)
    if len(got) < 4 + size:
        got += _exactly(4 + size - len(got))
    return json.loads(got[8 : 8 + text]), got[8 + text :]


def begin():
    """Waits for the job, with the one large blob: it is taken in one piece."""
    size, text = struct.unpack("<II", _exactly(8))
    return json.loads(_exactly(text)), _exactly(size - 4 - text)


def _exactly(n):
    """So many bytes."""
    got = _socket.recv(n, sockets.MSG_WAITALL)
    while len(got) < n:
        more = _socket.recv(n - len(got), sockets.MSG_WAITALL)
        if not more:
            raise Gone
        got += more
    return got


def _piece():
    """Some bytes, once some are there."""
    global _in_vain
    until = time.perf_counter() + (AWAKE if _in_vain < IN_VAIN else 0)
    while True:
        try:
            got = _socket.recv(_PIECE, sockets.MSG_DONTWAIT)
            _in_vain = 0
            break
        except BlockingIOError:
            if time.perf_counter() > until:
                _in_vain = (_in_vain + 1) % (IN_VAIN + ASLEEP)
                got = _socket.recv(_PIECE)
                break
    if not got:
        raise Gone
    return got


def died(tensor):
    """A tensor's stand-in is gone; the worker may forget the tensor."""
    _dead.append(tensor)


class Encoder:
    """Values on their way to the worker, with the tensors and bytes that they refer to."""

    def __init__(self):
        self.tensors = {}
        self.blobs = []
        self.size = 0

    def value(self, x):
        """A value as JSON."""
        if x is None or x is True or x is False or type(x) is str:
            return x
        kind = type(x)
        if kind is int:
            return self._int(x)
        if kind is float:
            return x if math.isfinite(x) else {"f": repr(x)}
        wire = getattr(x, "_wire", None)
        if wire is not None:
            return wire(self)
        if kind is tuple or isinstance(x, tuple):
            return {"u": [self.value(v) for v in x]}
        if isinstance(x, slice):
            return {"s": [self.value(x.start), self.value(x.stop), self.value(x.step)]}
        if x is Ellipsis:
            return {"e": 0}
        if isinstance(x, (list, range)):
            return [self.value(v) for v in x]
        if isinstance(x, dict):
            return {"d": [[self.value(k), self.value(v)] for k, v in x.items()]}
        if isinstance(x, (bytes, bytearray, memoryview)):
            return self._bytes(bytes(x))
        if isinstance(x, bool):
            return bool(x)
        if isinstance(x, int):
            return self._int(int(x))
        if isinstance(x, float):
            return self.value(float(x))
        if isinstance(x, str):
            return str(x)
        raise TypeError(f"a {kind.__name__} cannot be used here: a tensor, a number, a text, or a list, tuple or dict of them can")

    def _int(self, x):
        if -(1 << 63) <= x < 1 << 63:
            return x
        raise OverflowError("Overflow when unpacking long")

    def _bytes(self, x):
        at = self.size
        self.blobs.append(x)
        self.size += len(x)
        return {"b": [at, len(x)]}


def decode(x, known, blobs=b""):
    """A value of the worker's; a tensor that was part of the question comes back as the same object."""
    if isinstance(x, list):
        return [decode(v, known, blobs) for v in x]
    if not isinstance(x, dict):
        return x
    if "t" in x:
        return MAKE["tensor"](x["t"], x["h"], x["y"], known.get(x["t"]))
    if "u" in x:
        return tuple(decode(v, known, blobs) for v in x["u"])
    if "n" in x:
        return MAKE["named"](x["n"], [(k, decode(v, known, blobs)) for k, v in x["m"]])
    if "d" in x:
        return {decode(k, known, blobs): decode(v, known, blobs) for k, v in x["d"]}
    if "f" in x:
        return float(x["f"])
    if "y" in x:
        return MAKE["dtype"](x["y"])
    if "v" in x:
        return MAKE["device"](x["v"])
    if "s" in x:
        return slice(*(decode(v, known, blobs) for v in x["s"]))
    if "e" in x:
        return Ellipsis
    if "b" in x:
        at, length = x["b"]
        return blobs[at : at + length]
    raise ValueError(f"unknown value {x!r}")


def ask(what, *args, **kwargs):
    """Asks the worker and waits for its answer; its errors are raised here, where the block asked."""
    encoder = Encoder()
    packed = [encoder.value(a) for a in args]
    named = {k: encoder.value(v) for k, v in kwargs.items()}
    with _lock:
        dead = _dead[:]
        del _dead[: len(dead)]
        send([what, packed, named, dead], encoder.blobs)
        answer, blobs = receive()
    if "error" in answer:
        kind, text = answer["error"]
        raise ERRORS.get(kind, RuntimeError)(text)
    return decode(answer["ok"], encoder.tensors, blobs)


_serves = {}


def serves(name):
    """Whether the worker has an operation of this name, which may be another name of one or its in-place form."""
    if name not in _serves:
        _serves[name] = name in SERVED or ask("serves", name)
    return _serves[name]


def forget():
    """What was known and said to a worker before is nothing to the next."""
    _serves.clear()
    del _dead[:]


def tell(what, value):
    """Says something that has no answer."""
    encoder = Encoder()
    packed = encoder.value(value)
    with _lock:
        send([what, [packed], {}, []], encoder.blobs)
