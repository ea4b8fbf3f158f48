# SPDX-License-Identifier: Apache-2.0
# What a desktop of the bubble epi begins with: a spreadsheet with its data, a terminal.
command -v xsetroot >/dev/null && xsetroot -solid '#2f4858'
openbox &
gnumeric --geometry=1060x930+20+30 "$HOME/cohort.csv" &
xterm -geometry 76x24+1120+470 -fa 'DejaVu Sans Mono' -fs 13 -bg '#10212b' -fg '#e8eef2' -T Terminal &
wait
