// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmpWithin is how long a command of QEMU's monitor may take. A guest under TCG on a busy machine holds the monitor up.
const qmpWithin = 60 * time.Second

// qmp speaks to QEMU's monitor (QEMU Machine Protocol, docs/interop/qmp-spec.txt): one JSON object a line.
type qmp struct {
	conn   net.Conn
	events *Log // lines that are no answers
	lines  chan []byte
	turn   sync.Mutex // one command at a time
	lost   error      // why no command can be given any more; guarded by turn
}

// reply is what QEMU writes: an answer, or something that happened.
type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
}

// newQMP speaks over a connection that QEMU has opened.
func newQMP(conn net.Conn, events *Log) *qmp {
	return &qmp{conn: conn, events: events, lines: make(chan []byte, 1)}
}

// read hands on what QEMU writes until the connection ends. It is owned by the machine.
func (q *qmp) read() {
	defer close(q.lines)
	defer q.events.end()
	in := bufio.NewScanner(q.conn)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var r reply
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			return // not QEMU: no more commands
		}
		if r.Event != "" {
			q.events.add(in.Text())
			continue
		}
		select {
		case q.lines <- append([]byte(nil), in.Bytes()...):
		default: // an answer that nobody asked for
		}
	}
}

// hello takes the greeting and opens the monitor for commands.
func (q *qmp) hello(ctx context.Context) error {
	if _, err := q.next(ctx); err != nil {
		return fmt.Errorf("greeting of the monitor: %w", err)
	}
	return q.run(ctx, "qmp_capabilities", nil, nil)
}

// run gives one command and reads its answer into result, which may be nil.
func (q *qmp) run(ctx context.Context, command string, arguments, result any) error {
	q.turn.Lock()
	defer q.turn.Unlock()
	if q.lost != nil {
		return fmt.Errorf("QEMU %s: %w", command, q.lost)
	}
	message, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return fmt.Errorf("QEMU %s: %w", command, err)
	}
	if err := q.conn.SetWriteDeadline(time.Now().Add(qmpWithin)); err != nil {
		return fmt.Errorf("QEMU %s: %w", command, err)
	}
	if _, err := q.conn.Write(append(message, '\n')); err != nil {
		return fmt.Errorf("QEMU %s: %w", command, err)
	}
	line, err := q.next(ctx)
	if err != nil {
		q.lost = err // its answer would be taken for another's
		return fmt.Errorf("QEMU %s: %w", command, err)
	}
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("QEMU %s: %w", command, err)
	}
	if r.Error != nil {
		return fmt.Errorf("QEMU %s: %s: %s", command, r.Error.Class, r.Error.Desc)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(r.Return, result)
}

func (q *qmp) next(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, qmpWithin)
	defer cancel()
	select {
	case line, ok := <-q.lines:
		if !ok {
			return nil, errors.New("the monitor is closed")
		}
		return line, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
