# make setup | demo | test | test-all | test-browser | lint | bench | bench-data | bench-deploy | bench-phone | bench-tables
# make docs | docs-serve | release
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests start hundreds of processes: without bytecode each would compile PyTorch's sources.
unexport PYTHONDONTWRITEBYTECODE
INSTALLED := $(VENV)/.installed

.PHONY: setup demo test test-all test-browser lint bench bench-data bench-deploy bench-phone bench-tables docs docs-serve release clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt $(wildcard src/sctnet/kernels/native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sctnet needs Python 3.11 or newer; name it: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@# The Cityscapes authors' scorer asks for a backport of typing that today's Python cannot bear.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps \
	  cityscapesscripts pyquaternion appdirs
	@touch $@

# make demo: a tiny network learns drawn streets. make demo IMAGES=folder: the bundled model on yours.
demo: setup
ifdef IMAGES
	$(BIN)/sctnet predict sctnet-s-camvid '$(IMAGES)' --out demo/pictures
	@echo "Look at demo/pictures/overlay."
else
	@rm -rf demo/model demo/scores
	$(BIN)/sctnet train synthetic/sctnet-tiny --out demo/model
	$(BIN)/sctnet eval demo/model --data synthetic --split test --out demo/scores --sheet 5
	@echo "Look at demo/scores/sheet.png: image, truth and prediction, side by side."
endif

lint: setup
	$(BIN)/ruff format --check --quiet src tests benchmarks tools
	$(BIN)/ruff check --quiet src tests benchmarks tools
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/readme_figures.py --check
	$(BIN)/python tools/comparison_page.py --check

# Parity and kernels once more as a processor with AVX2 alone, where this one has AVX-512.
AS_AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 SCTNET_KERNELS=avx2
KERNEL_TESTS := $(addprefix tests/test_,parity.py siam_parity.py shared_head.py cpu_network.py \
  kernels.py cross_entropy.py label_map.py preprocessing.py prediction.py)

test: lint
	$(BIN)/pytest -n 2 --dist loadfile -m 'not slow'
	@if $(BIN)/python -c "from sctnet.machine import processor_features as features; \
	    raise SystemExit('AVX-512' not in features())"; \
	  then $(AS_AVX2) $(BIN)/pytest -n 2 --dist loadfile -m 'not slow' $(KERNEL_TESTS); fi

test-all: lint
	$(BIN)/pytest -n 2 --dist loadfile

# The demonstration page and the exported one, clicked in Chromium. As root on Debian or Ubuntu it is
# installed; the exported page needs npm once.
test-browser: setup
	@command -v chromedriver > /dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get > /dev/null && \
	    apt-get update -qq && apt-get install -y -qq chromium chromium-driver > /dev/null; } || \
	  { echo "make test-browser needs chromedriver and its browser: apt-get install chromium chromium-driver"; exit 1; }
	SCTNET_TEST_BROWSER=1 $(BIN)/pytest tests/test_demo_browser.py tests/test_web_browser.py

bench: setup
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/folding.py
	$(BIN)/python benchmarks/alignment_step.py
	$(BIN)/python tools/readme_figures.py

# Milliseconds a picture by runtime and precision: results/deployment_KIND.json, by kind of processor.
# make bench-deploy [PICTURES=folder] [OTHERS="other.onnx ..."]
bench-deploy: setup
	$(BIN)/python benchmarks/deploy.py $(OTHERS) $(if $(PICTURES),--pictures '$(PICTURES)')

# Milliseconds and frames per second in browsers and ExecuTorch: results/browser_and_phone.json.
bench-phone: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[executorch]'
	$(BIN)/python benchmarks/browser_and_phone.py files demo/phone $(if $(PICTURES),--pictures '$(PICTURES)')
	$(BIN)/python benchmarks/browser_and_phone.py time demo/phone
	$(BIN)/python benchmarks/browser_and_phone.py browser demo/phone

# Images per second per core of the training pipeline, beside decoding alone: results/loader.json.
bench-data: setup
	$(BIN)/python benchmarks/loader.py

# The paper's Tables 1, 2 and 3 on this machine: results/tables.json, docs/comparison.md.
bench-tables: setup
	$(BIN)/sctnet bench --table 1 --table 2 --table 3 --rounds 5 --out results/tables.json
	$(BIN)/python tools/comparison_page.py

# The site, in build/site: open build/site/index.html. It needs no network, to build or to read.
docs: setup
	@$(BIN)/python -c 'import latex2mathml, mkdocstrings_handlers, zensical' 2> /dev/null || \
	  $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt '.[docs]'
	$(BIN)/python tools/site_pages.py
	NO_COLOR=1 PYTHONPATH=tools $(BIN)/zensical build --clean --strict
	$(BIN)/python tools/site_links.py build/site

# The same while you write, at http://localhost:8000.
docs-serve: docs
	PYTHONPATH=tools $(BIN)/zensical serve

# Everything for a release but the upload: checks, wheel and sdist in dist/, tried in empty environments.
release: lint docs
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tools/try_release.py dist
	@echo "To publish: $(BIN)/twine upload dist/*"

clean:
	rm -rf $(VENV) demo
