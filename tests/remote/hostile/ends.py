# Blocks that must end with an error, alone and soon. A line of dashes stands between two.
while True:
    pass
# ---
x = str(7 ** 10 ** 8)
# ---
ctypes.string_at(0)
# ---
libc.abort()
# ---
os._exit(0)
# ---
raise SystemExit
# ---
sys.exit(3)
# ---
raise KeyboardInterrupt
# ---
raise GeneratorExit
# ---
class E(BaseException):
    def __str__(self):
        raise E
raise E
# ---
x = []
while True:
    x.append(bytearray(1 << 24))
# ---
def f(n):
    return f(n + 1)
f(0)
# ---
sys.setrecursionlimit(10 ** 9)
def f(n):
    return f(n + 1)
f(0)
# ---
__import__("re").match("(a+)+$", "a" * 64 + "b")
# ---
while True:
    print("x" * 10000)
# ---
time.sleep(10 ** 6)
# ---
lock = threading.Lock()
lock.acquire()
lock.acquire()
# ---
for number in range(1, 32):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
# ---
while True:
    threading.Thread(target=time.sleep, args=(1000,)).start()
# ---
link._socket.close()
link.ask("serves", "x")
# ---
link._socket.shutdown(2)
link.ask("serves", "x")
# ---
link._socket.sendall(b"\xff" * 64)
time.sleep(1000)
# ---
link._socket.sendall(b"\0" * 64)
time.sleep(1000)
# ---
link._socket.sendall(struct.pack("<II", 4 + 3, 9) + b"[1]")
time.sleep(1000)
# ---
raw(b"[" * 100000)
# ---
raw(b'["log", ["\xff\xfe"], {}, []]')
# ---
raw(b"not json")
# ---
raw(b"[1, 2]")
# ---
raw(b'["zeros", [{"t": 1, "u": 2}], {}, [4294967296, -1]]')
# ---
raw(b'["zeros", [{"nosuch": 1}], {}, []]')
# ---
raw(b'["raw", [{"b": [0, 99]}], {}, []]')
# ---
raw(b'["raw", [{"b": [18446744073709551615, 2]}], {}, []]')
# ---
raw(b'["done", [{"t": 999999}], {}, []]')
# ---
raw(b'["done", [' + b'{"u": [' * 60 + b"]}" * 60 + b'], {}, ["x"]]')
# ---
link.tell("done", {1: [[[3.5, object]]]})
# ---
link.tell("done", {"x": torch.randn(1 << 19)})
# ---
x = torch.randn(1 << 19).save()
# ---
x = []
x.append(x)
x = nnsight.save(x)
# ---
x = []
for _ in range(300):
    x = [x]
x = nnsight.save(x)
# ---
class Lie:
    def _wire(self, encoder):
        return {"t": 10 ** 9}
x = Lie().save()
# ---
class Lie:
    def _wire(self, encoder):
        return {"b": [0, 1 << 40]}
x = torch.add(Lie(), 1)
# ---
x = object().save()
# ---
link.ask = None
x = torch.zeros(3).save()
# ---
link.tell = None
# ---
x = torch.zeros(1)
while True:
    x += 1
# ---
with model.trace(P):
    h = model.model.layers[0].output
    for i in range(100):
        h[0, 0, 0] = h[0, 0, 0].item() + i
        h = model.model.layers[i % 4].output
# ---
for i in range(100):
    with model.trace(P):
        x = model.lm_head.output[0, -1, 0].item()
# ---
with model.trace("x" * 100000):
    x = model.lm_head.output.save()
# ---
with model.trace(torch.tensor([[10 ** 6]])):
    x = model.lm_head.output.save()
# ---
with model.trace(torch.tensor([[-1]])):
    x = model.lm_head.output.save()
# ---
with model.trace([]):
    x = model.lm_head.output.save()
# ---
with model.trace([[P]]):
    x = model.lm_head.output.save()
# ---
link.ask("add", Id(2 ** 60), 1)
# ---
with model.trace(P):
    with model.trace(P):
        x = model.lm_head.output.save()
# ---
with model.trace() as tracer:
    meet = tracer.barrier(2)
    with tracer.invoke(P):
        meet()
# ---
with model.trace(P):
    model.model.layers[4].output[:] = 0
    x = model.lm_head.output.save()
# ---
with model.trace(P):
    model.model.layers[2].output = torch.zeros(1)
    x = model.lm_head.output.save()
# ---
with model.trace(P):
    model.model.layers[2].mlp.act_fn.output[:] = 0
    x = model.lm_head.output.save()
# ---
x = model.lm_head.output.save()
# ---
exec(compile("while True: x = 1", "x", "exec"))
# ---
import requests
# ---
return 1
# ---
break
# ---
x = (
