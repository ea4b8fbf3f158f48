// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"path/filepath"
	"testing"

	"sdbox/gateway/registry"
	"sdbox/gateway/store"
	"sdbox/gateway/store/storetest"
	"sdbox/internal/attest"

	"github.com/stretchr/testify/require"
)

func TestGatewayKeepsItsStateInPostgreSQL(t *testing.T) {
	server, err := storetest.Start()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	conf, release := settle(t)
	conf.Database, err = storetest.Schema(t.Context(), server.Dir(), "house")
	require.NoError(t, err)
	g, stop := run(t, conf)
	_, err = g.registry.AddReference(t.Context(), "operator:test", registry.Reference{Name: "lab 1", Model: "sdbox-1", Note: note(t, release, attest.Registers()...)})
	require.NoError(t, err)
	box(t, g)
	stop()
	require.NoFileExists(t, filepath.Join(conf.State, databaseEntry))
	again, stop := run(t, conf)
	boxes, err := again.registry.Boxes(t.Context())
	require.NoError(t, err)
	require.Len(t, boxes, 1)
	require.Equal(t, registry.Enrolled, boxes[0].State)
	_, err = Backup(t.Context(), conf, filepath.Join(t.TempDir(), "b"))
	require.ErrorIs(t, err, store.ErrServer)
	stop()
}
