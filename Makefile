# make lab          install what is missing, check this machine, open the first notebook
# make test         lint, types and every test
# make notebooks    run the notebooks and store them with their results
# make labs         run the labs' solutions, store them, and make the pages of the exercises
# make test-labs    every answer to every lab, right and wrong, live, ten times (two hours)
# make test-draws   applications that nobody chose, judged by other means than ours (ten minutes)
# make grids        measure again what the notebooks show as stored (three hours)
# make settings     write the settings page from what make grids measured
# make test-next    run the notebooks with the newest celery, kombu and redis
# make site         the course as web pages, in site/_build/html
# make bench        how fast and how heavy the harness is
# make binder       the steps of Binder's image on this machine, the notebooks within its limits
#
# PYTHON=python3.12  the Python to make .venv with
# LAB_ARGS, TEST_ARGS  more arguments for JupyterLab and pytest
# NOTEBOOKS=notebooks/03_evict_the_queue.ipynb  only this one; LABS= the same for labs
# GRIDS=notebooks/grids/crash_volume.py  grids: only this one; one that was interrupted goes on
# GRIDS_ARGS="--n 2"  grids: a sample beside what is stored (also --only TEXT, --at-once N)
# SEED=1 N=20       test-draws: these draws; without SEED fresh ones, and it is printed
# NEXT="kombu~=5.6.0 celery~=5.6.0"  test-next: with these instead of the newest

NOTEBOOKS ?= notebooks/*.ipynb
FIRST = notebooks/00_start_here.ipynb
LABS ?= labs/solutions/*.ipynb
GRIDS ?= notebooks/grids/*.py
TIMES ?= 10
N ?= 200
SEED ?=
python := .venv/bin/python
export PYTHON

.PHONY: lab test notebooks labs test-labs test-draws grids settings test-next bench binder site

# PATH, so that !celery in a cell and a terminal in JupyterLab find the programs of .venv.
lab:
	@sh helpers/make_env.sh lab
	@$(python) -m helpers.doctor
	PATH="$$PWD/.venv/bin:$$PATH" $(python) -m jupyterlab --LabApp.default_url=/lab/tree/$(FIRST) $(LAB_ARGS)

test:
	@sh helpers/make_env.sh dev
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	$(python) -m pytest -n 2 -rs $(TEST_ARGS)

notebooks:
	@sh helpers/make_env.sh lab
	@$(python) -m helpers.authoring.notebooks $(NOTEBOOKS)

labs:
	@sh helpers/make_env.sh lab
	@rm -f labs/solutions/progress.json
	@$(python) -m helpers.authoring.notebooks $(LABS)
	@$(python) -m helpers.authoring.lab_pages

test-labs:
	@sh helpers/make_env.sh dev
	@$(python) -m helpers.authoring.live_labs --times $(TIMES)

test-draws:
	@sh helpers/make_env.sh dev
	@$(python) -m helpers.authoring.draws --n $(N) $(if $(SEED),--seed $(SEED))

# dev: two grids compare pools that only requirements-dev.txt installs.
grids:
	@sh helpers/make_env.sh dev
	@failed=; for grid in $(GRIDS); do \
		$(python) "$$grid" $(GRIDS_ARGS) || { [ $$? = 130 ] && exit 130; failed="$$failed $$grid"; }; \
	done; \
	[ -z "$$failed" ] || { echo "not complete:$$failed"; exit 1; }
	@$(python) -m helpers.authoring.settings_page

settings:
	@sh helpers/make_env.sh lab
	@$(python) -m helpers.authoring.settings_page

test-next:
	@sh helpers/make_env.sh lab
	@$(python) -m helpers.authoring.next_versions $(NEXT)

site:
	@sh helpers/make_env.sh dev
	@rm -rf site/_build
	$(python) -m sphinx -M html . site/_build -c site -W --keep-going -q
	@echo "Open site/_build/html/index.html"

bench:
	@sh helpers/make_env.sh lab
	@$(python) -m helpers.authoring.bench

binder:
	@sh helpers/make_env.sh dev
	@$(python) -m helpers.authoring.binder_walk $(NOTEBOOKS)
