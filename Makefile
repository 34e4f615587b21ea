VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
EXTRA ?= test

.PHONY: run test bench synth lint setup clean

run: setup        ; $(BIN)/llmrtl run --checkpoint models/stories --preset edge --tokens 64
test: setup       ; $(BIN)/pytest -n 2
bench: setup      ; $(BIN)/llmrtl bench
synth: setup      ; $(BIN)/llmrtl synth all
lint: setup       ; $(BIN)/ruff check . && $(BIN)/mypy -p llmrtl.accelerators -p llmrtl.rtl_gen -p llmrtl.sim
clean:            ; rm -rf build

setup: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[$(EXTRA)]'
	touch $@
