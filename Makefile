# Thin targets: every one is a command you can type yourself.
PYTHON ?= python3
VENV := .venv
LABCTL := $(VENV)/bin/python tests/lab/labctl

# Tools that a play or a test starts by name are this environment's.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help env lab lab-up lab-down lab-clean lab-status plan verify watch usage resolve diagnose test test-real-driver lint unit bench bench-compare bench-scale bench-plan bench-diagnosis

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(VENV)/.installed ## the Python environment in .venv, the same on every machine

$(VENV)/.installed: pyproject.toml constraints.txt tests/make-env
	tests/make-env $(PYTHON) $(VENV)

lab: env ## the lab from nothing, then the main job on its nodes: ansible-playbook site.yml -i lab
	$(LABCTL) up
	ansible-playbook site.yml -i lab

lab-up: env ## start the lab; its nodes stay as they are
	$(LABCTL) up

# Taking the lab down needs no environment.
lab-down: ## stop the lab; what was built stays for the next start
	$(PYTHON) tests/lab/labctl down

lab-clean: ## remove everything that the lab made on this machine
	$(PYTHON) tests/lab/labctl clean

lab-status: ## what of the lab runs, and how to reach it
	$(PYTHON) tests/lab/labctl status

plan: env ## what would be done on the lab's nodes, and why; changes nothing
	ansible-playbook playbooks/plan.yml -i lab

verify: env ## run the TensorFlow container on the lab's nodes again
	ansible-playbook playbooks/verify.yml -i lab

watch: env ## a live table of who computes on the GPUs of the lab's nodes: [INVENTORY=FOLDER] [INTERVAL=2] [ONCE=1]
	@$(VENV)/bin/gpuready watch -i "$(or $(INVENTORY),lab)" $(if $(INTERVAL),--interval "$(INTERVAL)") $(if $(ONCE),--once)

usage: env ## does a job compute on the GPU, and why not? NODE=gpulab-a100 CONTAINER=NAME | PID=NUMBER [INVENTORY=FOLDER]
	ansible-playbook playbooks/usage.yml -i "$(or $(INVENTORY),lab)" $(if $(NODE),--limit "$(NODE)") \
	  $(if $(CONTAINER),-e container="$(CONTAINER)") $(if $(PID),-e pid="$(PID)")

resolve: env ## which driver would suit, without a node: GPU=H100 OS=ubuntu-24.04 WORKLOADS=tensorflow-2.9 [JSON=1]
	@$(VENV)/bin/gpuready resolve --gpu "$(GPU)" $(if $(OS),--os "$(OS)") $(if $(WORKLOADS),--workloads "$(WORKLOADS)") \
	  $(if $(SOURCE),--source "$(SOURCE)") $(if $(SECURE_BOOT),--secure-boot) $(if $(NVSWITCH),--nvswitch "$(NVSWITCH)") \
	  $(if $(KERNEL),--kernel "$(KERNEL)") $(if $(JSON),--json)

diagnose: env ## why no GPU is seen, from a log: LOG=FILE (without it: paste, then Ctrl-D) [FACTS=FILE] [JSON=1]
	@$(VENV)/bin/gpuready diagnose $(if $(LOG),"$(LOG)") $(if $(FACTS),--facts "$(FACTS)") $(if $(JSON),--json)

test: env ## everything that CI runs
	$(VENV)/bin/python tests/run_all.py

test-real-driver: env ## NVIDIA's real driver on Debian nodes of the lab: real packages, real DKMS builds (not in make test)
	$(VENV)/bin/python -m pytest -v -m real_driver tests/real_driver

lint: env ## ruff, mypy, yamllint, ansible-lint
	$(VENV)/bin/python tests/run_all.py lint

unit: env ## the tests that need no lab
	$(VENV)/bin/python tests/run_all.py unit

bench: env ## print wall times, module executions, apt transactions and SSH connections in the lab
	$(VENV)/bin/python tests/bench/run.py

bench-compare: env ## beside a plain playbook from the install guides, on fresh lab nodes
	$(VENV)/bin/python tests/bench/compare.py

bench-scale: env ## what one more node costs: 1, 8, 32 and 64 light lab nodes
	$(VENV)/bin/python tests/bench/scale.py

bench-plan: env ## plan for 10,000 recorded nodes; needs no lab
	$(VENV)/bin/python tests/bench/plan_many.py

bench-diagnosis: env ## inject every fault of tests/faults in the lab and print how many root causes were named
	$(VENV)/bin/python tests/bench/diagnosis.py
