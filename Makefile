# `make help` lists what there is. Written for GNU make (3.81 too, which macOS has) and for BSD make.
PYTHON = python3
VENV = .venv
ARGS =
JOBS = 2
MINUTES = 10
SECONDS =
SCENARIO =
PEER =
QUICK =
ROUNDS =

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES = pyproject.toml setup.py csrc/*.h csrc/*.py csrc/*/*.c csrc/*/*.h
STRICT = -std=gnu11 -O2 -Wall -Wextra -Wshadow -Wconversion -Werror
OBJECT = .cache/lint.o

help:
	@echo 'make run     build into $(VENV) and serve on 0.0.0.0:8080; options: make run ARGS="--port 9000"'
	@echo 'make test    run the tests; one file: make test ARGS=tests/test_messages.py'
	@echo 'make simulate   run the C server on a scripted system for ever; one seed again: ARGS="--replay 123"'
	@echo 'make fuzz       run the fuzz targets with clang, each for SECONDS=60'
	@echo 'make soak       clients of all kinds for MINUTES=10, while memory and descriptors are watched'
	@echo 'make c100k      hold 100,000 connections over several server processes (Linux)'
	@echo 'make coverage   which lines of the C the tests run, with a floor for each file (gcc)'
	@echo 'make mutants    break the C in one place at a time, and count how often the tests notice'
	@echo 'make sanitize   a part of the tests with the C module under ASan and UBSan (gcc, Linux)'
	@echo 'make lint    check style, types and compiler warnings'
	@echo 'make cross   compile and link for macOS and the BSDs, and look at what came out'
	@echo 'make macos-wheels   make the macOS wheels in .cache/macos, look at them and run their C core'
	@echo 'make bench   measure beside other servers (Linux): SCENARIO=echo PEER=libuv,uvloop QUICK=1; see bench/README.md'
	@echo 'make bench-report     write docs/performance.md anew from what was measured'
	@echo 'make compare-pollers  select, poll and epoll under the same server, as idle connections grow'
	@echo 'make clean   remove all that was made here'
	@echo 'Another interpreter or compiler: make test PYTHON=python3.12 CC=clang'

# exec: Ctrl-C then reaches the server and make, with no shell between them that could end first. The quotes are for
# BSD make, which knows by such a character that a command needs the shell.
run: $(VENV)/.installed
	@exec '$(BIN)/python' -m kqnative $(ARGS)

test: $(VENV)/.installed $(VENV)/.test
	@exec '$(BIN)/python' -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

simulate:
	@exec $(PYTHON) tests/simulate.py $(ARGS)

fuzz:
	@seconds='$(SECONDS)'; exec $(PYTHON) tests/fuzz.py --seconds "$${seconds:-60}" $(ARGS)

soak: $(VENV)/.installed $(VENV)/.test
	@exec '$(BIN)/python' tests/soak.py --minutes '$(MINUTES)' $(ARGS)

c100k: $(VENV)/.installed $(VENV)/.test
	@exec '$(BIN)/python' tests/c100k.py $(ARGS)

coverage: $(VENV)/.installed $(VENV)/.test
	@exec '$(BIN)/python' tests/coverage.py

mutants:
	@exec $(PYTHON) tests/mutate.py $(ARGS)

sanitize: $(VENV)/.installed $(VENV)/.test
	@exec '$(BIN)/python' tests/sanitize.py $(ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict kqnative
	$(BIN)/validate-pyproject pyproject.toml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema custom.github-workflows-require-timeout .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	$(BIN)/zizmor --offline --no-progress --quiet --pedantic .github
	for platform in macos linux; do \
	    $(BIN)/cibuildwheel --print-build-identifiers --platform $$platform . || echo failed; \
	done | LC_ALL=C sort | diff tests/build-identifiers.txt -
	find csrc tests/c tests/fuzz bench -name '*.[ch]' -exec $(BIN)/clang-format --dry-run -Werror {} +
	@mkdir -p .cache
	@python=`$(BIN)/python -c 'import sysconfig as s; print("-isystem", s.get_path("include"), \
	    "" if s.get_config_var("Py_GIL_DISABLED") else "-DPy_LIMITED_API=0x030b0000")'` && \
	bench= && if test "`uname`" = Linux; then bench=bench; fi && \
	for file in `find csrc tests/c tests/fuzz $$bench -name '*.c'`; do \
	    case $$file in \
	    csrc/server/hook.c) more=$$python;; \
	    bench/peers/libuv/*) test -f /usr/include/uv.h || continue; more=;; \
	    *) more=;; \
	    esac; \
	    $(CC) $(STRICT) -Icsrc $$more -c -o $(OBJECT) $$file || exit 1; \
	done; \
	rm -f $(OBJECT); echo 'no compiler warnings'

cross: $(VENV)/.cross
	@exec '$(BIN)/python' tests/cross.py $(ARGS)

macos-wheels: $(VENV)/.macos
	@exec '$(BIN)/python' tests/macos $(ARGS)

bench: $(VENV)/.installed $(VENV)/.bench
	@quick='$(QUICK)'; exec '$(BIN)/python' bench/run.py $${quick:+--quick} --scenario '$(SCENARIO)' --peer '$(PEER)' \
	    --rounds '$(ROUNDS)' --seconds '$(SECONDS)' $(ARGS)

bench-report: $(VENV)/.installed $(VENV)/.bench
	@exec '$(BIN)/python' bench/report.py

compare-pollers: $(VENV)/.installed $(VENV)/.bench
	@quick='$(QUICK)'; exec '$(BIN)/python' bench/pollers.py $${quick:+--quick} $(ARGS)

clean:
	rm -rf $(VENV) .cache build dist *.egg-info kqnative/_kq*.so kqnative/_kq.c
	rm -rf .hypothesis .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -exec rm -rf {} +

# The environment is made again when it is not one of $(PYTHON). Dependency groups need pip 25.1.
$(VENV)/.python: always
	@ask='import sys; print(sys.version, sys.base_prefix)'; \
	want=`$(PYTHON) -c "$$ask"` || exit 1; \
	have=`$(BIN)/python -c "$$ask" 2>/dev/null`; \
	if test "$$want" != "$$have"; then \
	    echo 'making $(VENV)'; \
	    $(PYTHON) -m venv --clear $(VENV) || exit 1; \
	fi; \
	test -f $@ || { $(PIP) install --upgrade 'pip>=25.1' && touch $@; }

$(VENV)/.installed: $(VENV)/.python $(SOURCES)
	@echo 'building kqnative'
	@PYTHONWARNINGS=ignore $(PIP) install --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml
	$(PIP) install --group test
	@touch $@

$(VENV)/.lint: $(VENV)/.python pyproject.toml
	$(PIP) install --group lint
	@touch $@

$(VENV)/.cross: $(VENV)/.python pyproject.toml
	$(PIP) install --group cross
	@touch $@

$(VENV)/.macos: $(VENV)/.python pyproject.toml
	$(PIP) install --group macos
	@touch $@

$(VENV)/.bench: $(VENV)/.python pyproject.toml
	$(PIP) install --group bench
	@touch $@

always:

# One pip at a time.
.NOTPARALLEL:
.PHONY: help run test simulate fuzz soak c100k coverage mutants sanitize lint cross macos-wheels bench bench-report compare-pollers clean always
