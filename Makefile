# Two commands do everything: `make run` restores a sample, `make test` runs the suite. Each makes .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: run test check format bench weights clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

# make run PHOTO=my.jpg restores that photo instead of the sample.
run: $(READY)
ifdef PHOTO
	$(BIN)/conservator restore "$(PHOTO)" --output out --report --overwrite
else
	$(BIN)/conservator demo --output out
endif

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# PSNR, harm and calls of the policies on damaged and clean photos: make bench PHOTOS=folder
bench: $(READY)
	$(BIN)/conservator bench mio --photos "$(PHOTOS)" --output out/bench

# Train everything that ships again, in hours: make weights PHOTOS=folder-of-clean-photos
weights: $(READY)
	$(BIN)/conservator train all --photos "$(PHOTOS)"

clean:
	rm -rf $(VENV) out build
