// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"sdbox/gateway/store"
	"sdbox/internal/merkle"
)

// Compare reads every audit row of a store and checks that it is the one sealed in dir, as far as that goes: rows that were committed
// and not sealed yet may follow. It returns how many rows there are. A difference wraps ErrRolledBack.
func Compare(ctx context.Context, s *store.Store, dir, verifier string) (rows int64, err error) {
	sealed, err := merkle.Read(os.DirFS(dir), verifier)
	if _, none := os.Stat(filepath.Join(dir, "checkpoint")); errors.Is(none, fs.ErrNotExist) {
		sealed, err = &merkle.Sealed{}, nil // nothing was sealed yet
	}
	if err != nil {
		return 0, fmt.Errorf("audit log: %w", err)
	}
	err = Rows(ctx, s, func(row store.AuditRow) error {
		rows++
		if row.Seq != rows || rows <= int64(len(sealed.Leaves)) && merkle.LeafHash(row.Leaf) != sealed.Leaves[rows-1] {
			return fmt.Errorf("audit row %d: %w", rows, ErrRolledBack)
		}
		return nil
	})
	if err == nil && rows < int64(len(sealed.Leaves)) {
		err = fmt.Errorf("audit row %d: %w", rows+1, ErrRolledBack)
	}
	return rows, err
}

// Rows calls yield for every audit row of a store, in order.
func Rows(ctx context.Context, s *store.Store, yield func(store.AuditRow) error) error {
	for after := int64(0); ; {
		rows, err := s.Audit(ctx, store.AuditFilter{After: after, Limit: batch})
		if err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		if len(rows) == 0 {
			return nil
		}
		for _, row := range rows {
			if err := yield(row); err != nil {
				return err
			}
			after = row.Seq
		}
	}
}
