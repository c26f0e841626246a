# 只需要 python >= 3.11、pip、make。环境在 .venv，依赖按 requirements/ 里的锁（带哈希）安装。

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
# 戳记文件：锁没有变，安装就不再发生。
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev
PEERS := $(VENV)/.installed-peers
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
# 锁里的是服务的一方：meeting-push[server,postgres]。
EXTRAS := --extra server --extra postgres

# 测试多半在等子进程与真实的时间；几个进程各领一些文件（tests/support/shares.py）。整套系统的等得
# 更多（租约、期限、演练的一分钟）：两个核也给三个。
TEST_PROCESSES ?= 2
SYSTEM_TEST_PROCESSES ?= 3
# 整套系统的：真实的进程、代理、浏览器与引擎，各要几秒到几十秒。
SYSTEM_TESTS := tests/system tests/stages tests/faults tests/conformance tests/chaos tests/fuzz
NOT_SYSTEM := $(addprefix --ignore=,$(SYSTEM_TESTS))
PYTEST := $(BIN)/python -m pytest --dist loadfile --slowest-files 15
# 机器与别人共用，几千个测试里总有等真实时间的等得太久：没有通过的单独再来一次，再不过就是不过。
AGAIN = { echo "once more, alone, what did not pass:"; \
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures=none

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo serve test test-system test-wheels test-full-size check format bench peers lock sbom audit figures settings reference site prometheus grafana clean

help: ## This menu
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

demo: $(RUNTIME) ## The main job in front of you, then keeps serving (ONCE=1: stop after the job)
	@$(BIN)/meeting-push demo $(if $(filter-out 0,$(ONCE)),--once)

serve: $(RUNTIME) ## The server with its defaults: embedded Redis, SQLite (ARGS="--port 9000")
	@$(BIN)/meeting-push serve $(ARGS)

test: $(DEV) ## Set up what is missing, run the suite (ARGS="-k name")
	@tools/install_system_parts.sh
	@$(PYTEST) -n $(TEST_PROCESSES) $(NOT_SYSTEM) $(ARGS) || $(AGAIN) $(NOT_SYSTEM) $(ARGS); }

test-system: $(DEV) ## Whole systems: processes, browsers, chaos, conformance (ARGS="-k name")
	@tools/install_system_parts.sh
	@$(PYTEST) -n $(SYSTEM_TEST_PROCESSES) $(SYSTEM_TESTS) $(ARGS) || $(AGAIN) $(SYSTEM_TESTS) $(ARGS); }

test-wheels: $(DEV) ## Unit tests of the built wheels on 3.11, 3.12, 3.13 (ARGS="--python 3.13 -n 2 tests/unit")
	@tools/install_system_parts.sh
	@$(BIN)/python -m tools.wheels $(ARGS)

test-full-size: $(DEV) ## The slow proofs, nothing shrunken; prints what it measured
	@tools/install_system_parts.sh
	@$(BIN)/python -m pytest -m full_size $(ARGS)

check: $(DEV) ## Format, lint, types, import rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(DEV) ## Format the code and fix what ruff can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(RUNTIME) ## Load test: 1,000 sockets (ARGS="10k", "durable-batched", "queue", "flush", "retries", "--help")
	@$(BIN)/meeting-push bench $(or $(ARGS),1k)

peers: $(PEERS) ## Ours and others on the same work; installs the others (ARGS="--quick")
	@$(BIN)/meeting-push bench peers $(ARGS)

lock: $(DEV) ## Write the lock files from pyproject.toml (UPGRADE=1: newest versions)
	@$(LOCK) pyproject.toml $(EXTRAS) --group build --output-file requirements/runtime.txt
	@$(LOCK) pyproject.toml $(EXTRAS) --group dev --constraint requirements/runtime.txt \
		--output-file requirements/dev.txt
	@$(LOCK) --group peers --constraint requirements/runtime.txt --output-file requirements/peers.txt

sbom: $(DEV) ## Write the bill of materials and docs/licences.md from the lock
	@$(BIN)/python -m tools.sbom

audit: $(DEV) ## Ask PyPI for known holes in the locked versions (needs the internet)
	@$(BIN)/python -m tools.audit

figures: $(DEV) ## Write docs/metrics.md and docs/logs.md from what a node tells
	@$(BIN)/python tools/metrics_page.py
	@$(BIN)/python tools/logs_page.py

settings: $(DEV) ## Write .env.example and docs/settings.md from the settings
	@$(BIN)/python tools/settings_pages.py

reference: $(DEV) ## Write docs/reference/ from OpenAPI, AsyncAPI, rules, commands and docstrings
	@$(BIN)/python -m tools.reference

site: $(DEV) ## Build the site of docs/ into build/site (needs npm)
	@$(BIN)/python tools/site.py

prometheus: $(DEV) ## Write deploy/prometheus/ from the rules of the alerts
	@$(BIN)/python tools/prometheus_files.py

grafana: $(DEV) ## Write deploy/grafana/ from tools/grafana_boards.py
	@$(BIN)/python -m tools.grafana_files

clean: ## Remove the environment, caches and build results (never data/)
	rm -rf $(VENV) build dist reports .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find src bench tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@tools/create_venv.sh "$(PYTHON)" "$(VENV)"
	@touch $@

# 项目自身与它的 bench（另一个发行包）的安装不联网：构建后端 hatchling 已在锁里。
define install
@echo "installing $(1)"
@$(PIP) install --require-hashes -r $(1)
@$(PIP) install --no-build-isolation --no-deps --no-index -e . -e bench
@touch $@
endef

$(RUNTIME): requirements/runtime.txt pyproject.toml bench/pyproject.toml $(VENV)/.created
	$(call install,$<)

$(DEV): requirements/dev.txt pyproject.toml bench/pyproject.toml $(VENV)/.created
	$(call install,$<)

# 不装项目自身：它由 RUNTIME 或 DEV 装好。
$(PEERS): requirements/peers.txt $(RUNTIME)
	@echo "installing $<"
	@$(PIP) install --require-hashes -r $<
	@touch $@
