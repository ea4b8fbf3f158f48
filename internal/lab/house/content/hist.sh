# SPDX-License-Identifier: Apache-2.0
# What a desktop of the bubble hist begins with: a terminal. The programs start once the window manager is ready: a window
# that is mapped while openbox starts is sometimes lost.
if [ "$1" != programs ]; then
	command -v xsetroot >/dev/null && xsetroot -solid '#3c3350'
	exec openbox --startup "sh $0 programs"
fi
exec xterm -geometry 76x24+1120+470 -fa 'DejaVu Sans Mono' -fs 13 -bg '#221c30' -fg '#f0ecf6' -T Terminal
