# make run     build .venv, fetch the data, execute the main notebook, write S9_Final.html
# make test    ruff, pytest, and pytest --nbval on every notebook
# make bench   images per second of the augmentation engines
# make sprint  time to 85 %: the sprint against the best published recipe (about an hour)
# make readme  redraw images/ and README's tables from results/
# make badges  stamp the repository's owner/name (pyproject.toml) into README and notebooks

PYTHON = .venv/bin/python
NOTEBOOKS = S9_Final.ipynb $(wildcard experiments/*.ipynb)
COMMAND_bench = dataset.py --bench
COMMAND_sprint = bench_sprint.py

run: .venv/done
	$(PYTHON) dataset.py
	@echo "Executing S9_Final.ipynb: about two minutes on two cores ..."
	$(PYTHON) -m jupyter nbconvert --log-level ERROR --execute --to html S9_Final.ipynb
	@echo "Open $(CURDIR)/S9_Final.html in a browser."

test: .venv/done
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) dataset.py
	$(PYTHON) -m pytest tests
	$(PYTHON) -m pytest --nbval --nbval-sanitize-with tests/nbval.cfg $(NOTEBOOKS)

bench sprint readme badges: .venv/done
	$(PYTHON) $(or $(COMMAND_$@),utils.py $@)

.venv/done: requirements.txt
	python3 -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet -r requirements.txt
	touch $@

.PHONY: run test bench sprint readme badges
