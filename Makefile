# Each command sets itself up: python3 (with venv) and a network to PyPI are all it takes.
PYTHON3 := python3
VENV := .venv
BIN := $(VENV)/bin
# Interpreters of pyenv are found without being activated; those already on the PATH stay in front.
PYENV_ROOT ?= $(HOME)/.pyenv
EMPTY :=
PYENV_BINS := $(subst $(EMPTY) $(EMPTY),:,$(sort $(wildcard $(PYENV_ROOT)/versions/*/bin)))
export PATH := $(PATH):$(PYENV_BINS)
# The pip that virtualenv has with it: a newer one, which it finds by itself, may be none for Python 3.6.
export VIRTUALENV_OVERRIDE_APP_DATA := $(CURDIR)/$(VENV)/virtualenv
export VIRTUALENV_NO_PERIODIC_UPDATE := 1

.PHONY: all demo test coverage mutate lint package bench clean
all: test package

$(VENV)/ready: tests/requirements.txt
	@$(PYTHON3) -c 'import ensurepip' 2>/dev/null || { echo 'python3 has no venv: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON3) -m venv --clear $(VENV)
	$(BIN)/pip --quiet --disable-pip-version-check install --requirement tests/requirements.txt
	@touch $@

demo: $(VENV)/ready
	$(BIN)/python tools/demo.py

test: $(VENV)/ready
	$(BIN)/tox run-parallel --parallel 4 --parallel-live

# The lines that no test runs, each with the reason.
coverage: $(VENV)/ready
	$(BIN)/tox run -e py313

# Random changes of what ships, each of which a test has to notice -> docs/mutants.md. Another seed, other changes.
SEED := 1
mutate: $(VENV)/ready
	$(BIN)/tox run -e mutate -- --seed $(SEED)

lint: $(VENV)/ready
	$(BIN)/tox run -e lint

package: $(VENV)/ready
	$(BIN)/python tools/package.py

bench: $(VENV)/ready
	$(BIN)/tox run --notest --skip-env lint
	$(BIN)/python tools/bench.py

clean:
	rm -rf $(VENV) .tox dist
