# Two commands do everything: `make run` restores a sample, `make test` runs the suite. Each makes .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: run test check format photos bench weights weights-status rl-restore clean

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

# One thread per process (tests/conftest.py), two processes or as many as there are cores, four at most: each holds models.
test: $(READY)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal --durations 40 --durations-min 5

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet tests/test_names.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

photos:
	@test -n "$(PHOTOS)" || { echo "give a folder of clean photos, say: make weights PHOTOS=photos"; exit 2; }

# PSNR, harm and calls of the policies on damaged and clean photos: make bench PHOTOS=folder
bench: $(READY) photos
	$(BIN)/conservator bench mio --photos "$(PHOTOS)" --output out/bench

# Rebuild what is stale of experts, perception and planner, in order; run again, it goes on. All of it
# takes hours: make weights PHOTOS=folder-of-clean-photos REBUILD=all
weights: $(READY) photos
	$(BIN)/conservator train all --photos "$(PHOTOS)" --rebuild $(or $(REBUILD),stale) $(if $(DATA),--data "$(DATA)")

# What each of the weights that ship was made with, and what is stale
weights-status: $(READY)
	$(BIN)/conservator train status

# The same for RL-Restore's toolboxes and their agents (docs/rl-restore.md): tools, agent, tools tuned through its picks.
RL = $(BIN)/conservator train
SHIP = --into src/conservator/weights
rl-restore: $(READY) photos
	$(RL) rl-restore-tools --photos "$(PHOTOS)" --base 60000 --steps 10000
	$(RL) dqn --photos "$(PHOTOS)" --toolbox rl-restore:out/train/rl_restore.safetensors --steps 8000 $(SHIP)
	$(RL) joint --photos "$(PHOTOS)" --agent out/train/dqn/agent.safetensors \
		--tools out/train/rl_restore.safetensors --mixture mixed --steps 700 --output out/train/joint_paper $(SHIP)
	$(RL) rl-restore-tools --photos "$(PHOTOS)" --architecture compact --base 60000 --steps 20000
	$(RL) dqn --photos "$(PHOTOS)" --toolbox rl-restore:out/train/rl_restore_compact.safetensors --steps 8000 \
		--output out/train/dqn_compact
	$(RL) joint --photos "$(PHOTOS)" --agent out/train/dqn_compact/agent.safetensors \
		--tools out/train/rl_restore_compact.safetensors --mixture mixed --steps 700 --output out/train/joint_compact
	$(RL) joint --photos "$(PHOTOS)" --agent out/train/dqn_compact/agent.safetensors \
		--tools out/train/joint_compact/tools.safetensors --mixture mixed --steps 700 --seed 1 \
		--output out/train/joint_compact_2

clean:
	rm -rf $(VENV) out build
