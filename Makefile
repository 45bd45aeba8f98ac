# Every target makes the virtual environment first where it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.installed

.PHONY: demo test test-oldest lint clean

demo: $(READY)
	$(BIN)/deid-diffusion demo -o demo_output

test: $(READY)
	$(BIN)/python -m pytest

test-oldest: $(READY)
	VENV=$(VENV) bash tests/oldest.sh

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --quiet -e ".[heic,train,video,service,web,test,lint]"
	touch $@

clean:
	rm -rf $(VENV) demo_output
