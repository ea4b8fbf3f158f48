#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# image.sh [SITE]: build the operating system image of a box into build/image. Without a site file, that of a lab site, whose authorities
# and keys are made once, by the shipped programs, and kept in build/site. PROFILE, KERNEL, VERSION, DEV=1,
# and README=1, which writes the tables of image/README.md, may be set.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=build/bin
site=${1:-}
if [ -z "$site" ]; then
	site=build/site/site.toml
	if [ ! -e "$site" ]; then
		echo "making a lab site in build/site"
		rm -rf build/site build/site.new
		mkdir -p build/site.new
		"$bin/sdbox-pki" init build/site.new/pki --domain lab >/dev/null
		"$bin/sdbox-pki" reference key release-1.lab --out build/site.new/release >/dev/null
		"$bin/sdbox-image" keys build/site.new/keys --site "SD-Box lab" >/dev/null
		cat >build/site.new/site.toml <<-'END'
			domain = "lab"
			gateway = ["10.0.2.2:443"]
			gateway_name = "gw1.lab"
			root = "pki/root/cert.pem"
			keys = "keys"
			language = "en"
			support = "the lab's desk"
			events = "port:org.sdbox.events"
			finger = "port:org.sdbox.finger"

			[release]
			threshold = 1
			keys = ["release/release.pub"]
		END
		mv build/site.new build/site
	fi
fi
# The version and the floor of the clock are the last change's, so that the same sources make the same image.
seconds=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y image/packages.lock)}
"$bin/sdbox-image" build --site "$site" --agent "$bin/sdbox-agent" --profile "${PROFILE:-qemu}" \
	${KERNEL:+--kernel "$KERNEL"} ${DEV:+--dev} ${README:+--readme image/README.md} \
	--version "${VERSION:-$(date -u -d "@$seconds" +%Y.%-m.%-d)}" --built "$(date -u -d "@$seconds" +%Y-%m-%dT%H:%M:%SZ)" --out build/image
