# Each target sets up what it needs in .venv; nothing else on the machine is touched.
PYTHON ?= python3
PY := .venv/bin/python
STAMPS := .venv/.stamps

.PHONY: demo test unit real long sim faults soak bench-invalidate bench-hits lint types twins format clean

demo: $(STAMPS)/demo ## run the main job: a cached site whose servers die while it is read
	$(PY) -m evercache demo

test: $(STAMPS)/dev lint types ## everything that must pass before a change lands
	$(PY) -m pytest tests -n 2 --dist loadfile

unit: $(STAMPS)/dev ## the pure part only, in seconds
	$(PY) -m pytest tests/unit

real: $(STAMPS)/dev ## the tests on real servers only
	$(PY) -m pytest tests/real

long: $(STAMPS)/dev ## the long matrices, which `make test` leaves out
	$(PY) -m pytest tests -m long

bench-invalidate: $(STAMPS)/dev ## an invalidation takes as long for a million entries as for a thousand
	$(PY) -m benchmarks.invalidate

bench-hits: $(STAMPS)/dev ## what a hit costs, and where its time goes
	$(PY) -m benchmarks.hits

sim: $(STAMPS)/dev ## many schedules of the simulator, and every wrong change that it must catch
	$(PY) -m tests.sim 1000000 --count 20000 --matrix

faults: $(STAMPS)/dev ## every fault on real servers under load, and 40 failovers; writes docs/faults.md
	$(PY) -m tests.faults; matrix=$$?; $(PY) -m tests.faults failovers && exit $$matrix

soak: $(STAMPS)/dev ## ten minutes of random faults under load; writes docs/faults.md
	$(PY) -m tests.faults soak --minutes 10

lint: $(STAMPS)/dev twins
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

twins: $(STAMPS)/dev ## the sync twin must be what the generator makes of the async text
	$(PY) tools/async_to_sync.py --check

types: $(STAMPS)/dev
	$(PY) -m mypy
	$(PY) -m pyright

format: $(STAMPS)/dev
	$(PY) tools/async_to_sync.py
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

$(STAMPS)/demo: pyproject.toml | .venv/bin/python
	$(PY) -m pip install --quiet --editable '.[demo]'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: pyproject.toml | .venv/bin/python
	$(PY) -m pip install --quiet --editable '.[dev]'
	@mkdir -p $(STAMPS) && touch $@
