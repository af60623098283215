# The same jobs as `python3 dev.py JOB`, for those who type make. ARGS="..." is handed on.
PYTHON ?= python3
JOBS := env test lint demo bench lock

.PHONY: $(JOBS)
$(JOBS): ; @$(PYTHON) dev.py $@ $(ARGS)
