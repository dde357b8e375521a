# Each target sets up what it needs in .venv; nothing else on the machine is touched.
PYTHON ?= python3
PY := .venv/bin/python
STAMPS := .venv/.stamps
BENCH := .venv-bench
FUZZ := .venv-fuzz
AUDIT := .venv-audit
# Each test on real servers so many times, by so many processes: most of the tests wait most of the time.
TIMES ?= 1
PROCESSES ?= 4
REAL = $(PY) -m pytest tests/real -n $(PROCESSES) --dist worksteal

.PHONY: help demo test unit real long suites interrupts sim mutants fuzz audit sbom faults soak exhaustion bench bench-invalidate bench-profile lint types twins format clean

help: ## every target, with what it does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMPS)/demo ## run the main job: a cached site whose servers die while it is read
	$(PY) -m evercache demo

test: $(STAMPS)/dev lint types ## everything that must pass before a change lands
	$(PY) -m pytest tests/unit tests/sim tests/fuzz -n 2 --dist worksteal
	$(REAL) -m "not long and not storm"
	$(PY) -m pytest tests/real -n 2 --dist worksteal -m "storm and not long"

unit: $(STAMPS)/dev ## the pure part only, in seconds
	$(PY) -m pytest tests/unit

real: $(STAMPS)/dev ## the tests on real servers only; TIMES=20: each so many times, in any order, up to the first failure
	$(REAL) --count $(TIMES) --repeat-scope session --maxfail 1

long: $(STAMPS)/dev ## the long matrices, which `make test` leaves out
	$(PY) -m pytest tests -m long

suites: $(STAMPS)/dev ## other people's tests, unchanged: those of cachelib and Flask-Caching, on memory, one server, Sentinel
	$(PY) -m tests.suites $(ARGS)

interrupts: $(STAMPS)/dev ## 20,000 exceptions of signal handlers at random moments in every operation, five seeds, threads and tasks
	$(PY) -m tests.interrupts $(ARGS)

bench: $(BENCH)/.ready ## ours and other libraries, measured in turn; ARGS="--quick" for a look, "--only hit"
	$(BENCH)/bin/python -m benchmarks $(ARGS)

bench-invalidate: $(STAMPS)/dev ## an invalidation takes as long for a million entries as for a thousand
	$(PY) -m benchmarks.invalidate

bench-profile: $(STAMPS)/dev ## where the time of a hit goes, function by function
	$(PY) -m benchmarks.hotspots

sim: $(STAMPS)/dev ## many schedules of the simulator, and every wrong change that it must catch
	$(PY) -m tests.sim 1000000 --count 20000 --matrix

mutants: $(STAMPS)/dev ## small random faults in copies of the code: which tests notice them; ARGS="--seed 2 --sample 60 --real"
	$(PY) -m tests.mutants $(ARGS)

fuzz: $(FUZZ)/.ready ## every parser: both fuzzers find planted bugs, then hunt for 10 minutes; ARGS="--no-plant url"
	$(FUZZ)/bin/python -m tests.fuzz $(ARGS)

audit: $(AUDIT)/.ready ## known vulnerabilities of all that an installation with all extras brings; fails where it cannot ask
	mkdir -p build
	$(AUDIT)/all/bin/python -m pip freeze --exclude evercache > build/audited.txt
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r build/audited.txt

sbom: $(AUDIT)/.ready ## what an installation with all extras consists of, as CycloneDX: build/evercache.cdx.json
	mkdir -p build
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file build/evercache.cdx.json $(AUDIT)/all/bin/python

faults: $(STAMPS)/dev ## every fault on real servers under load, and 40 failovers; writes docs/faults.md
	$(PY) -m tests.faults; matrix=$$?; $(PY) -m tests.faults failovers && exit $$matrix

soak: $(STAMPS)/dev ## ten minutes of random faults under load; writes docs/faults.md
	$(PY) -m tests.faults soak --minutes 10

exhaustion: $(STAMPS)/dev ## descriptors, threads and memory missing for a second at 50 random moments; on an idle machine
	$(PY) -m tests.exhaustion --moments 50 --strict $(ARGS)

lint: $(STAMPS)/dev twins ## ruff, the layers of the imports, and the twins
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(dir $(PY))lint-imports

twins: $(STAMPS)/dev ## the sync twin must be what the generator makes of the async text
	$(PY) tools/async_to_sync.py --check

types: $(STAMPS)/dev ## mypy (strict) and pyright
	$(PY) -m mypy
	$(PY) -m pyright

format: $(STAMPS)/dev ## write the twins anew, and format
	$(PY) tools/async_to_sync.py
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove the environments and caches that these targets made
	rm -rf .venv $(BENCH) $(FUZZ) $(AUDIT) .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

$(STAMPS)/demo: pyproject.toml | .venv/bin/python
	$(PY) -m pip install --quiet --editable '.[demo]'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: pyproject.toml | .venv/bin/python
	$(PY) -m pip install --quiet --editable '.[dev]'
	@mkdir -p $(STAMPS) && touch $@

# All other libraries at once; if that fails one by one, and what cannot be installed is left out.
$(BENCH)/.ready: pyproject.toml benchmarks/peers.txt
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --editable '.[server,flask]'
	$(BENCH)/bin/python -m pip install --quiet -r benchmarks/peers.txt || \
	  grep -v '^#' benchmarks/peers.txt | while read -r peer; do \
	    $(BENCH)/bin/python -m pip install --quiet "$$peer" || echo "left out: $$peer"; done
	@touch $@

$(FUZZ)/.ready: pyproject.toml
	test -x $(FUZZ)/bin/python || $(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet --editable '.[server,flask,redis]' atheris hypothesis
	@touch $@

# The tools in one environment, and in another what a user gets: the library itself, with all extras.
$(AUDIT)/.ready: pyproject.toml
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet pip-audit cyclonedx-bom
	rm -rf $(AUDIT)/all && $(PYTHON) -m venv $(AUDIT)/all
	$(AUDIT)/all/bin/python -m pip install --quiet --upgrade pip setuptools
	$(AUDIT)/all/bin/python -m pip install --quiet '.[all,flask]'
	@touch $@
