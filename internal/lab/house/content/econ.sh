# SPDX-License-Identifier: Apache-2.0
# What a desktop of the bubble econ begins with: a plot of its data, a terminal.
command -v xsetroot >/dev/null && xsetroot -solid '#4a4030'
openbox &
(cd "$HOME" && exec gnuplot -persist plot.gp) &
xterm -geometry 76x24+1120+470 -fa 'DejaVu Sans Mono' -fs 13 -bg '#2a2018' -fg '#f4eee6' -T Terminal &
wait
