// SPDX-License-Identifier: Apache-2.0

// Package pcsc brings cards from the readers of this machine: it watches them through the PC/SC daemon and opens a
// card.Transport on one. It is the only door to the PC/SC library and the only card package that needs cgo.
package pcsc
