"""A warm interpreter that forks one locked child for each job, and never runs a block itself.

Started as `python3 -I -S -B -c <this file>` with an empty environment and a socket as standard input. Over that it is sent the
stand-ins, the system-call filter and the limits once, then a socket for each job. A child serves its socket and exits; one whose worker is
gone is killed.
"""

import abc, ast, base64, bisect, builtins, cmath, collections, collections.abc, contextlib, copy, dataclasses, datetime, decimal  # noqa: E401
import enum, fractions, functools, heapq, importlib, inspect, itertools, json, linecache, math, numbers, operator, pickle, pprint  # noqa: E401
import random, re, statistics, string, struct, textwrap, threading, time, traceback, types, typing, unicodedata, uuid, warnings  # noqa: E401
import ctypes
import gc
import os
import resource
import select
import signal
import socket
import sys

#: Order in which the stand-ins are made: each imports only those before it.
ORDER = ("link", "torch", "einops", "block", "nnsight", "unpickle", "job")


def take(control, n):
    """Exactly n bytes."""
    got = b""
    while len(got) < n:
        chunk = control.recv(n - len(got))
        if not chunk:
            os._exit(0)
        got += chunk
    return got


def stand_ins(sources, request):
    """Makes modules of the sources, under names that tracebacks leave out; `request`: what they get warm with."""
    for name in ORDER:
        module = types.ModuleType(name)
        sys.modules[name] = module
        file = f"<mediant {name}>"
        linecache.cache[file] = (len(sources[name]), None, sources[name].splitlines(True), file)
        exec(compile(sources[name], file, "exec"), module.__dict__)
    sys.modules["job"].REQUEST = request
    sys.modules["job"].install()


def lock(setup):
    """No new rights, no files, no system calls beyond the filter's, bounded memory and time. Any failure ends the process."""
    libc = ctypes.CDLL(None, use_errno=True)
    for name, value in setup["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        os._exit(70)
    if setup["landlock"]:
        rules = bytes.fromhex(setup["landlock"])
        ruleset = libc.syscall(444, rules, ctypes.c_size_t(len(rules)), 0)
        if ruleset < 0 or libc.syscall(446, ruleset, 0):
            os._exit(71)
        os.close(ruleset)
    program = bytes.fromhex(setup["filter"])
    held = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]

    filter = Program(len(program) // 8, ctypes.cast(held, ctypes.c_void_p))
    if libc.prctl(22, 2, ctypes.byref(filter), 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        os._exit(72)


def apart():
    """Gives this process, and those forked from it, namespaces of their own for users, network and messages: whether the machine
    allows that. The filter holds without them.
    """
    new_user, new_network, new_messages = 0x10000000, 0x40000000, 0x08000000
    return ctypes.CDLL(None).unshare(new_user | new_network | new_messages) == 0


def child(descriptor, setup, zygote):
    """Everything that a job's process does. It never returns, whatever happens."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != zygote:
            os._exit(0)
        os.closerange(3, descriptor)
        os.closerange(descriptor + 1, 1 << 12)
        job = socket.socket(fileno=descriptor)
        random.seed()
        lock(setup)
        sys.modules["job"].run(job)
    finally:
        os._exit(0)


def serve(control):
    """Forks a child for each socket that comes, until the server is gone."""
    (size,) = struct.unpack("<I", take(control, 4))
    setup = json.loads(take(control, size))
    stand_ins(setup.pop("modules"), bytes.fromhex(setup.pop("request")))
    gc.collect()
    gc.freeze()
    control.sendall(b"!" if apart() else b"?")
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    sockets, processes = {}, {}  # of each job: its socket here, its process
    me = os.getpid()

    def ended(process):
        pid, job = processes.pop(process)
        poll.unregister(process)
        poll.unregister(job)
        os.close(process)
        os.close(job)
        del sockets[job]
        os.waitpid(pid, 0)

    while True:
        for descriptor, event in poll.poll():
            if descriptor == control.fileno():
                message, descriptors, _flags, _address = socket.recv_fds(control, 1, 1)
                if not message:
                    for pid, _job in processes.values():
                        os.kill(pid, signal.SIGKILL)
                    os._exit(0)
                (job,) = descriptors
                pid = os.fork()
                if pid == 0:
                    child(job, setup, me)
                process = os.pidfd_open(pid)
                sockets[job], processes[process] = process, (pid, job)
                poll.register(process, select.POLLIN)
                poll.register(job, 0)  # only that the other side is gone
            elif descriptor in processes:
                ended(descriptor)
            elif descriptor in sockets:
                os.kill(processes[sockets[descriptor]][0], signal.SIGKILL)
                ended(sockets[descriptor])


if __name__ == "__main__":
    control = socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    sys.path.clear()
    os.environ.clear()  # Python itself puts the locale there
    serve(control)
