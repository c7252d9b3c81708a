# QENEX: build, test, install. `make help` lists the targets. ./configure is optional; it writes config.mk.

PREFIX     := /usr/local
BUILD_TAGS :=
-include config.mk

DESTDIR     ?=
GO          ?= go
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STRESS_TIME ?= 60s
STRESS_OPS  ?= 10000000
FUZZ_TIME   ?= 30s
BENCH_FLAGS ?=

# The rooms that drive KVM, and the programs for native guests: their tests also run in the svm lane. Not vcpu/complete: it
# has no KVM, and holds the real CPU against its results, which an emulated one is not.
SVM_PACKAGES  ?= ./kvm/... ./vcpu ./vcpu/cpuid ./vcpu/probe ./vmm/... ./gdbstub ./virtio/block ./guest/agent \
	./guestkernel ./guestkernel/ring0 ./guestkernel/pagetable ./internal/programs
SVM_ARTEFACTS ?= lean/bzImage,lean/vmlinux,stock/vmlinuz,stock/vmlinux,initramfs-busybox.cpio,initramfs-tiny.cpio,initramfs-uroot.cpio,busybox,initramfs-agent.cpio,initramfs-agent-stock.cpio
# The rooms with more than one goroutine.
RACE_PACKAGES ?= ./kvm/... ./memmap/... ./device/... ./virtio/... ./blockdev ./vcpu ./vmm ./internal/svmlane ./guestkernel ./usernet ./agent/... ./fleet ./gdbstub ./rootdisk/... ./tapnet \
	./oci/container ./internal/process ./auditchain/... ./tpm/... ./trust $(addprefix ./scheduler/,anneal apply govern mix observe plan simulate)
# The devices that a hostile driver is let loose on.
HOSTILE_PACKAGES ?= ./virtio $(addprefix ./virtio/,mmio pci block nic vsock console rng balloon fs9p)

.DEFAULT_GOAL := build
.NOTPARALLEL:
.PHONY: build run demo-sched test test-go test-race test-svm test-debian test-vtpm test-uroot test-quantum test-ai stress-test bench bench-svm fuzz lint \
	guest guest-stock guest-lean guest-bench guest-debian install uninstall clean distclean clean-guest help

build: ## build bin/qenex, a static binary, bin/qenex-vmm, the same for kernels only, and bin/qenex-picture, which draws
	CGO_ENABLED=0 $(GO) build -trimpath -tags '$(BUILD_TAGS)' -ldflags '-s -w -X main.version=$(VERSION)' -o bin/qenex ./cmd/qenex
	CGO_ENABLED=0 $(GO) build -trimpath -tags 'kernelonly $(BUILD_TAGS)' -ldflags '-s -w -X main.version=$(VERSION)' -o bin/qenex-vmm ./cmd/qenex
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/qenex-picture ./cmd/qenex-picture

run: build ## run a Linux program in a virtual machine of its own; no guest to download
	packaging/demo

demo-sched: build ## place eight native guests on this machine's CPUs: with a plan that pays, and with one that does not (1 minute)
	packaging/demo-sched

test: guest lint test-uroot test-svm test-debian test-vtpm test-race test-go ## run every test: lint, the svm lane, the race detector, go test

# Without cgo, as the program is built: with it, Go cannot make a system call on all threads, and no guest is confined.
test-go: ## run the ordinary tests
	CGO_ENABLED=0 $(GO) test -tags '$(BUILD_TAGS)' ./...

test-race: ## run the tests of the concurrent rooms under the race detector
	$(GO) test -race -short -tags '$(BUILD_TAGS)' $(RACE_PACKAGES)

test-svm: guest ## run the KVM tests inside an emulated machine with AMD SVM (needs QEMU; QENEX_NO_SVM=1 leaves them out)
	$(GO) run ./internal/programs/prebuild bin/programs
	$(GO) run ./internal/svmlane/svmtest -timeout 15m -artefacts $(SVM_ARTEFACTS) -extra bin/programs $(SVM_PACKAGES)

test-debian: guest guest-debian ## run a Debian disk on Debian's kernel in the svm lane, and kill it (needs root once, for debootstrap)
	$(GO) run ./internal/svmlane/svmtest -timeout 8m -artefacts stock/vmlinux,initramfs-agent-stock.cpio -disks debian.ext4 ./internal/debiantest

test-vtpm: guest ## have a stock Debian kernel read the TPM that it was measured into, in the svm lane (needs swtpm)
	$(GO) run ./internal/svmlane/svmtest -timeout 8m -run TestStockLinuxReadsPCRs -programs swtpm -artefacts stock/vmlinuz,initramfs-busybox.cpio ./trust

test-uroot: ## run the tests of the u-root guest's own module
	cd guest/uroot && $(GO) test ./...

test-quantum: ## run the tests of the quantum process scheduler: solvers, circuits, planner, simulator (QENEX_GSET=DIR: also on the G-set files there)
	CGO_ENABLED=0 $(GO) test -count=1 -v ./scheduler/...

test-ai: ## run the tests of the learning parts (build tag ai)
	packaging/test-tagged ai 'the AI memory manager and fault diagnosis'

stress-test: guest ## boots, pauses and resets for STRESS_TIME under the race detector, STRESS_OPS hostile operations a device, native guests
	@$(GO) test -list '^TestStress' ./vmm | grep -q '^TestStress' || { echo 'there is no stress test in ./vmm' >&2; exit 1; }
	$(GO) test -race -count=1 -v -timeout 0 -run '^TestStress' ./vmm -stress $(STRESS_TIME)
	$(GO) test -count=1 -v -timeout 0 -run '^TestStress' $(HOSTILE_PACKAGES) -stress $(STRESS_OPS)
	CGO_ENABLED=0 $(GO) test -count=1 -v -timeout 0 -run '^TestStressPrograms$$' ./internal/programs -stress $(STRESS_TIME)

bench: build guest guest-bench ## measure QENEX: native guests beside gVisor, Linux kernels beside QEMU and gokvm, the audit log beside tessera
	$(GO) build -o bin/gokvm github.com/bobuhiro11/gokvm
	bin/qenex bench --gokvm bin/gokvm $(BENCH_FLAGS)
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench . ./auditchain ./trust
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench Audit ./cmd/qenex
	cd auditchain/tesserabench && $(GO) test -run '^$$' -bench .

bench-svm: guest guest-bench ## the same inside the svm lane's machine, where guest kernel code is not emulated by KVM
	$(GO) run ./internal/svmlane/svmbench $(BENCH_FLAGS)

fuzz: ## run every fuzz target for FUZZ_TIME
	packaging/fuzz $(FUZZ_TIME)

lint: ## gofmt, go vet, staticcheck, who imports whom, shell syntax
	packaging/lint

guest: ## make all guest artefacts: kernels and initramfs images (a kernel build: about 5 minutes, once)
	guest/build.sh all

guest-stock: ## make the stock kernel and the initramfs images; no kernel build
	guest/build.sh tiny busybox stock uroot agent

guest-lean: ## make the lean kernel and the small initramfs images
	guest/build.sh tiny busybox lean agent

guest-debian: ## make a Debian disk with debootstrap (as root; 2 to 5 minutes, once)
	guest/build.sh debian

guest-bench: ## make the guest that `make bench` measures devices with
	guest/build.sh bench

install: build ## install binary, man page, completions, licences and a udev rule to copy, under DESTDIR and PREFIX
	install -D -m 755 bin/qenex '$(DESTDIR)$(PREFIX)/bin/qenex'
	install -D -m 755 bin/qenex-vmm '$(DESTDIR)$(PREFIX)/bin/qenex-vmm'
	install -D -m 755 bin/qenex-picture '$(DESTDIR)$(PREFIX)/bin/qenex-picture'
	install -d '$(DESTDIR)$(PREFIX)/share/man/man1' '$(DESTDIR)$(PREFIX)/share/bash-completion/completions' \
		'$(DESTDIR)$(PREFIX)/share/zsh/site-functions' '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d'
	bin/qenex man >'$(DESTDIR)$(PREFIX)/share/man/man1/qenex.1'
	bin/qenex completion bash >'$(DESTDIR)$(PREFIX)/share/bash-completion/completions/qenex'
	bin/qenex completion zsh >'$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_qenex'
	bin/qenex completion fish >'$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/qenex.fish'
	install -D -m 644 -t '$(DESTDIR)$(PREFIX)/share/doc/qenex' LICENSE NOTICE LICENSES/*.txt packaging/65-qenex-kvm.rules
	@echo 'If only root may open /dev/kvm here: $(PREFIX)/share/doc/qenex/65-qenex-kvm.rules says what to do.'

uninstall: ## remove what install put there
	rm -f '$(DESTDIR)$(PREFIX)/bin/qenex' '$(DESTDIR)$(PREFIX)/bin/qenex-vmm' '$(DESTDIR)$(PREFIX)/bin/qenex-picture' '$(DESTDIR)$(PREFIX)/share/man/man1/qenex.1' \
		'$(DESTDIR)$(PREFIX)/share/bash-completion/completions/qenex' \
		'$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_qenex' \
		'$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/qenex.fish' \
		'$(DESTDIR)$(PREFIX)/share/doc/qenex/65-qenex-kvm.rules'
	for f in LICENSE NOTICE LICENSES/*.txt; do rm -f "$(DESTDIR)$(PREFIX)/share/doc/qenex/$${f##*/}"; done

clean: ## remove what make built here
	rm -rf bin

distclean: clean ## also remove what configure wrote
	rm -f config.mk config.mk.part

clean-guest: ## remove the guest artefacts and their downloads from the cache
	guest/build.sh clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | awk -F'\t' '{ printf "  %-14s %s\n", $$1, $$2 }'
