# Every target sets up .venv by itself; Python 3.11 or later and make are all it takes.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# Less than READY, which has all tools of a developer: what the demos need.
DEMO := .venv/demo
DEMO_TEXT := .venv/demo-text

.DEFAULT_GOAL := help
.PHONY: help demo demo-generate test test-all check docs smoke newcomer bench format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(DEMO)  ## encode the example clip and generate it again with the bundled model
	@mkdir -p demo
	$(BIN)/regen reconstruct examples/butterfly.mp4 -o demo/reconstruction.mp4 --compare demo/comparison.mp4
	@echo "The reconstruction: demo/reconstruction.mp4"
	@echo "The original above the reconstruction: demo/comparison.mp4"

demo-generate: $(DEMO_TEXT)  ## make a video from a sentence with the bundled generator
	@mkdir -p demo
	$(BIN)/regen generate --prompt $(PROMPT) --frames 66 -o demo/generated.mp4 --grid demo/generated.png
	@echo "The video: demo/generated.mp4, and some of its frames: demo/generated.png"
demo-generate: PROMPT = "two large plain purple triangles move right quickly on a dark background while the camera stays still"

test: $(READY)  ## run the tests that take seconds, two at a time
	$(PYTEST) -m "not integration"

test-all: $(READY)  ## run all tests: also those that kill processes, start ranks, Ray, a browser, or compile
	$(PYTEST)
	$(BIN)/pytest -o addopts="--import-mode=importlib" tests/compiled
test test-all: PYTEST = $(BIN)/pytest --numprocesses 2 --dist loadfile

check: $(READY)  ## lint, formatting, types, import layers, length budgets
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_budgets.py

smoke: $(READY)  ## a whole life in minutes: make clips, train every model, compare them; shards, two processes, kills, latents
	rm -rf smoke
	$(BIN)/python benchmarks/shapes.py --out smoke/clips --videos 8 --frames 41
	$(BIN)/regen train toy --data smoke/clips --out smoke/run $(SHORT)
	$(BIN)/regen train toy --data smoke/clips --out smoke/in-context $(SHORT) \
		--model.conditioning in_context --model.attention-window None
	$(BIN)/regen train toy-magvit2 --data smoke/clips --out smoke/magvit2 $(SHORT) --losses.adversarial.start 5
	$(BIN)/python benchmarks/fit_linear.py --data smoke/clips --ratio 4 --short-side 96 --out smoke/linear
	$(BIN)/regen reconstruct $(CLIP) -o smoke/reconstruction.mp4 --compare --model smoke/run/model
	$(BIN)/regen encode $(CLIP) -o smoke/latents.safetensors --model smoke/run/model
	$(BIN)/regen decode smoke/latents.safetensors -o smoke/decoded.mp4 --model smoke/run/model
	$(BIN)/regen evaluate --model smoke/run --model smoke/in-context --model smoke/magvit2 --model smoke/linear \
		--data smoke/clips --size 64 --max-frames 17 --report smoke/report
	$(BIN)/python tools/random_autoencoder.py smoke/wan
	$(BIN)/regen latents export --model smoke/wan --data smoke/clips --out smoke/wan-latents
	$(BIN)/regen train toy-decoder --latents smoke/wan-latents --data smoke/clips --out smoke/decoder $(SHORT)
	$(BIN)/regen encode $(CLIP) -o smoke/wan.safetensors --model smoke/wan
	$(BIN)/regen decode smoke/wan.safetensors -o smoke/wan.mp4 --model smoke/decoder --interpolate 2
	$(BIN)/regen evaluate --model smoke/decoder --model smoke/wan --data smoke/clips --size 64 --max-frames 17 \
		--report smoke/decoder-report
	$(BIN)/python tools/chain.py smoke/clips smoke/scale
	$(BIN)/pytest -m slow tests
smoke: SHORT = --loop.steps 10 --loop.eval-every 10
smoke: CLIP = smoke/clips/shapes_0000.mp4

bench: $(READY)  ## measure quality, speed and memory of the bundled model on this machine
	$(BIN)/python benchmarks/quality.py --data examples
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/train_speed.py

docs: $(READY)  ## build the documentation site in docs/_build/html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "The site: docs/_build/html/index.html"

newcomer: $(READY)  ## build the wheel and run every command of the README from another folder, with no clone on the path
	tools/newcomer.sh .venv

format: $(READY)  ## put the sources into their one format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove the environment, caches and what the other targets wrote
	rm -rf .venv demo smoke build dist docs/_build docs/api .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests tools benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml | .venv/pyvenv.cfg
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEMO) $(DEMO_TEXT): requirements.lock pyproject.toml | .venv/pyvenv.cfg
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock setuptools
	$(BIN)/python -m pip install --disable-pip-version-check --constraint requirements.lock \
		--no-build-isolation -e $(if $(filter $(DEMO_TEXT),$@),".[text]",.)
	@touch $@

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Setting up .venv; the first time this fetches PyTorch and takes some minutes."
	@$(PYTHON) -m venv .venv || \
		{ echo "Python's venv module is incomplete here; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
