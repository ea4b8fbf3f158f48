// SPDX-License-Identifier: Apache-2.0

// Package day plays a researcher's day on the lab's house: it inserts cards, places fingers, presses keys, and reads the
// screens of the boxes as a person would, from their pixels alone. It measures what the house promises and writes the report.
package day
