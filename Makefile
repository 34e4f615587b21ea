VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
EXTRA ?= test

.PHONY: run test bench formal synth bitstream lint setup clean types

run: setup        ; $(BIN)/llmrtl run --checkpoint models/stories --preset edge --tokens 64
test: setup       ; $(BIN)/pytest -n 2 --dist loadfile
bench: setup      ; $(BIN)/llmrtl bench && $(BIN)/pytest -m bench
formal: setup     ; $(BIN)/pytest -n 2 -m "formal or not formal" tests/sim/test_formal.py
synth: setup      ; $(BIN)/llmrtl synth all
bitstream: setup  ; $(BIN)/llmrtl bitstream --board ulx3s-85f
lint: setup types ; $(BIN)/ruff check . && MYPYPATH=build/types $(BIN)/mypy -p llmrtl
clean:            ; rm -rf build

# mypy does not follow the editable install's package mapping: show it the packages under their import name.
types:
	mkdir -p build/types/llmrtl
	for each in accelerators boards models rtl_gen sim; do ln -sfn ../../../$$each build/types/llmrtl/$$each; done

setup: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[$(EXTRA)]'
	touch $@
