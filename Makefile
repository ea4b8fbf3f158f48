# SPDX-License-Identifier: Apache-2.0
.DEFAULT_GOAL := help
.PHONY: help demo test test-vm image image-lock kernel bench fuzz fmt build packages

BIN := build/bin
GO ?= go

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: ## install what is missing, build, play a researcher's day, stay up (ONCE=1: exit after the day; BOX=process: no QEMU)
	@scripts/packages.sh demo image
	@$(MAKE) --no-print-directory build
	@scripts/asroot.sh $(BIN)/sdbox-lab day --form $(or $(BOX),image) --bin $(BIN) --out build/demo $(if $(ONCE),--once)

test: ## install what is missing, then run everything with -race
	@scripts/packages.sh demo image test
	@scripts/axe.sh
	@$(MAKE) --no-print-directory build
	@$(BIN)/sdbox-image lock --out build/cache/packages.lock
	@scripts/asroot.sh scripts/test.sh

test-vm: ## every test that starts a machine under QEMU, as a table (README=1: into image/README.md)
	@scripts/packages.sh demo image test
	@$(MAKE) --no-print-directory build
	@$(BIN)/sdbox-image lock --out build/cache/packages.lock
	@scripts/asroot.sh scripts/testvm.sh

image: ## the operating system of a box, into build/image (SITE=FILE: your site's; else a lab's, made once)
	@scripts/packages.sh image
	@$(MAKE) --no-print-directory build
	@scripts/image.sh $(SITE)

image-lock: ## the newest versions of the image's Debian packages, into image/packages.lock
	@$(MAKE) --no-print-directory build
	@$(BIN)/sdbox-image lock --out image/packages.lock

kernel: ## a kernel without modules for the image, into build/kernel; then: make image KERNEL=build/kernel
	@scripts/packages.sh kernel
	@$(MAKE) --no-print-directory build
	@scripts/kernel.sh

bench: ## the figures of README.md, on this machine
	@scripts/packages.sh demo image test
	@$(MAKE) --no-print-directory build
	@scripts/asroot.sh scripts/bench.sh

fuzz: ## every parser of outside bytes for FUZZTIME (default 1m)
	@scripts/fuzz.sh $(or $(FUZZTIME),1m)

fmt: ## format the code
	@gofmt -l -w .

build: ## the programs, into build/bin
	@mkdir -p $(BIN) && echo "building the programs into $(BIN)"
	@CGO_ENABLED=1 $(GO) build -trimpath -buildvcs=false -tags netgo,osusergo -ldflags "-s -w -buildid=" -o $(BIN)/ ./cmd/sdbox-agent
	@CGO_ENABLED=1 $(GO) build -trimpath -tags netgo,osusergo -o $(BIN)/ ./cmd/sdbox-lab
	@CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/ ./cmd/sdbox-gateway ./cmd/sdbox-bubble ./cmd/sdbox-image ./cmd/sdbox-pki ./cmd/sdboxctl
