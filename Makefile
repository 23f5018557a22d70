# Thin targets: every one is a command you can type yourself.
PYTHON ?= python3
VENV := .venv
LABCTL := $(VENV)/bin/python tests/lab/labctl

# Tools that a play or a test starts by name are this environment's.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help env lab lab-up lab-down lab-clean lab-status

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(VENV)/.installed ## the Python environment in .venv, the same on every machine

$(VENV)/.installed: pyproject.toml constraints.txt tests/make-env
	tests/make-env $(PYTHON) $(VENV)

lab: env ## the lab from nothing, then the main job on its nodes: ansible-playbook site.yml -i lab
	$(LABCTL) up
	ansible-playbook site.yml -i lab

lab-up: env ## start the lab; its nodes stay as they are
	$(LABCTL) up

lab-down: env ## stop the lab; what was built stays for the next start
	$(LABCTL) down

lab-clean: env ## remove everything that the lab made on this machine
	$(LABCTL) clean

lab-status: env ## what of the lab runs, and how to reach it
	$(LABCTL) status
