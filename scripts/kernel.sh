#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernel.sh: build a kernel without modules from Debian's source, into build/kernel, for "make image KERNEL=build/kernel". It takes a
# quarter of an hour of two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/build/kernel
wanted=$PWD/image/kernel/config
lock=image/kernel/source.lock
work=$PWD/build/kernel.work
deb=$(build/bin/sdbox-image fetch "$lock")
rm -rf "$work"
mkdir -p "$work"
dpkg-deb --fsys-tarfile "$deb" | tar -x -O --wildcards './usr/src/linux-source-*.tar.xz' | tar -xJ --strip-components=1 -C "$work"
cd "$work"
make -s tinyconfig
scripts/kconfig/merge_config.sh -m -Q .config "$wanted" >/dev/null
make -s olddefconfig
lost=$(grep -v '^#' "$wanted" | grep -v '=n$' | grep -vxF -f .config || true)
kept=$(sed -n 's/^\(CONFIG_[A-Z0-9_]*\)=n$/^\1=/p' "$wanted" | grep -f - .config || true)
if [ -n "$lost$kept" ]; then
	printf 'lines of image/kernel/config that did not come to be:\n%s\n%s\n' "$lost" "$kept" >&2
	exit 1
fi
# Nothing of the machine that builds, nor of the hour, gets into the kernel.
export KBUILD_BUILD_USER=sdbox KBUILD_BUILD_HOST=sdbox KBUILD_BUILD_TIMESTAMP="2026-11-24 00:00:00 UTC" KBUILD_BUILD_VERSION=1
echo "building the kernel of $(basename "$deb")"
make -s -j"$(nproc)" bzImage
rm -rf "$out"
mkdir -p "$out"
cp arch/x86/boot/bzImage "$out/vmlinuz"
cp .config "$out/config"
cp modules.builtin "$out/modules.builtin"
make -s kernelrelease >"$out/release"
cp "../../$lock" "$out/source.lock"
cd ../..
rm -rf "$work"
ls -l "$out/vmlinuz"
