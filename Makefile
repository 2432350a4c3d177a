# make run     build .venv, fetch the data, execute the main notebook, write S9_Final.html
# make test    ruff, then all tests and all notebooks, re-executed: pytest --nbval
# make test-extras  what needs the optional packages: the app in a browser, ONNX, Dask, otter-grader
# make bench   images per second of the augmentation engines
# make sprint  a race to 85 %: the sprints against `compact` of the five rebuilt networks
# make growth  how a training's cost grows with images, epochs, parameters, processes
# make readme  redraw images/, README's tables and results/README.md from results/
# make badges  stamp the git remote's owner/name into README and notebooks

PYTHON = .venv/bin/python
# A process a core, one thread each; a file's tests and a notebook's cells stay in one process.
TESTS = OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n logical --maxprocesses 4 --dist loadfile \
	--no-loadscope-reorder

run: .venv/done
	$(PYTHON) dataset.py
	$(PYTHON) -m tools.run_notebook S9_Final.ipynb

test: .venv/done
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) dataset.py
	$(TESTS) --nbval

# The browser for the app's test is Debian's; where none can be installed, these tests are skipped.
test-extras: .venv/done
	$(PYTHON) -m pip install --quiet tensorboard $(patsubst %,-r %,$(wildcard requirements-*.txt))
	-command -v chromium || ! command -v apt-get || test "$$(id -u)" != 0 || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }
	$(PYTHON) dataset.py
	$(PYTHON) -m pytest tests/test_app.py tests/test_export.py tests/test_watching.py \
		tests/test_many.py tests/test_grade.py tests/test_grading.py

bench: .venv/done
	$(PYTHON) -m tools.bench_engines

sprint: .venv/done
	$(PYTHON) -m tools.bench_sprint

growth: .venv/done
	$(PYTHON) -m pip install --quiet -r requirements-cluster.txt
	$(PYTHON) -m tools.bench_growth

readme badges: .venv/done
	$(PYTHON) -m tools.$@

.venv/done: requirements.txt
	python3 -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	.venv/bin/python -c 'import pip, ssl, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || python3 -m venv --clear .venv
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet -r requirements.txt
	touch $@

.PHONY: run test test-extras bench sprint growth readme badges
