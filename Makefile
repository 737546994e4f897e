# Each goal does its own set-up in .venv; nothing is needed before but Python 3.11-3.13, make and the package index.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo "$$p" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
MARK := $(VENV)/.made

.PHONY: help demo test test-quick test-lab test-data coverage lab check format bench ci clean

help:
	@echo 'make demo    the main job on an embedded model and this machine (no hardware, no TensorFlow)'
	@echo 'make test    every test; installs what the tests need'
	@echo 'make test-data  small models that stand in for the real ones of ../shared/data (make test does it too)'
	@echo 'make coverage  every test, and which lines and branches of harness/ they run'
	@echo 'make lab     x86 hosts, ARM boards and a virtual machine to try things on, without hardware or TensorFlow (root)'
	@echo 'make test-lab  the slow tests on all of these'
	@echo 'make check   format, lint, strict types, import contracts'
	@echo 'make bench   the speed and memory figures this project promises'

$(MARK)-base: pyproject.toml
	@test -n "$(PYTHON)" || { echo 'edge-harness needs Python 3.11, 3.12 or 3.13 with venv (Debian: apt-get install python3-venv)'; exit 3; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

# The demo needs only the light extra and the page; TensorFlow (600 MB) comes with the tests.
$(MARK)-light: $(MARK)-base
	@echo 'installing edge-harness[light,report] into $(VENV) ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[light,report]'
	@touch $@

$(MARK)-dev: $(MARK)-light
	@echo 'installing edge-harness[all] and the development tools into $(VENV) ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]' --group dev
	@touch $@

demo: $(MARK)-light
	@$(BIN)/edge-harness demo

check: $(MARK)-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(MARK)-dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# What tests run that pip does not bring, as program:package,package of Debian. Installed where that is possible, else one clear line.
TOOLS := gcc:gcc,libc6-dev sshd:openssh-server dropbear:dropbear-bin zsh:zsh ksh:ksh tcsh:tcsh bsd-csh:csh fish:fish busybox:busybox-static sudo:sudo faketime:faketime ssh:openssh-client ip:iproute2 nft:nftables mmdebstrap:mmdebstrap,debian-archive-keyring qemu-aarch64-static:qemu-user-static adb:adb mksh:mksh toybox:toybox clang++:clang ld.lld:lld patch:patch
# Headers that adbd, the daemon of a phone, is built with (tests/standins/adbd.py); a package without a program is named by a file.
HEADERS := /usr/include/android/android-base/properties.h:android-libbase-dev,android-libcutils-dev,android-liblog-dev,android-libboringssl-dev /usr/include/sys/capability.h:libcap-dev
LAB_TOOLS := aarch64-linux-gnu-g++:g++-aarch64-linux-gnu ssh:openssh-client sshd:openssh-server busybox:busybox-static ip:iproute2 nft:nftables mmdebstrap:mmdebstrap,debian-archive-keyring qemu-aarch64-static:qemu-user-static qemu-system-aarch64:qemu-system-arm mke2fs:e2fsprogs
install = PATH="$$PATH:/usr/sbin:/sbin"; packages=; for tool in $(1); do command -v "$${tool%%:*}" >/dev/null || [ -e "$${tool%%:*}" ] || packages="$$packages $${tool\#\#*:}"; done; \
	packages=$$(echo "$$packages" | tr , ' '); \
	if [ -z "$$packages" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$packages ..."; \
		apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages >/dev/null; \
	else \
		echo "some tests are skipped without these packages:$$packages"; \
	fi

.PHONY: system lab-system
system:
	@$(call install,$(TOOLS) $(HEADERS))

lab-system:
	@$(call install,$(LAB_TOOLS))

# Stand-ins of the real models in ../shared/data, where that is absent; nothing is made twice.
test-data: $(MARK)-dev
	@$(BIN)/python tests/shared_data.py || $(BIN)/python tests/make_data.py

# A worker per core; the tests of one file share what they set up. `make test PARALLEL=` for one process.
PARALLEL ?= --numprocesses=auto --dist=loadfile

test: $(MARK)-dev system test-data
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-lab: $(MARK)-dev system lab-system test-data
	$(BIN)/python -m pytest -m 'lab or not lab' tests/lab $(ARGS)

# The lab itself needs no TensorFlow and no development tools.
lab: $(MARK)-light lab-system
	@$(BIN)/python -m tests.lab $(ARGS)

test-quick: $(MARK)-dev system test-data
	$(BIN)/python -m pytest -m 'not tensorflow and not slow' $(ARGS)

coverage: $(MARK)-dev system test-data
	$(BIN)/python -m pytest --cov --cov-report=term --cov-report=html $(ARGS)

bench: $(MARK)-dev system
	$(BIN)/python benchmarks/run.py $(ARGS)

ci: check test

clean:
	rm -rf $(VENV) .cache dist build
