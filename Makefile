PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test check lowest coverage setup lint docs tables bench gallery gallery-runs gpu-wheels gpu-check gpu-bench clean

run: setup  ## train with the adjoint method on MNIST and measure its gradient step
	$(BIN)/nodebench run --backend adjoint --task mnist

# Two processes whatever the cores: a worker of a test wants one too. What compares real times comes last, alone.
PYTEST := $(BIN)/python -m pytest -q
IN_TWO := -n 2 --dist loadfile --no-loadscope-reorder
SLOW := worker or jax or ray or browser or packaging or quiet or cuda

test: setup  ## the whole test suite
	$(PYTEST) $(IN_TWO) -m 'not quiet'
	$(PYTEST) -m quiet

check: setup  ## the quick tests: what starts no worker, compiles nothing and opens no page, and one run of everything
	$(PYTEST) $(IN_TWO) -m 'not ($(SLOW))'
	$(PYTEST) tests/test_runner.py::test_a_cell_is_measured_whole

coverage: setup  ## statements and branches that the suite goes through in its own processes
	$(PYTEST) $(IN_TWO) -m 'not quiet' --cov=nodebench --cov-branch --cov-report=term:skip-covered

setup: $(STAMP)  ## .venv with the pinned set; does nothing when it is up to date

# torch first and by its pinned version: where a CPU build is offered, only the exact version finds it.
# pip itself before all: groups of dependencies are known since its version 25.1.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,cluster]' --group dev
	touch $@

# The other end of what pyproject.toml admits. TORCH='torch==2.13.0+cpu' holds torch at another version than its lowest.
# Warnings end no test there: old libraries warn of newer ones, and of Python.
LOWEST := .venv-lowest
TORCH ?= --torch-backend cpu

lowest:  ## the quick tests and a run of every library, with the lowest versions that pyproject.toml admits
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints.txt uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct \
		--editable '.[all]' --group test $(TORCH)
	$(LOWEST)/bin/python -m pytest -q $(IN_TWO) -W default -m 'not ($(SLOW))'
	$(LOWEST)/bin/nodebench run -b torchdiffeq,direct,adjoint,checkpoint,diffrax,jax-odeint -t linear --preset smoke --rounds 1

lint: setup  ## formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## our methods beside their rivals in turns, with errors; `odeint` beside torchdiffeq; what a trace costs
	$(BIN)/python benchmarks/ratios.py
	$(BIN)/python benchmarks/detest.py
	$(BIN)/python benchmarks/trace_cost.py

gpu-wheels: setup  ## wheels of this package and of what a machine without a network may lack, for gpu-check and gpu-bench
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python -m pip download --quiet --constraint constraints.txt --no-deps --only-binary :all: --dest dist $(CARRIED)

CARRIED := cloudpickle altair annotated-doc annotated-types fsspec filelock memray narwhals pooch platformdirs psutil pydantic pydantic_core \
	pytest-xdist execnet rich scikit-learn joblib threadpoolctl typer typing-inspection vl-convert-python

DEVICE ?= cuda

gpu-check:  ## tests and a run on a GPU, by PYTHON as it is, in one command without a network; DEVICE=cpu tries it
	$(PYTHON) benchmarks/with_wheels.py benchmarks/gpu_check.py --device $(DEVICE)

gpu-bench:  ## gradient methods beside each other on a GPU, in eight minutes at most; likewise
	$(PYTHON) benchmarks/with_wheels.py benchmarks/gpu_bench.py --device $(DEVICE)

docs: setup  ## the site, as a folder that any server can serve; a link that leads nowhere ends it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

tables: setup  ## the tables of docs/ that follow from the code: quantities, bands, commands, backends, tasks
	$(BIN)/python docs/tables.py

GALLERY := docs/gallery
# Of the longest trainings one seed so far.
PAPER := 'table1 --preset standard' 'table3 --preset standard' 'figure3 --preset standard' \
	'figure4 --preset standard --seed 0,1,2' 'figure5 --preset standard --seed 0,1,2' 'table2 --preset standard' \
	'figure8 --preset standard' 'claims'
REPORTED := $(filter-out paper,$(basename $(notdir $(wildcard $(GALLERY)/*.db))))

gallery: setup  ## the pages of the gallery, from the stores that are kept beside them
	for name in $(REPORTED); do \
		$(BIN)/nodebench report --store $(GALLERY)/$$name.db --output $(GALLERY)/$$name.html --output $(GALLERY)/$$name.md \
			--charts svg || exit 1; \
	done
	for page in $(PAPER); do \
		$(BIN)/nodebench reproduce $$page --no-run --store $(GALLERY)/paper.db \
			--output $(GALLERY)/paper-$${page%% *}.html || exit 1; \
	done

gallery-runs: setup  ## measure what the gallery shows, about a day on a machine that does nothing else
	$(BIN)/nodebench run --backend direct,adjoint,torchdiffeq,torchdiffeq-adjoint --task mnist,cnf,spiral \
		--measure gradient --store $(GALLERY)/gradient-step.db
	$(BIN)/nodebench run --backend 'torchdiffeq,direct,direct[compile=true],diffrax' \
		--task benchmarks/mlp_task.py:Mlp,cnf,spiral --measure gradient --store $(GALLERY)/gradient-step.db
	$(BIN)/nodebench scale --backend direct,adjoint,checkpoint --task mnist --over steps --values 5,10,20,40 \
		--store $(GALLERY)/gradient-step.db
	$(BIN)/nodebench run --backend direct,adjoint,checkpoint,symplectic,interpolated,torchdiffeq,torchdiffeq-adjoint,diffrax \
		--task cnf --dtype float64 --rtol 1e-3,1e-5,1e-7,1e-9 --measure gradient --budget-s 5 \
		--store $(GALLERY)/work-precision.db
	$(BIN)/nodebench run --backend torchdiffeq,direct,checkpoint,symplectic,reversible,adjoint,interpolated,diffrax \
		--task cnf --dtype float64 --rtol 1e-5,1e-7,1e-9 --measure gradient --budget-s 3 --store $(GALLERY)/equal-cost.db
	$(BIN)/nodebench run --backend 'reversible,direct,symplectic,adjoint,checkpoint,checkpoint[checkpoints=4]' \
		--backend 'checkpoint[checkpoints=8],checkpoint[checkpoints=16],checkpoint[checkpoints=64]' \
		--backend 'diffrax[checkpoints=4],diffrax[checkpoints=16],diffrax[checkpoints=64],diffrax' \
		--task 'linear[dimension=16]' --batch-size 512 --solver midpoint --first-step 0.005 --rtol 1e-3 --max-steps 400 \
		--dtype float64 --measure gradient --budget-s 3 --store $(GALLERY)/equal-cost.db
	for page in $(PAPER); do \
		$(BIN)/nodebench reproduce $$page --store $(GALLERY)/paper.db \
			--output $(GALLERY)/paper-$${page%% *}.html || exit 1; \
	done

clean:
	rm -rf $(VENV) $(LOWEST) site .nodebench .pytest_cache .mypy_cache .ruff_cache .hypothesis
