# SPDX-License-Identifier: Apache-2.0
set terminal x11 size 1040,860 position 30,40 title "Price index, 2013 to 2026" enhanced
set title "Consumer price index (2013 = 100)"
set xlabel "Year"
set ylabel "Index"
set grid
set key top left
plot "prices.dat" using 1:2 with lines lw 2 lc rgb "#0b4f8a" title "observed", "" using 1:3 with lines dt 2 lw 2 lc rgb "#a3141f" title "trend"
