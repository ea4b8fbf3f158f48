// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"testing"

	"sdbox/internal/lab/day"
	"sdbox/internal/lab/house"
	"sdbox/internal/refusal"

	"github.com/stretchr/testify/require"
)

// TestEveryCodeIsReadFromTheScreen kills the shipped programs in a session, as kill -9 does, then brings everything else about that a
// box has a code for, and reads what the screens say.
func TestEveryCodeIsReadFromTheScreen(t *testing.T) {
	site, _ := build(t, house.Config{Language: refusal.French})
	options := day.Options{Out: os.Getenv("SDBOX_TROUBLE"), Print: t.Output()}
	_, err := day.Trouble(t.Context(), site, options)
	require.NoError(t, err)
	_, err = day.Refusals(t.Context(), site, options)
	require.NoError(t, err)
}
