# Every target makes the virtual environment first where it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.installed
EXTRAS = $(VENV)/.installed-extras

.PHONY: demo test test-oldest lint clean

demo: $(READY)
	$(BIN)/deid-diffusion demo -o demo_output

test: $(EXTRAS)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-oldest: $(EXTRAS)
	VENV=$(VENV) bash tests/oldest.sh

lint: $(EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml
	@echo 'installing into $(VENV): several GB, a few minutes'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --quiet -e .
	touch $@

$(EXTRAS): $(READY)
	$(BIN)/python -m pip install --quiet --quiet -e ".[heic,train,video,data,ray,service,web,report,test,lint]"
	touch $@

clean:
	rm -rf $(VENV) demo_output
