#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# asroot.sh COMMAND...: namespaces and readers need root; run the command as root, by sudo when we are not.
set -eu
if [ "$(id -u)" -eq 0 ]; then
	exec "$@"
fi
command -v sudo >/dev/null || { echo "sdbox needs root for its network namespaces" >&2; echo "hint: run this as root or install sudo" >&2; exit 1; }
exec sudo --preserve-env=PATH,HOME,FEW,README,GOFLAGS,GOPROXY,GOCACHE,GOMODCACHE "$@"
