"""The hot path in forks, in two event loops, and at an interpreter's end; each in an interpreter of its own."""

from __future__ import annotations

import pytest
from tests.real.test_processes import run
from tests.servers import Server


@pytest.fixture(params=[0, 30], ids=["store", "near"])
def near(request: pytest.FixtureRequest) -> int:
    seconds: int = request.param
    return seconds


LOOPS = """
import random
async def main(number):
    cache = CACHE
    for turn in range(20):
        tasks = [asyncio.create_task(f(n)) for n in range(64)]
        await asyncio.sleep(0.001 * random.random())
        gone = random.sample(range(64), 16)
        for n in gone:
            tasks[n].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for n, result in enumerate(results):
            assert result == f"v{n}" or (n in gone and isinstance(result, asyncio.CancelledError)), (n, result)
CACHE = Cache(URL, budget=1.0)
@CACHE.cached
async def f(n):
    return f"v{n}"
def in_loop(number):
    if sys.argv[2] == "uvloop":
        import uvloop
        uvloop.run(main(number))
    else:
        asyncio.run(main(number))
threads = [threading.Thread(target=in_loop, args=(n,)) for n in range(2)]
for t in threads: t.start()
for t in threads: t.join()
put(hits=f.stats().counters.hits, failures=f.stats().counters.failures)
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_two_loops_of_sixty_four_tasks_with_some_cancelled(valkey: Server, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    (found,), err = run(LOOPS, valkey.url, loop)
    assert err == ""
    assert found["hits"] > 1000
    assert found["failures"] == 0


FORK = """
cache = Cache(URL, beta=0)
@cache.cached(near=%d)
def page(n):
    runs.append(n)
    return [n, len(runs)]
until(lambda: cache.stamp() is not None)
for _ in range(20): page(1)
children = []
may, let = os.pipe()  # the last child invalidates once the parent has read
for number in range(3):
    child = os.fork()
    if not child:
        code = 1
        try:
            until(lambda: cache.stamp() is not None)
            assert page(1) == [1, 1], page(1)
            before = page.stats().counters.hits
            for _ in range(50): assert page(1) == [1, 1]
            assert page.stats().counters.hits == before + 50
            if number == 2:
                os.read(may, 1)
                page.invalidate(1)
                assert page(1) == [1, 2]
            code = 0
        except AssertionError:
            traceback.print_exc()
        finally:
            os._exit(code)
    for _ in range(50): assert page(1) == [1, 1]
    if number == 2: os.write(let, b"!")
    assert os.waitpid(child, 0)[1] == 0
until(lambda: page(1) == [1, 2])
put(runs=len(runs))
"""


def test_a_warm_hot_path_is_forked(valkey: Server, near: int) -> None:
    (found,), err = run(FORK % near, valkey.url)
    assert err == ""
    assert found["runs"] == 1, "the child computed, the parent did not"


EXIT = """
cache = Cache(URL)
@cache.cached(near=0)
def page(n):
    return n
for n in range(5): page(n)
def forever():
    while True:
        for n in range(5): page(n)
for _ in range(3): threading.Thread(target=forever, daemon=True).start()
time.sleep(0.3)
put(hits=page.stats().counters.hits > 100)
"""


def test_an_interpreter_that_ends_in_the_middle_of_hits_ends_quietly(valkey: Server) -> None:
    (found,), err = run(EXIT, valkey.url)
    assert found["hits"]
    assert err == ""
