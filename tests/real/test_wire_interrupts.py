"""Exceptions of signal handlers at random moments: no reply goes to another question, and nothing is lost."""

from __future__ import annotations

import signal

import pytest
from tests.interrupting import python
from tests.real.test_wire_tls import Authority, authority
from tests.real.wire_peers import Peer, relay
from tests.servers import Server

__all__ = ["authority"]

pytestmark = pytest.mark.storm

#: How each program begins: an endpoint, and what it had open before.
BEGIN = """
import os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from evercache.clock import monotonic
from evercache.errors import ConnectionFailed, DeadlineExceeded, PoolExhausted, UnavailableError
from evercache.net.blocking import BlockingWire
from evercache.net.types import ConnectionOptions, Overdue, TLSOptions
from evercache.protocol.types import Address
from tests import interrupting
from tests.interrupting import Alarm, Interrupted, ticking, under_interrupts

host, port = sys.argv[1].rsplit(":", 1)
address = Address(host, int(port))
PLACES, ERROR = 8, Interrupted

def endpoint_of(address=address, **options):
    options = ConnectionOptions(connect_timeout=2.0, max_connections=PLACES, **options)
    return BlockingWire().endpoint(address, options)

def within(seconds):
    return monotonic() + seconds

def ask(endpoint, *command, seconds=5.0):
    return endpoint.execute([command], within(seconds))[0]

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def everything_is_back(endpoint, before):
    # Within a second nothing is in use, and all places can be used at the same time.
    end = within(1.0)
    while endpoint.outstanding and monotonic() < end:
        endpoint.sweep()
        time.sleep(0.01)
    assert endpoint.outstanding == 0, endpoint
    barrier = threading.Barrier(PLACES)
    def one(n):
        barrier.wait(5)
        return ask(endpoint, "BLPOP", f"none{n}", 0.3, seconds=3.0)
    with ThreadPoolExecutor(PLACES) as pool:
        assert list(pool.map(one, range(PLACES))) == [None] * PLACES
    assert descriptors() <= before + PLACES, (descriptors(), before)
    began = monotonic()
    for n in range(20):
        assert ask(endpoint, "ECHO", f"after {n}") == b"after %d" % n
    assert monotonic() - began < 2.0
    endpoint.disconnect()
    assert endpoint.outstanding == 0
    assert descriptors() <= before, (descriptors(), before)
"""

STORM = """
import itertools, random
if len(sys.argv) > 3:
    endpoint = endpoint_of(Address("127.0.0.1", int(sys.argv[3])), tls=TLSOptions(ca_certs=sys.argv[4]))
else:
    endpoint = endpoint_of()
KEYS = 200
for n in range(KEYS):
    ask(endpoint, "SET", f"key{n}", f"value {n}")
endpoint.disconnect()
before = descriptors()
numbers = itertools.count()
calls = failures = 0
expected = lambda greeting: True

def get():
    n = next(numbers) % KEYS
    reply = endpoint.get(f"key{n}", monotonic(), 2.0, expected)
    return reply == b"value %d" % n, n, reply

def get_late():
    n = next(numbers) % KEYS
    reply = endpoint.get(f"key{n}", monotonic(), 2.0, expected, random.choice((0.0, 2e-5, 1e-4)))
    if hasattr(reply, "abandon"):
        if n % 2:
            for _ in range(3):
                if reply.settle():
                    got = reply.result()
                    return got == [b"value %d" % n], n, got
        reply.abandon(lambda error: None)
        return True, n, None
    return reply == b"value %d" % n, n, reply

def many():
    n = next(numbers)
    texts = [f"{n}:{i}" for i in range(20)]
    replies = endpoint.execute([("ECHO", text) for text in texts], within(2.0))
    return replies == [text.encode() for text in texts], n, replies

def large():
    n = next(numbers)
    text = f"{n}:" + "x" * 300_000
    reply = ask(endpoint, "ECHO", text)
    return reply == text.encode(), n, reply[:40]

def again():
    endpoint.disconnect()
    return get()

steps = [get, get_late, many, large, again]
weights = [50, 50, 10, 1, 2]
def step():
    global calls, failures
    for chosen in random.choices(steps, weights, k=20):
        calls += 1
        try:
            right, *what = chosen()
        except (Overdue, DeadlineExceeded):
            failures += 1  # all connections owe answers, or one took longer than a hasty caller gives it
            continue
        if not right:
            print("WRONG", chosen.__name__, what, file=sys.stderr)
            os._exit(3)
        endpoint.sweep()

stop = threading.Event()
def beside():  # threads that share the pool; no handler runs in them
    while not stop.is_set():
        if not get()[0]:
            os._exit(4)
        time.sleep(0.005)

others = [threading.Thread(target=beside) for _ in range(2)]
for other in others:
    other.start()
try:
    raised = under_interrupts(
        step, raises=20_000, seconds=float(sys.argv[2]), shortest=2e-5, longest=1e-3, error=ERROR
    )
finally:
    stop.set()
for other in others:
    other.join()
print(raised, "raised", interrupting.swallowed, "swallowed", calls, "calls", failures, "failures")
assert interrupting.swallowed <= raised / 1000, "an exception of a handler is for the caller"
assert raised > 500 and calls > 200 and failures < calls / 4, (raised, calls, failures)
everything_is_back(endpoint, before)
"""


@pytest.mark.parametrize("error", ["Interrupted", "Alarm"])
def test_a_pool_under_a_handler_that_raises(valkey: Server, error: str) -> None:
    print(python(BEGIN + f"ERROR = {error}\n" + STORM, valkey.address, 10, quiet=True))


def test_a_pool_over_tls_under_a_handler_that_raises(valkey: Server, authority: Authority) -> None:
    with Peer(relay(valkey.port, tls=authority.server("127.0.0.1"))) as peer:
        given = (valkey.address, 8, peer.address.port, authority.ca_file)
        print(python(BEGIN + "ERROR = Alarm\n" + STORM, *given))


TASKS = """
import asyncio, gc, itertools, logging, random, socket
from collections import Counter
from evercache.net.pipelined import PipelinedWire
logging.disable(logging.CRITICAL)  # asyncio logs what a callback raised
wire = PipelinedWire()
endpoint = wire.endpoint(address, ConnectionOptions(connect_timeout=0.5))
expected = lambda greeting: True
KEYS = 200
numbers = itertools.count()
calls = failures = 0
said, last = Counter(), ['']
before = descriptors()
loop = asyncio.new_event_loop()
prepare = endpoint_of()
for n in range(KEYS):
    ask(prepare, "SET", f"key{n}", f"value {n}")
prepare.disconnect()

async def get():
    n = next(numbers) % KEYS
    late = random.choice((float("inf"), 1e-4))
    reply = await endpoint.get(f"key{n}", monotonic(), 0.5, expected, late)
    if hasattr(reply, "abandon"):
        reply = (await reply.future)[0]
    return reply == b"value %d" % n, n, reply

async def some():
    n = next(numbers)
    texts = [f"{n}:{i}" for i in range(5)]
    replies = await endpoint.execute([("ECHO", text) for text in texts], within(0.5))
    return replies == [text.encode() for text in texts], n, replies

async def large():
    n = next(numbers)
    text = f"{n}:" + "x" * 200_000
    reply = (await endpoint.execute([("ECHO", text)], within(0.5)))[0]
    return reply == text.encode(), n, reply[:40]

phase = 0  # a task that an interrupted loop lost may go on in the next one

async def one():
    global calls, failures
    mine = phase
    for chosen in random.choices((get, some, large), (20, 4, 1), k=6):
        if mine != phase:
            return
        calls += 1
        try:
            right, *what = await chosen()
        except UnavailableError as error:
            if mine == phase:
                failures += 1
                said[type(error).__name__] += 1
                last[0] = str(error)
            continue
        if not right:
            print("WRONG", chosen.__name__, what, file=sys.stderr)
            os._exit(3)

async def batch(tasks=6):
    await asyncio.wait([asyncio.ensure_future(one()) for _ in range(tasks)], timeout=2.0)

def renew():
    global loop
    asyncio._set_running_loop(None)
    old, loop = loop, asyncio.new_event_loop()
    old._thread_id = None
    old.close()

def step():
    # asyncio itself may be interrupted, in its own `finally`: such a loop is of no use any more.
    if loop.is_running() or loop.is_closed() or asyncio._get_running_loop() is not None:
        renew()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    try:
        loop.run_until_complete(batch())
    except (RuntimeError, ValueError) as error:
        if type(error) is not ValueError and "loop" not in str(error):
            raise
        renew()

error = {"KeyboardInterrupt": KeyboardInterrupt, "Interrupted": Interrupted}[sys.argv[3]]
raised = under_interrupts(step, raises=20_000, seconds=float(sys.argv[2]), shortest=2e-5, longest=3e-3, error=error)
print(raised, "raised", calls, "calls", failures, "failures")
assert raised > 300 and calls > 500, (raised, calls)
step()
step()
time.sleep(0.2)
began, failures, calls, phase = monotonic(), 0, 0, 1
said.clear()
for _ in range(5):
    step()
print(monotonic() - began, calls, failures, endpoint, said, last)
assert not failures and calls == 5 * 6 * 6, (calls, failures)
assert monotonic() - began < 4.0
gc.collect()  # tasks that the loop has lost
assert endpoint.outstanding == 0, endpoint._all_slots()
for task in asyncio.all_tasks(loop):
    task.cancel()
async def end():
    endpoint.disconnect()
    await asyncio.sleep(0.05)
loop.run_until_complete(end())
loop.close()
del loop
gc.collect()
# A task that the loop itself has lost keeps the socket that it was connecting.
assert descriptors() <= before + 10, (descriptors(), before)
"""


@pytest.mark.parametrize("error", ["Interrupted", "KeyboardInterrupt"])
def test_tasks_under_a_handler_that_raises(valkey: Server, error: str) -> None:
    print(python(BEGIN + TASKS, valkey.address, 10, error, timeout=60))


RAW = """
import itertools, random
from redis.exceptions import ConnectionError, RedisError
from evercache import Cache
from evercache.raw import RawClients
raw = RawClients(wait=1.0, socket_timeout=2.0, retry=0, max_connections=PLACES)
cache = Cache(f"redis://{address}", namespace="raw")
raw.attach(cache)
client = raw.master
KEYS = 200
for n in range(KEYS):
    client.set(f"raw{n}", f"value {n}")
before = descriptors()
numbers = itertools.count()
calls = failures = 0

def step():
    global calls, failures
    for _ in range(20):
        calls += 1
        n = next(numbers) % KEYS
        try:
            if n % 10:
                right = client.get(f"raw{n}") == b"value %d" % n
            else:
                pipeline = client.pipeline(transaction=False)
                for i in range(3):
                    pipeline.echo(f"{n}:{i}")
                right = pipeline.execute() == [b"%d:%d" % (n, i) for i in range(3)]
        except RedisError as error:
            failures += 1
            last = error
            if not isinstance(error, ConnectionError):
                raise
            continue
        if not right:
            print("WRONG", n, file=sys.stderr)
            os._exit(3)

raised = under_interrupts(step, raises=20_000, seconds=float(sys.argv[2]), shortest=2e-5, longest=2e-3)
print(raised, "raised", calls, "calls", failures, "failures")
assert raised > 500 and calls > 500, (raised, calls)
barrier = threading.Barrier(PLACES)
def one(n):
    barrier.wait(5)
    return client.blpop(f"none{n}", 0.3)
with ThreadPoolExecutor(PLACES) as pool:
    assert list(pool.map(one, range(PLACES))) == [None] * PLACES
failures = 0
step()
assert not failures
assert descriptors() <= before + PLACES, (descriptors(), before)
cache.close()
"""


def test_raw_clients_under_a_handler_that_raises(valkey: Server) -> None:
    print(python(BEGIN + RAW, valkey.address, 8))


FROZEN = """
import asyncio, signal, socket
from unittest import mock
from redis.exceptions import RedisError
from evercache.raw import RawClients
from evercache import Cache
from evercache.client.waits import SyncWaits
from evercache.net import names
from evercache.net.pipelined import PipelinedWire

_, _, server, hertz, tls, ca = sys.argv
server, hertz, BUDGET = int(server), float(hertz), 0.3
expected = lambda greeting: True
failed, exchanges = [], []

def limited(name, wait, budget=BUDGET):
    began = monotonic()
    try:
        outcome = wait()
    except (UnavailableError, OSError, RedisError) as error:
        outcome = type(error).__name__
    took = monotonic() - began
    print(f"{took:6.3f} s {name}: {outcome}")
    if not took <= budget + 1.0:
        failed.append(name)

def get(endpoint, late=float("inf")):
    return endpoint.get("key", monotonic(), BUDGET, expected, late)

LARGE = ("SET", "big", b"x" * 30_000_000)
warm = [endpoint_of() for _ in range(5)]
one = BlockingWire().endpoint(address, ConnectionOptions(max_connections=1))
behind_tls = Address("127.0.0.1", int(tls))
secure = [endpoint_of(behind_tls, tls=TLSOptions(ca_certs=ca)) for _ in range(2)]
for endpoint in (*warm, one, *secure):
    ask(endpoint, "PING")
raw = RawClients(wait=BUDGET, socket_timeout=BUDGET, retry=0)
cache = Cache(f"redis://{address}", namespace="frozen")
raw.attach(cache)
raw.master.ping()

async def asynchronous():
    wire = PipelinedWire().endpoint(address, ConnectionOptions(connect_timeout=2.0))
    await wire.execute([("PING",)], within(2))
    os.kill(server, signal.SIGSTOP)
    began = monotonic()
    try:
        await wire.get("key", began, BUDGET, expected)
    except UnavailableError as error:
        print(f"{monotonic() - began:6.3f} s asyncio: {type(error).__name__}")
    if monotonic() - began > BUDGET + 1.0:
        failed.append("asyncio")

full = socket.socket()
full.bind(("127.0.0.1", 0))
full.listen(0)
waiting = [socket.socket() for _ in range(4)]
for each in waiting:
    each.setblocking(False)
    each.connect_ex(full.getsockname())
silent = socket.create_server(("127.0.0.1", 0))

def slowly(*_):
    time.sleep(3.0)
    raise OSError

try:
    with ticking(hertz) as ticks:
        asyncio.run(asynchronous())  # from here on, the server is frozen
        limited("a question", lambda: get(warm[0]))
        limited("a question that is late", lambda: exchanges.append(get(warm[1], 0.1)), 0.1)
        limited("a question that is late soon", lambda: exchanges.append(get(warm[2], 0.01)), 0.01)
        limited("the late ones", lambda: SyncWaits.first(exchanges, BUDGET))
        limited("two answers", lambda: warm[3].execute([("GET", "a"), ("GET", "b")], within(BUDGET)))
        limited("more than buffers take", lambda: warm[4].execute([LARGE], within(BUDGET)))
        limited("a greeting", lambda: ask(endpoint_of(), "PING", seconds=BUDGET))
        limited("TLS", lambda: get(secure[0]))
        limited("more than TLS takes", lambda: secure[1].execute([LARGE], within(BUDGET)))
        unanswered = endpoint_of(Address(*silent.getsockname()), tls=TLSOptions(ca_certs=ca))
        limited("a TLS handshake", lambda: ask(unanswered, "PING", seconds=BUDGET))
        limited("a connection", lambda: ask(endpoint_of(Address(*full.getsockname())), "PING", seconds=BUDGET))
        holder = threading.Thread(target=lambda: limited("the holder", lambda: ask(one, "PING", seconds=2.0), 2.0))
        holder.start()
        while not one.outstanding:
            time.sleep(0.01)
        limited("a place in the pool", lambda: ask(one, "PING", seconds=BUDGET))
        with mock.patch.object(names, "look_up", slowly):
            limited("a name", lambda: ask(endpoint_of(Address("slow.example")), "PING", seconds=BUDGET))
        limited("a raw client", lambda: raw.master.get("key"), BUDGET)
        holder.join()
        assert ticks.ticks > 50
finally:
    os.kill(server, signal.SIGCONT)
    cache.close()
assert not failed, failed
"""


#: Where the system's `recv` cannot be called.
FALLBACK = """
from evercache.net import sockets
sockets.interruptible_receive = None
"""


@pytest.mark.parametrize(("hertz", "before"), [(100, ""), (1000, ""), (100, FALLBACK)], ids=["100", "1000", "poll"])
def test_every_wait_ends_at_its_deadline_under_a_profiler(
    valkey: Server, authority: Authority, hertz: int, before: str
) -> None:
    """A signal restarts a blocking `recv` of Python with the whole time-out of its socket."""
    with Peer(relay(valkey.port, tls=authority.server("127.0.0.1"))) as peer:
        given = (valkey.address, valkey.process.pid, hertz, peer.address.port, authority.ca_file)
        try:
            print(python(before + BEGIN + FROZEN, *given, timeout=60))
        finally:
            valkey.process.send_signal(signal.SIGCONT)
