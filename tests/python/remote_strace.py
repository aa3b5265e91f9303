"""What system calls the processes of blocks make, looked at from outside: none beyond the list of the filter succeeds.

    python tests/python/remote_strace.py target/debug/mediant

Starts a server of `dummy:tiny` under `strace -ff`, hands in every captured request and the hostile blocks of `tests/remote/hostile`, and
reads the trace of each process from the moment that its filter was in place. Standard library only.
"""

import collections
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
#: As `src/worker/sandbox/filter.rs` has them.
ALLOWED = set(
    "read write readv writev close lseek munmap mremap brk madvise futex rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall "
    "clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday poll ppoll sched_yield getrandom sendto recvfrom sendmsg recvmsg getpid "
    "gettid rseq set_robust_list exit exit_group mmap mprotect".split()
)
CALL = re.compile(r"^(?:\[pid +\d+\] )?(\w+)\((.*)\) += (-?\w+)(?: (\w+))?")


def post(address, block):
    key = json.dumps({"repo_id": "dummy-tiny", "revision": None, "task": "text-generation"})
    envelope = {"model_key": f"nnsight.modeling.transformers.TransformersModel:{key}", "session_id": "", "compress": True, "env": {}}
    body = b"--bound\r\nContent-Disposition: form-data; name=\"data\"\r\n\r\n" + json.dumps(envelope).encode()
    body += b"\r\n--bound\r\nContent-Disposition: form-data; name=\"blob\"; filename=\"request\"\r\n\r\n" + block + b"\r\n--bound--\r\n"
    request = urllib.request.Request(f"{address}/request", body, {"content-type": "multipart/form-data; boundary=bound"})
    return json.load(urllib.request.urlopen(request))["id"]


def ended(address, job):
    while True:
        told = json.load(urllib.request.urlopen(f"{address}/response/{job}"))
        if told["status"] in ("COMPLETED", "ERROR"):
            return told["status"]
        time.sleep(0.05)


def with_source(template, source):
    """A captured session with another source, not packed: see `block_of` in `tests/remote/client.rs`."""
    import zstandard

    data = bytearray(zstandard.ZstdDecompressor().decompress(template, max_output_size=1 << 26))
    at = data.index(b"outs = nnsight.save")
    length = lambda at: int.from_bytes(data[at : at + 4], "little")  # noqa: E731
    start = next(s for s in range(at, 4, -1) if data[s - 5 : s - 4] == b"X" and at <= s + length(s - 4) < len(data))
    data[start : start + length(start - 4)] = source.encode()
    data[start - 4 : start] = len(source.encode()).to_bytes(4, "little")
    data[3:11] = (len(data) - 11).to_bytes(8, "little")
    return zstandard.ZstdCompressor().compress(bytes(data))


def blocks():
    """Captured requests, and hostile ones."""
    golden = ROOT / "golden" / "remote"
    found = {path.stem: path.read_bytes() for path in sorted(golden.glob("*.block"))}
    session = found["session_loop"]
    hostile = ROOT / "remote"
    begin = re.search(r'BEGIN: &str = r#"(.*?)"#', (hostile / "hostile.rs").read_text(), re.S)[1]
    calls = re.search(r'CALLS: &str = "(.*?)";', (hostile / "hostile.rs").read_text(), re.S)[1]
    attempts = [line for line in (hostile / "hostile" / "attempts.py").read_text().splitlines() if not line.startswith("#")]
    tried = "".join(f"try:\n    {line}\nexcept BaseException:\n    pass\n" for line in attempts)
    found["attempts"] = with_source(session, begin + tried)
    found["calls"] = with_source(session, begin + calls)
    for i, source in enumerate((hostile / "hostile" / "ends.py").read_text().split("# ---\n")):
        found[f"end{i}"] = with_source(session, begin + source)
    return found


def below(pid):
    """Commands of all processes below one, in two words."""
    found = []
    for child in " ".join(thread.read_text() for thread in pathlib.Path(f"/proc/{pid}/task").glob("*/children")).split():
        try:
            words = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            found += [b" ".join(words[:2]).decode(errors="replace"), *below(child)]
        except OSError:
            continue
    return found


def main(mediant):
    folder = pathlib.Path(tempfile.mkdtemp())
    port = 8699
    settings = {"MEDIANT__REMOTE__JOB_S": "3", "MEDIANT__REMOTE__JOB_CPU_S": "1", "MEDIANT__REMOTE__QUEUED_PER_OWNER": "1000", "MEDIANT__REMOTE__JOBS_AT_ONCE": "2"}
    command = ["strace", "-ff", "-qq", "-o", str(folder / "trace"), mediant, "serve", "--model", "dummy:tiny", "--listen", f"127.0.0.1:{port}"]
    server = subprocess.Popen([*command, "--data-dir", str(folder / "data")], env={**os.environ, **settings})
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if json.load(urllib.request.urlopen(f"{address}/status"))["server"]["blocks"]:
                    break
            except OSError:
                pass
            time.sleep(0.2)
        jobs = {name: post(address, block) for name, block in blocks().items()}
        statuses = collections.Counter(ended(address, job) for job in jobs.values())
        time.sleep(2)
        left = below(server.pid)
        # What waits for the next jobs: at most two workers, an evaluator for each, and the interpreter that evaluators come from.
        workers, pythons = (sum(word in command for command in left) for word in ("mediant worker", "python"))
    finally:
        # strace hands no signal on.
        for child in pathlib.Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        server.wait()
    processes, refused, beyond = 0, 0, []
    for trace in folder.glob("trace.*"):
        locked = False
        for line in trace.read_text(errors="replace").splitlines():
            if not locked:
                locked = bool(re.match(r"(seccomp\(SECCOMP_SET_MODE_FILTER|prctl\(PR_SET_SECCOMP)", line)) and line.rstrip().endswith("= 0")
                processes += locked
                continue
            call = CALL.match(line)
            if call is None:
                continue
            name, arguments, result, error = call.groups()
            thread = name == "clone" and "CLONE_THREAD" in arguments
            runs = name in ("mmap", "mprotect") and "PROT_EXEC" in arguments
            if result == "-1" and error in ("EPERM", "ENOSYS"):
                refused += 1
            elif (name not in ALLOWED and not thread) or runs:
                beyond.append(line)
    print(f"{len(jobs)} jobs {dict(statuses)}; {processes} locked processes; {refused} calls refused; {len(beyond)} beyond the list")
    print(f"2 s after the last job: {workers} workers and {pythons} interpreters wait, two and three at most")
    print("\n".join(beyond[:20]))
    return processes > 0 and not beyond and workers <= 2 and pythons <= 3


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1]) else 1)
