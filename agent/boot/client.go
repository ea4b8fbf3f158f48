// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"sdbox/agent/screen"
	"sdbox/internal/refusal"

	"golang.org/x/sys/unix"
)

// Limits of what PID 1 and the agent say to one another (implementation).
const (
	maxMessage = 64 << 10 // bytes of one message
	maxKept    = 4 << 10  // bytes PID 1 keeps for the agent
	clientFile = 3        // the agent's end of the socket
)

// Event is what PID 1 tells the agent: exactly one of its fields is set. The newest network, site and trouble are told again to an agent
// that starts anew.
type Event struct {
	Start   *Start     `json:"start,omitempty"` // the first event of each agent
	Network *Network   `json:"network,omitempty"`
	Site    *Site      `json:"site,omitempty"`
	Trouble *Trouble   `json:"trouble,omitempty"`
	System  *System    `json:"system,omitempty"`
	Update  *Update    `json:"update,omitempty"`
	Files   []*os.File `json:"-"` // came with the event; the receiver's to close
}

// Start is what an agent begins with.
type Start struct {
	Screen *screen.Geometry `json:"screen,omitempty"` // of the device file in Event.Files; nil = no display
	Kept   []byte           `json:"kept,omitempty"`   // what Client.Keep gave before the last agent ended unasked
}

// Network is how the box hangs in the net of the place.
type Network struct {
	State    NetworkState `json:"state"`
	Address  string       `json:"address,omitempty"`
	Resolver string       `json:"resolver,omitempty"`
}

// NetworkState says how far the way to the centre is.
type NetworkState string

// The states of the network.
const (
	NoAdapter NetworkState = "no adapter" // no network hardware was found
	NoCable   NetworkState = "no cable"
	NoAddress NetworkState = "no address" // nobody answers to DHCP
	Up        NetworkState = "up"
)

// Site is what the configuration slot on the disk says of the place where the box stands. It is hints, not trust.
type Site struct {
	Gateways []string     `json:"gateways,omitempty"` // host:port of front doors, to be tried first
	Layout   string       `json:"layout,omitempty"`   // of the keyboard
	Language refusal.Lang `json:"language,omitempty"`
}

// Trouble is a device that the box will not use, or cannot; over when it is gone again.
type Trouble struct {
	Refusal refusal.Refusal `json:"refusal"`
	Over    bool            `json:"over,omitempty"`
}

// System is what runs, and how it came to that.
type System struct {
	Model   string `json:"model"`
	Version string `json:"version"`
	Trial   bool   `json:"trial,omitempty"` // it stays only once it has shown all parts of the health gate
	Tried   string `json:"tried,omitempty"` // SHA-256 of the image that was installed last and has not been found good
	Tries   int    `json:"tries,omitempty"` // how often
}

// Update is how far an installation is.
type Update struct {
	Done      int64  `json:"done"` // bytes
	Total     int64  `json:"total"`
	Error     string `json:"error,omitempty"`     // why it ended without success
	Full      bool   `json:"full,omitempty"`      // the delta does not apply here: the full file is asked for
	Installed bool   `json:"installed,omitempty"` // a restart boots it
}

// Part is one part of what a new release must have shown before it stays.
type Part string

// The parts of the health gate.
const (
	ReaderSeen  Part = "reader"
	Attested    Part = "attested"
	TunnelUp    Part = "tunnel"
	ScreenShown Part = "screen"
)

// request is what the agent asks of PID 1: exactly one of its fields is set.
type request struct {
	Beat    bool     `json:"beat,omitempty"`
	Keep    *[]byte  `json:"keep,omitempty"` // empty = forget
	Healthy Part     `json:"healthy,omitempty"`
	Install *install `json:"install,omitempty"` // the release's bytes come by the file beside it
	Reboot  string   `json:"reboot,omitempty"`  // why
}

type install struct {
	Note  []byte `json:"note"`            // the signed release note
	Delta bool   `json:"delta,omitempty"` // the delta from what runs will come, not the full file
}

// Client is the agent's way to PID 1. A nil Client is that of an agent that runs as a process of another system: it hears nothing, and
// what it is asked to do does nothing.
type Client struct {
	conn   *net.UnixConn
	events chan Event
	mu     sync.Mutex // one message after the other
}

// Inherit takes the socket that PID 1 gave this process, and waits for what the agent begins with.
func Inherit() (*Client, Event, error) {
	f := os.NewFile(clientFile, "boot")
	defer f.Close()
	conn, err := packetConn(f)
	if err != nil {
		return nil, Event{}, fmt.Errorf("boot: %w", err)
	}
	c := NewClient(conn)
	e, err := receive[Event](conn)
	if err == nil && e.message.Start == nil {
		err = errors.New("no start")
	}
	if err != nil {
		return nil, Event{}, errors.Join(fmt.Errorf("boot: %w", err), conn.Close())
	}
	e.message.Files = e.files
	return c, e.message, nil
}

// NewClient makes a client of one end of a socket pair (SOCK_SEQPACKET), which it takes over.
func NewClient(conn *net.UnixConn) *Client { return &Client{conn: conn, events: make(chan Event, 16)} }

// Run receives until ctx ends; events come by Events. Its end before that is PID 1's, and so that of the machine.
func (c *Client) Run(ctx context.Context) error {
	if c == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	for {
		p, err := receive[Event](c.conn)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("boot: %w", err)
		}
		p.message.Files = p.files
		select {
		case c.events <- p.message:
		case <-ctx.Done():
			return nil
		}
	}
}

// Events is what PID 1 tells, in order.
func (c *Client) Events() <-chan Event {
	if c == nil {
		return nil
	}
	return c.events
}

// Beat says that the agent's loop is alive. An agent that does not beat for long is ended and started anew.
func (c *Client) Beat() error { return c.send(request{Beat: true}) }

// Keep hands PID 1 at most 4 KiB that it holds in memory, unread, for the agent that comes after this one, should this one end unasked.
// Nothing makes it forget.
func (c *Client) Keep(kept []byte) error {
	kept = append([]byte{}, kept...) // nil would be no request at all
	return c.send(request{Keep: &kept})
}

// Healthy says that one part of what a new release must show has been seen.
func (c *Client) Healthy(p Part) error { return c.send(request{Healthy: p}) }

// Reboot asks for the machine to start again, and says why in the log.
func (c *Client) Reboot(why string) error { return c.send(request{Reboot: why}) }

// Install hands PID 1 a signed release note, and then, by the writer it returns, the file that the note names: the delta from the version
// that runs, or the full one. Events tell how far it is, and how it ended; nothing is done with a part of a file. The writer is closed
// after the last byte, or to give up.
func (c *Client) Install(note []byte, delta bool) (io.WriteCloser, error) {
	if c == nil {
		return nil, errors.New("boot: install: this is no machine's own system")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("boot: install: %w", err)
	}
	defer r.Close()
	if err := c.send(request{Install: &install{note, delta}}, r); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (c *Client) send(r request, files ...*os.File) error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := send(c.conn, r, files...); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	return nil
}

// packetConn makes a connection of one end of a socket pair; the file stays the caller's.
func packetConn(f *os.File) (*net.UnixConn, error) {
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	packets, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("want a Unix socket, have %T", conn), conn.Close())
	}
	return packets, nil
}

// send writes one message, and files beside it.
func send(conn *net.UnixConn, message any, files ...*os.File) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(text) > maxMessage {
		return fmt.Errorf("message of %d bytes: at most %d", len(text), maxMessage)
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			if fds[i], err = number(f); err != nil {
				return err
			}
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err = conn.WriteMsgUnix(text, rights, nil)
	return err
}

// number returns a file's descriptor and leaves it as it is: File.Fd would make it one that blocks.
func number(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	n := -1
	err = raw.Control(func(fd uintptr) { n = int(fd) })
	return n, err
}

// packet is one message and what came beside it.
type packet[M any] struct {
	message M
	files   []*os.File
}

// maxFiles is how many files come with one message.
const maxFiles = 4

// receive reads one message. A sender that breaks the form of it has no say any more: the error ends the connection.
func receive[M any](conn *net.UnixConn) (packet[M], error) {
	var p packet[M]
	text, rights := make([]byte, maxMessage+1), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, rn, flags, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return p, err
	}
	p.files, err = parseRights(rights[:rn])
	switch {
	case err != nil:
	case n == 0:
		err = io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = fmt.Errorf("message over %d bytes, or with more than %d files", maxMessage, maxFiles)
	default:
		err = json.Unmarshal(text[:n], &p.message)
	}
	if err != nil {
		closeAll(p.files)
		return packet[M]{}, err
	}
	return p, nil
}

func parseRights(rights []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
