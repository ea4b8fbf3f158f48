# SPDX-License-Identifier: Apache-2.0
# What a desktop of the bubble hist begins with: a terminal.
command -v xsetroot >/dev/null && xsetroot -solid '#3c3350'
openbox &
xterm -geometry 76x24+1120+470 -fa 'DejaVu Sans Mono' -fs 13 -bg '#221c30' -fg '#f0ecf6' -T Terminal &
wait
