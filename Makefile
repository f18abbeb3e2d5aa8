# Two commands on a fresh machine: `make demo` and `make test`. Each creates .venv by itself when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# small models run fastest on one thread, and two processes do not fight; override with OMP_NUM_THREADS=…
export OMP_NUM_THREADS ?= 1
export WANDB_SILENT ?= true

.PHONY: demo test test-slow fuzz lint types bench accelerator report encoders stability theory phases settle faults avdigits methods methods-long pocket further catalogue stories families feedback torture notebooks notebooks-run clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {v.major}.{v.minor}: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: $(STAMP)
	$(BIN)/python -m asgml.study demo
	$(BIN)/python -m latentwire.study wire_demo

# in the order of the folders: the long files come first, and no processor waits for another at the end
test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# an hour of new draws: command lines for FUZZ_MINUTES, and each test of files and damage for FUZZ_SECONDS
fuzz: export FUZZ_MINUTES ?= 15
fuzz: export FUZZ_SECONDS ?= 105
fuzz: $(STAMP)
	$(BIN)/python -m pytest tests/fuzz

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m asgml.bench
	$(BIN)/python -m asgml.bench.method_costs --encoder mlp
	$(BIN)/python -m asgml.bench.method_costs --encoder resnet18
	$(BIN)/python -m latentwire.bench

# what only an accelerator can show; without a network, beside a .venv that was brought along: make -o .venv/.installed accelerator
OUT ?= runs/accelerator
accelerator: $(STAMP)
	$(BIN)/python -m suite.accelerator asgml --out $(OUT)

# the study of wires on generated biographies, half a day of a core; started again, only what is missing runs:
# docs/results/pocket.md
pocket: $(STAMP)
	$(BIN)/python -m latentwire.study pocket

# what is harder: 16 tokens per latent, a reader of another family, whole prompts, half a day of a core; and one wire of
# every budget: docs/results/further.md and nested.md. Resumable
further: $(STAMP)
	$(BIN)/python -m latentwire.study further
	$(BIN)/python -m latentwire.study nested

# every encoder with every injector at 4x and 8x, three seeds, six hours of a core at most; started again, only what is
# missing runs: docs/results/catalogue.md
catalogue: $(STAMP)
	$(BIN)/python -m latentwire.study catalogue

# where GRID digits, FSDD, MNIST and stories260k lie, for the three tables that read them
DATA ?= data

# where delays are safe: the map and what the recursion itself does; a second, no data
stability: $(STAMP)
	$(BIN)/python -m asgml.theory.stability

# the prime learning window in closed form and as simulated: docs/results/theory.md; some seconds, no data
theory: $(STAMP)
	$(BIN)/python -m asgml.theory

# the study of ASGML, equal tuning and ten seeds on every data set, days of a core; started again, only what is missing
# runs. Its page, docs/results/asgml.md, may be written at any time: python -m asgml.tune.page runs
settle: $(STAMP)
	$(BIN)/python -m asgml.study settle --data $(DATA)
	$(BIN)/python -m asgml.tune.page runs

# the law against real networks: how long each modality takes to be learned when one is held back; an hour of a core,
# resumable
phases: $(STAMP)
	$(BIN)/python -m asgml.study phases --data $(DATA)
	$(BIN)/python -m asgml.theory.phases runs

# every default encoder against logistic regression, some ten minutes of a core; absent data sets are skipped
encoders: $(STAMP)
	$(BIN)/python -m asgml.bench.encoders --data $(DATA)

# what every fault of earlier code costs, replayed beside the exact code: half an hour of a core, resumable
faults: $(STAMP)
	$(BIN)/python -m asgml.study faults

# every method on two data sets, five seeds, 460 short runs, two hours of a core; started again, only what is missing
# runs. Step times are the bench's business: these runs may share the machine
methods: avdigits
	$(BIN)/python -m asgml.run -m sweep=methods experiment=cremad_mini
	$(BIN)/python -m asgml.compare runs --no-times --name cremad_mini --out runs/cremad_mini

avdigits: $(STAMP)
	$(BIN)/python -m asgml.run -m sweep=methods experiment=avdigits paths.data=$(DATA)
	$(BIN)/python -m asgml.compare runs --no-times --name avdigits --out runs/avdigits

# long enough for the weaker modality of cremad_mini: the asynchronous rows and their controls, an hour and a half of a core
LONG := joint,uniform,unimodal_audio,asgml_frequency,control_lr_matched,control_random_skip,asgml_staleness,control_scale_only,control_all_delayed,asgml_adaptive,control_adaptive_scale_only,control_adaptive_all_delayed
methods-long: $(STAMP)
	$(BIN)/python -m asgml.run -m sweep=methods experiment=cremad_mini name=cremad_mini_long trainer.max_epochs=150 method=$(LONG)
	$(BIN)/python -m asgml.compare runs --no-times --name cremad_mini_long --out runs/cremad_mini_long

stories: $(STAMP)
	$(BIN)/python -m latentwire.run -m experiment=stories seed=0,1,2 paths.data=$(DATA)
	$(BIN)/python -m suite.report runs --name stories

# commands killed at random moments, given again and compared with undisturbed ones; an hour of a core, goes on where it
# was ended. runs/torture/0_trials.jsonl has the list
torture: $(STAMP)
	$(BIN)/python -m suite.torture asgml asgml.feedback latentwire --kills 120 --minutes 60

# which families of language models are read exactly: docs/results/families.md; some seconds, no download
families: $(STAMP)
	$(BIN)/python -m latentwire.families

# anomaly maps with cross-attention feedback against the same model without, three seeds, both stages and the evaluation,
# on rendered surfaces and on magnetic tiles (below DATA); what each kind of branch leaves to the adapters, over seeds and
# in training; docs/results/feedback.md. About twenty minutes of a core, resumable
feedback: $(STAMP)
	$(BIN)/python -m asgml.feedback.study feedback --data $(DATA)

# the seven lessons of notebooks/ in JupyterLab, which this installs; as they stand each takes a minute of a core or less
notebooks: $(VENV)/.notebooks
	$(BIN)/jupyter lab notebooks

# runs all of them anew, in place, and renews their pictures in docs/pictures; some minutes of a core
notebooks-run: $(VENV)/.notebooks
	$(BIN)/python tests/notebook_runs.py

$(VENV)/.notebooks: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebooks]'
	touch $@

report: $(STAMP)
	$(BIN)/python -m suite.report runs

clean:
	rm -rf runs data_cache .pytest_cache .mypy_cache .ruff_cache
