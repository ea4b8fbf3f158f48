// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Times of a desktop's life.
const (
	startTime  = 20 * time.Second // until Xvnc is ready
	layoutTime = 5 * time.Second
	endTime    = 3 * time.Second // between asking programs to end and ending them
)

// The smallest side of a desktop, in pixels.
const minSide = 200

// The files of a desktop in its own directory, which belongs to the account.
const (
	socketFile    = "rfb"
	authorityFile = "Xauthority"
)

// desktop is one account's desktop, running or not. It outlives every connection, and this program if that is killed:
// the next one finds it by its socket.
type desktop struct {
	account Account
	run     string // the directory of all desktops, root's own
	log     *slog.Logger

	lock   chan struct{} // holds one token; who has it starts, finds or ends the desktop
	layout string        // owned with lock; the keyboard layout last set
	server *process      // owned with lock; nil when found or not running
	owned  sync.WaitGroup
}

func newDesktop(a Account, run string, log *slog.Logger) *desktop {
	if a.GID == 0 {
		a.GID = a.UID
	}
	d := &desktop{account: a, run: run, log: log.With("account", a.Name), lock: make(chan struct{}, 1)}
	d.lock <- struct{}{}
	return d
}

func (d *desktop) dir() string            { return filepath.Join(d.run, d.account.Name) }
func (d *desktop) file(n string) string   { return filepath.Join(d.dir(), n) }
func (d *desktop) beside(n string) string { return filepath.Join(d.run, d.account.Name+n) }

// connect returns a connection to the desktop's RFB socket. It finds the desktop or starts it with this size, and sets
// the keyboard layout unless it is empty.
func (d *desktop) connect(ctx context.Context, width, height int, layout string) (net.Conn, error) {
	select {
	case <-d.lock:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { d.lock <- struct{}{} }()
	conn, err := d.dial()
	if err != nil {
		d.log.Info("starting desktop", "width", width, "height", height)
		if err := d.start(ctx, width, height, layout); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDesktop, err)
		}
		if conn, err = d.dial(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDesktop, err)
		}
		return conn, nil
	}
	if layout != "" && layout != d.layout {
		if err := d.setLayout(ctx, layout); err != nil {
			d.log.Warn("keyboard layout not set", "layout", layout, "err", err)
		}
	}
	return conn, nil
}

// up says whether the desktop runs. It does not connect: Xvnc shuts out a caller who connects often and says nothing.
func (d *desktop) up() bool {
	m, err := d.recall()
	return err == nil && m.alive()
}

// dial connects to the RFB socket and makes sure that the account itself listens there: the directory is the
// account's, which could have put a link to another person's socket into it.
func (d *desktop) dial() (net.Conn, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: d.file(socketFile), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("connect to desktop: %w", err)
	}
	uid, err := listener(conn)
	if err != nil || uid != d.account.UID {
		conn.Close()
		return nil, errors.Join(fmt.Errorf("desktop of account %s is not its own: uid %d listens", d.account.Name, uid), err)
	}
	return conn, nil
}

// listener returns the user who called listen on the other end (unix(7), SO_PEERCRED).
func listener(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// prepare makes the desktop's directory afresh, with a new Xauthority, and the account's home if it is missing. All
// is written before the directory becomes the account's: nothing follows a link that the account made.
func (d *desktop) prepare() error {
	dir := d.dir()
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(d.file(authorityFile), newXauthority(), 0o600); err != nil {
		return err
	}
	if err := os.Mkdir(d.file("user"), 0o700); err != nil {
		return err
	}
	for _, path := range []string{d.file(authorityFile), d.file("user"), dir} {
		if err := os.Chown(path, int(d.account.UID), int(d.account.GID)); err != nil {
			return err
		}
	}
	_, err := os.Lstat(d.account.Home)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(d.account.Home), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(d.account.Home, 0o700); err != nil {
		return err
	}
	return os.Chown(d.account.Home, int(d.account.UID), int(d.account.GID))
}

// socketDir is the directory of X sockets (X(7)).
const socketDir = "/tmp/.X11-unix"

// prepareSockets makes that directory as the X server wants it when it does not run as root. One that is there must be root's, or ours:
// whoever owns it can put a server of his own in the place of another person's.
func prepareSockets(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		var is unix.Stat_t
		if err := unix.Lstat(dir, &is); err != nil {
			return err
		}
		if is.Mode&unix.S_IFMT != unix.S_IFDIR || is.Mode&unix.S_ISVTX == 0 || is.Uid != 0 && int(is.Uid) != os.Geteuid() {
			return fmt.Errorf("%s is uid %d's, with mode %o: want a sticky directory of root's", dir, is.Uid, is.Mode)
		}
		return nil
	}
	return os.Chmod(dir, fs.ModeSticky|0o777) // Mkdir would apply the umask
}

// start runs Xvnc and the session under the account. The desktop is ready on return.
func (d *desktop) start(ctx context.Context, width, height int, layout string) error {
	if err := d.endLeftover(); err != nil {
		return fmt.Errorf("end the last desktop: %w", err)
	}
	if err := errors.Join(prepareSockets(socketDir), d.prepare()); err != nil {
		return fmt.Errorf("prepare desktop: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	server, display, err := d.startServer(ctx, width, height)
	if err != nil {
		return err
	}
	if err := d.remember(server.pid(), display); err != nil {
		server.end()
		return err
	}
	d.server, d.layout = server, ""
	if layout != "" {
		if err := d.setLayout(ctx, layout); err != nil {
			d.log.Warn("keyboard layout not set", "layout", layout, "err", err)
		}
	}
	session, err := d.startSession(display)
	if err != nil {
		server.end()
		return err
	}
	d.log.Info("desktop is up", "display", display, "pid", server.pid())
	d.owned.Add(1)
	go d.watch(server, session)
	return nil
}

// watch ends the desktop's other half when one has ended.
func (d *desktop) watch(server, session *process) {
	defer d.owned.Done()
	select {
	case <-server.ended:
		d.log.Info("desktop has ended")
	case <-session.ended:
		d.log.Info("session command and all its programs have ended: closing the desktop")
	}
	session.end()
	server.end()
}

// end stops the desktop, whether this program started it or found it.
func (d *desktop) end() error {
	<-d.lock
	defer func() { d.lock <- struct{}{} }()
	if d.server != nil {
		d.server.end()
	}
	d.owned.Wait()
	return d.endLeftover()
}

// setLayout is setxkbmap under the account.
func (d *desktop) setLayout(ctx context.Context, layout string) error {
	m, err := d.recall()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, layoutTime)
	defer cancel()
	cmd := d.command(ctx, m.display, "setxkbmap", "-layout", layout)
	cmd.WaitDelay = time.Second // the account's other programs may keep its output open as long as they like
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("setxkbmap: %w: %.200s", err, out)
	}
	d.layout = layout
	return nil
}

// geometry is Xvnc's -geometry.
func geometry(width, height int) string { return strconv.Itoa(width) + "x" + strconv.Itoa(height) }
