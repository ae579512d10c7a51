# Two commands are enough on a fresh machine:
#   make accept MODEL=yolov6 SOC=Ascend310B1     convert, compare, score and report the models whose name matches
#   make test                                    lint, types, tests of pth2om itself and one small acceptance run

PYTHON ?= python3
MODEL ?= yolov6
SOC ?= Ascend310B1
PYTEST_ARGS ?=
# Where PyTorch comes from. Its CPU build is small:  make accept PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Real weights and labelled data, where they lie beside the repository; rows without their data skip and say so.
ifneq ($(wildcard ../shared/data/README.md),)
export PTH2OM_DATA ?= $(abspath ../shared/data)
endif

.PHONY: accept nightly test lint types unit small-accept clean

accept: $(INSTALLED)
	$(BIN)/python -m pth2om.harness -k "$(MODEL)" --soc $(SOC) $(PYTEST_ARGS)

# A night: accept against the baseline of the SoC, then into the history; the first good night makes the baseline. A
# night that was killed goes on where it was when it is started again.
nightly: $(INSTALLED)
	$(BIN)/python -m pth2om.harness.night -k "$(MODEL)" --soc $(SOC) $(PYTEST_ARGS)

test: lint types unit small-accept

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

unit: $(INSTALLED)
	$(BIN)/python -m pytest tests -q -n 2 -m "not nightly" $(PYTEST_ARGS)

# One whole acceptance run on a bundled model: it needs nothing that is not in the repository.
small-accept: $(INSTALLED)
	env -u PTH2OM_DATA PTH2OM_STORE="$(CURDIR)/.pth2om-store" $(BIN)/python -m pth2om.harness -k "convmixer-digits" --soc Ascend310B1 -q

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pth2om-store build dist *.egg-info
