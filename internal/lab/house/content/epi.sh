# SPDX-License-Identifier: Apache-2.0
# What a desktop of the bubble epi begins with: a spreadsheet with its data, a terminal. The programs start once the window manager is ready: a window
# that is mapped while openbox starts is sometimes lost.
if [ "$1" != programs ]; then
	command -v xsetroot >/dev/null && xsetroot -solid '#2f4858'
	exec openbox --startup "sh $0 programs"
fi
gnumeric --geometry=1060x930+20+30 "$HOME/cohort.csv" &
exec xterm -geometry 76x24+1120+470 -fa 'DejaVu Sans Mono' -fs 13 -bg '#10212b' -fg '#e8eef2' -T Terminal
