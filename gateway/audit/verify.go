// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sdbox/gateway/store"
	"sdbox/internal/merkle"
)

// Report says what an export is that verified.
type Report struct {
	Log         string    // name of the log
	Rows        int64     // all of them, from the first
	Root        [32]byte  // tree hash the checkpoint signs
	First, Last time.Time // of the first and the last row
	Erased      int64     // rows whose personal values were erased
}

// Fault is what happened to the first bad row.
type Fault string

// The faults.
const (
	Altered  Fault = "altered"  // its content is not what was sealed
	Deleted  Fault = "deleted"  // it was sealed, and is not in the export
	Inserted Fault = "inserted" // it is in the export, and was never sealed
	Swapped  Fault = "swapped"  // it stands in another row's place
	Cut      Fault = "cut off"  // it and all rows after it are not in the export
	Personal Fault = "personal values altered"
)

// BadRowError names the first bad row of an export.
type BadRowError struct {
	Row    int64 // position in the export, the first is 1; where a row is missing, its number
	Fault  Fault
	Detail string
}

// Error says which row and what happened to it: "audit row 42: altered (...)".
func (e *BadRowError) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("audit row %d: %s", e.Row, e.Fault)
	}
	return fmt.Sprintf("audit row %d: %s (%s)", e.Row, e.Fault, e.Detail)
}

// maxLine bounds a line of rows.jsonl: 64 fields of 64 kB, twice, written as JSON in JSON.
const maxLine = 64 << 20

// Verify checks an export with nothing but the log's verifier key. The first bad row is a *BadRowError; tiles or a
// checkpoint that do not stand by themselves wrap merkle.ErrDamaged. Checkpoints of the same log kept from earlier, if
// given, must be beginnings of it: only they show that a whole end was cut off together with its seals.
func Verify(dir, verifier string, kept ...[]byte) (Report, error) {
	sealed, err := merkle.Read(os.DirFS(dir), verifier)
	if err != nil {
		return Report{}, fmt.Errorf("audit export: %w", err)
	}
	for _, checkpoint := range kept {
		if err := sealed.Extends(checkpoint, verifier); err != nil {
			return Report{}, fmt.Errorf("audit export: %w", err)
		}
	}
	f, err := os.Open(filepath.Join(dir, rowsFile))
	if err != nil {
		return Report{}, fmt.Errorf("audit export: %w", err)
	}
	defer f.Close() // only read from
	report, err := verifyRows(f, sealed)
	if err != nil {
		return Report{}, fmt.Errorf("audit export: %w", err)
	}
	return report, nil
}

// verifyRows reads the rows one after the other. A row that is not the one sealed at its place is judged with the help of
// those that follow: which of them is sealed where tells deletion, insertion and exchange from alteration.
func verifyRows(f io.Reader, sealed *merkle.Sealed) (Report, error) {
	report := Report{Log: sealed.Origin, Root: sealed.Root}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for n := int64(0); lines.Scan(); n++ {
		row, err := decode(lines.Bytes())
		if n >= int64(len(sealed.Leaves)) {
			return report, &BadRowError{n + 1, Inserted, "after the last row that was sealed"}
		}
		if err != nil {
			return report, &BadRowError{n + 1, Altered, err.Error()}
		}
		if merkle.LeafHash([]byte(row.Leaf)) != sealed.Leaves[n] {
			return report, judge(sealed, n, row, lines)
		}
		if err := report.count(n, row); err != nil {
			return report, err
		}
	}
	if err := lines.Err(); err != nil {
		return report, &BadRowError{report.Rows + 1, Altered, err.Error()}
	}
	if report.Rows < int64(len(sealed.Leaves)) {
		return report, &BadRowError{report.Rows + 1, Cut, fmt.Sprintf("%d rows were sealed", len(sealed.Leaves))}
	}
	return report, nil
}

// judge names what happened at place n, where row stands and is not the row sealed there.
func judge(sealed *merkle.Sealed, n int64, row exported, lines *bufio.Scanner) error {
	place := slices.Index(sealed.Leaves, merkle.LeafHash([]byte(row.Leaf)))
	later := false // the row sealed at n stands further on
	for !later && lines.Scan() {
		after, err := decode(lines.Bytes())
		later = err == nil && merkle.LeafHash([]byte(after.Leaf)) == sealed.Leaves[n]
	}
	switch {
	case place >= 0 && int64(place) < n:
		return &BadRowError{n + 1, Inserted, fmt.Sprintf("a second row %d", place+1)}
	case place >= 0 && later:
		return &BadRowError{n + 1, Swapped, fmt.Sprintf("row %d stands here", place+1)}
	case place >= 0:
		return &BadRowError{n + 1, Deleted, fmt.Sprintf("row %d stands here", place+1)}
	case later:
		return &BadRowError{n + 1, Inserted, fmt.Sprintf("it calls itself %d", number(row))}
	}
	return &BadRowError{n + 1, Altered, fmt.Sprintf("it calls itself %d", number(row))}
}

func number(row exported) int64 {
	var leaf store.Leaf
	if err := json.Unmarshal([]byte(row.Leaf), &leaf); err != nil {
		return 0
	}
	return leaf.Seq
}

// count checks what a sealed row says of itself, and its personal values against their commitments.
func (r *Report) count(n int64, row exported) error {
	var leaf store.Leaf
	if err := strict([]byte(row.Leaf), &leaf); err != nil || leaf.Seq != n+1 {
		return &BadRowError{n + 1, Altered, fmt.Sprintf("it was sealed as row %d", leaf.Seq)}
	}
	switch {
	case len(leaf.Personal) > 0 && len(row.Personal) == 0 && len(row.Salt) == 0:
		r.Erased++
	case len(leaf.Personal) != len(row.Personal):
		return &BadRowError{n + 1, Personal, fmt.Sprintf("%d values, %d were sealed", len(row.Personal), len(leaf.Personal))}
	}
	for name, value := range row.Personal {
		if store.Commit(row.Salt, name, value) != leaf.Personal[name] {
			return &BadRowError{n + 1, Personal, name}
		}
	}
	at := time.UnixMilli(leaf.At).UTC()
	if r.Rows == 0 {
		r.First = at
	}
	r.Rows, r.Last = n+1, at
	return nil
}

func decode(line []byte) (row exported, err error) { return row, strict(line, &row) }

func strict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text after the row")
	}
	return nil
}
