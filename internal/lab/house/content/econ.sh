# SPDX-License-Identifier: Apache-2.0
# What a desktop of the bubble econ begins with: a plot of its data, a terminal. The programs start once the window manager is ready: a window
# that is mapped while openbox starts is sometimes lost.
if [ "$1" != programs ]; then
	command -v xsetroot >/dev/null && xsetroot -solid '#4a4030'
	exec openbox --startup "sh $0 programs"
fi
(cd "$HOME" && exec gnuplot -persist plot.gp) &
exec xterm -geometry 76x24+1120+470 -fa 'DejaVu Sans Mono' -fs 13 -bg '#2a2018' -fg '#f4eee6' -T Terminal
