"""`make mutants`: the edits that it makes, and that it tells a test that notices one from a test that does not."""

from __future__ import annotations

import ast
from pathlib import Path

import lupa.luajit21
import pytest
from tests.mutants.cli import all_mutants, main
from tests.mutants.lua_edits import lua_edits
from tests.mutants.mutant import PACKAGE, named, rank
from tests.mutants.python_edits import blocks, python_edits
from tests.mutants.reach import Reach
from tests.mutants.report import EQUIVALENT, equivalents
from tests.mutants.stages import judge
from tests.mutants.workshop import ROOT, Workshop

SOURCE = b'''\
class A:
    def f(self, x: int = 3, *, y: "float" = 0.5) -> int:
        """Says 1 < 2."""
        if x < len(self.a) and not y:
            self.a[x] = max(x, 2)
        elif x is None:
            raise ValueError("no 1")
        else:
            log.warning("x %d", 1)
        return x if y else x + 1

    def __repr__(self) -> str:
        return "A" * 2
'''
SCRIPT = b"""\
-- 1 < 2
local function later(a)
  local n = math.max(a, 2) - 1
  if n >= tonumber(a) and not wide then
    redis.call('SET', KEYS[1], n, 'a < b')
    limit = n
  end
  return false
end
"""


def changes(path: str, source: bytes) -> set[str]:
    edits = (lua_edits if path.endswith(".lua") else python_edits)(source)
    return {f"{it.edit.operator}: {it.before} → {it.after}" for it in named(path, source, edits)}


def test_what_is_changed_in_python() -> None:
    condition = "x < len(self.a) and not y"
    statement = "self.a[x] = max(x, 2)"
    returned = "return x if y else x + 1"
    assert changes("a.py", SOURCE) == {
        "constant: 3 → 4",
        "constant: 0.5 → 1.0",
        f"negated condition: {condition} → not ({condition})",
        f"comparison: {condition} → x <= len(self.a) and not y",
        f"boundary: {condition} → x < (len(self.a) - 1) and not y",
        f"boundary: {condition} → x < (len(self.a) + 1) and not y",
        f"boolean: {condition} → x < len(self.a) or not y",
        f"dropped statement: {statement} → pass",
        f"dropped max or min: {statement} → self.a[x] = (x)",
        f"dropped max or min: {statement} → self.a[x] = (2)",
        f"constant: {statement} → self.a[x] = max(x, 3)",
        "comparison: x is None → x is not None",
        'dropped statement: raise ValueError("no 1") → pass',
        f"swapped branches: {returned} → return x + 1 if y else x",
        f"arithmetic: {returned} → return x if y else x - 1",
        f"constant: {returned} → return x if y else x + 2",
    }


def test_what_is_changed_in_lua() -> None:
    first = "local n = math.max(a, 2) - 1"
    condition = "if n >= tonumber(a) and not wide then"
    call = "redis.call('SET', KEYS[1], n, 'a < b')"
    assert changes("a.lua", SCRIPT) == {
        f"dropped max or min: {first} → local n = (a) - 1",
        f"dropped max or min: {first} → local n = (2) - 1",
        f"constant: {first} → local n = math.max(a, 3) - 1",
        f"constant: {first} → local n = math.max(a, 2) - 2",
        f"arithmetic: {first} → local n = math.max(a, 2) + 1",
        f"comparison: {condition} → if n > tonumber(a) and not wide then",
        f"boundary: {condition} → if n >= (tonumber(a) - 1) and not wide then",
        f"boundary: {condition} → if n >= (tonumber(a) + 1) and not wide then",
        f"boolean: {condition} → if n >= tonumber(a) or not wide then",
        f"negated condition: {condition} → if not (n >= tonumber(a) and not wide) then",
        f"dropped statement: {call} → ",
        f"constant: {call} → redis.call('SET', KEYS[2], n, 'a < b')",
        "dropped statement: limit = n → ",
        "constant: return false → return true",
    }


@pytest.mark.parametrize("path", ["protocol/scripts/lease.lua", "protocol/scripts/hold.lua", "engine/tail.py"])
def test_every_mutant_can_be_compiled(path: str) -> None:
    source = (ROOT / PACKAGE / path).read_bytes()
    lua = lupa.luajit21.LuaRuntime(encoding=None)
    mutants = all_mutants(only=[path])
    assert len({it.id for it in mutants}) == len(mutants) > 40
    for it in mutants:
        text = it.applied(source)
        assert text != source
        if path.endswith(".lua"):
            lua.eval(b"function() " + text + b"\nend")
        else:
            ast.parse(text)


def test_ids_and_the_sample_survive_changes_elsewhere() -> None:
    before = list(named("a.py", SOURCE, python_edits(SOURCE)))
    more = SOURCE + b"    def g(self):\n        return self.a - 1\n"
    changed = b"# more\n\n" + more
    after = list(named("a.py", changed, python_edits(changed)))
    assert {it.id for it in before} < {it.id for it in after}
    old = {it.id for it in before}
    assert [it.id for it in rank(before, 7)] == [it.id for it in rank(after, 7) if it.id in old]
    assert [it.id for it in rank(before, 7)] != [it.id for it in rank(before, 8)]


def test_equal_statements_of_a_function_are_told_apart() -> None:
    source = b"def f(a):\n    a.b()\n    a.b()\n"
    first, second = named("a.py", source, python_edits(source))
    assert (first.before, first.line) == (second.before, second.line - 1)
    assert first.id != second.id


def test_a_block_is_reached_where_its_first_statement_runs() -> None:
    found = list(blocks(SOURCE))
    # The body of `f` (nothing can be put before its docstring), of `if`, `elif` and `else`, of `__repr__`.
    assert [(first, line) for first, _, line, _ in found] == [(3, 4), (5, 5), (7, 7), (9, 9), (13, 13)]


def test_every_equivalent_mutant_has_a_reason(tmp_path: Path) -> None:
    assert all(len(reason.split()) > 3 for reason in equivalents(EQUIVALENT).values())
    (bad := tmp_path / "bad.txt").write_text("12345678 | a.py f | constant: 1 → 2\n")
    with pytest.raises(ValueError, match=r"bad\.txt:1: write id"):
        equivalents(bad)


def test_a_mistake_in_an_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for options, text in ((["--only", "nowhere"], "no such file or folder"), (["--replay", "0"], "no mutant has")):
        with pytest.raises(SystemExit):
            main(options)
        assert text in capsys.readouterr().err


def test_a_copy_is_mutated_with_its_twin_and_the_project_is_not() -> None:
    path, twin = "client/_async/sweeping.py", "client/_sync/sweeping.py"
    it = next(it for it in all_mutants(only=[path]) if it.edit.operator == "comparison")
    project = [(ROOT / PACKAGE / name).read_bytes() for name in (path, twin)]
    with Workshop.opened() as workshop:
        assert [workshop.read(path), workshop.read(twin)] == project
        with workshop.mutated(it):
            mutated = [workshop.read(path), workshop.read(twin)]
            imported = workshop.run("-c", "import evercache; print(evercache.__file__)", limit=60).output
        assert all(new != old for new, old in zip(mutated, project, strict=True))
        assert imported.startswith(str(workshop.root))
        assert [workshop.read(path), workshop.read(twin)] == project
        folder = workshop.root
    assert [(ROOT / PACKAGE / name).read_bytes() for name in (path, twin)] == project
    assert not folder.exists()


def test_a_test_that_notices_a_mutant_is_named() -> None:
    """Both verdicts, on a real copy: one that a file of tests notices, and one of which it sees nothing."""
    units = "tests/unit/test_freshness.py"
    mutants = all_mutants(only=["protocol/freshness.py"])
    noticed = next(it for it in mutants if "self.need(subject, tags) + 1" in it.after)
    with Workshop.opened() as workshop:
        verdict = judge(workshop, noticed, Reach([], {units: set()}, {units: 1.0}), real=False)
        assert verdict.stage == "unit"
        assert verdict.by.startswith(f"{units}::test_")
        other = next(it for it in all_mutants(only=["topology/sentinel.py"]) if it.edit.operator == "comparison")
        verdict = judge(workshop, other, Reach([], {units: set()}, {units: 1.0}), real=False)
        assert verdict.survived
        assert verdict.by == "no schedule, 1 file of unit tests"
        hung = workshop.run("-c", "import time; print('on', flush=True); time.sleep(600)", limit=5)
        assert (hung.code, hung.output) == (None, "on\n")
