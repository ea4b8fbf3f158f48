// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sdbox/internal/card/cardsim"
	"sdbox/internal/finger"
	"sdbox/internal/finger/fingersim"
	"sdbox/internal/lab/house"
)

// patience is how long a machine may take for one command, or a screen to say something. It is long for a loaded machine.
const patience = 60 * time.Second

// debian is an empty Debian machine: a place whose /etc, /var/lib and /usr/local are its own, with the clone of this repository
// in the folder in which commands run, and the hardware of a box.
type debian struct {
	house    *house.House
	place    *house.Place
	card     *cardsim.Sim // from the desk; owned by the script
	keyboard net.Conn     // the agent's, once it has dialled; owned by the script
	keys     net.Listener
	fingers  chan finger.Template
	closing  []func() error // last first
}

// newDebian opens one in dir.
func newDebian(dir, bin string) (*debian, error) {
	h, err := house.Open(dir, bin)
	if err != nil {
		return nil, err
	}
	m := &debian{house: h, fingers: make(chan finger.Template), closing: []func() error{h.Close}}
	if err := m.furnish(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// furnish makes the machine's own folders and the clone, and puts the stand-in of systemctl where systemd's would be.
func (m *debian) furnish() error {
	var err error
	if m.place, err = m.house.NewPlace("debian"); err != nil {
		return err
	}
	dir := m.place.Dir()
	for _, sub := range []string{"etc", "var-lib/xkb", "var-lib/swtpm-localca", "usr-local/bin", "usr-local/sbin", "clone/build"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "clone/systemd"), os.DirFS("../../systemd")); err != nil {
		return err
	}
	if err := copyFile("/proc/self/exe", filepath.Join(dir, "usr-local/sbin/systemctl")); err != nil {
		return err
	}
	// A place shows little of /etc: what Debian's packages useradd, systemd and swtpm-tools put there is brought.
	bring := fmt.Sprintf("mkdir -p %[1]s/systemd/system; cp -a /etc/skel /etc/swtpm* %[1]s", filepath.Join(dir, "etc"))
	if out, err := exec.Command("/bin/sh", "-ec", bring).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	_, err = m.run(`chmod 755 /run/place; chown tss /run/place/var-lib/swtpm-localca; ln -s /run/bin /run/place/clone/build/bin
cp -a /etc/. /run/place/etc
mount --bind /run/place/etc /etc
mount --bind /run/place/var-lib /var/lib
mount --bind /run/place/usr-local /usr/local
mkdir -m 700 /home/root`)
	return err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// run runs a script as root at the machine, in the clone, and returns what it wrote to its standard output.
func (m *debian) run(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/home/root"}
	out, err := m.place.Run(ctx, house.Account{}, env, "/bin/bash", "-euo", "pipefail", "-c", "cd /run/place/clone\n"+script)
	return string(out), err
}

// logs are the logs of the machine's programs, for a script that failed.
func (m *debian) logs() string {
	found, err := filepath.Glob(filepath.Join(m.place.Dir(), "*.log"))
	if err != nil {
		return err.Error()
	}
	var all strings.Builder
	for _, name := range found {
		text, err := os.ReadFile(name)
		fmt.Fprintf(&all, "%s (%v):\n%s\n", filepath.Base(name), err, text)
	}
	return all.String()
}

// plug connects what a box has beside its TPM: reader, keyboard and sensor.
func (m *debian) plug(ctx context.Context) error {
	if err := os.Mkdir(m.place.Outside("/run/pcscd"), 0o755); err != nil {
		return err
	}
	if _, err := m.place.Start("pcscd", []string{"PATH=/usr/sbin:/usr/bin"}, "/usr/sbin/pcscd", "--foreground"); err != nil {
		return err
	}
	keys, err := net.Listen("unix", m.place.Outside("/run/sdbox/keys.sock"))
	if err != nil {
		return err
	}
	m.keys = keys
	sensor, err := net.Listen("unix", m.place.Outside("/run/sdbox/finger.sock"))
	if err != nil {
		return errors.Join(err, keys.Close())
	}
	serving, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- fingersim.Serve(serving, sensor, m.fingers) }()
	m.closing = append(m.closing, func() error {
		cancel()
		<-ended // its error is that it was cancelled
		if m.keyboard != nil {
			m.keyboard.Close()
		}
		return keys.Close()
	})
	return nil
}

// insert puts the card into the machine's reader; the function it returns pulls it.
func (m *debian) insert(ctx context.Context) (pull func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := m.place.Dial(ctx, "tcp", "127.0.0.1:35963") // vpcd of vsmartcard, slot 0
	if err != nil {
		return nil, err
	}
	in, out := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = m.card.ServeVPCD(in, conn) // it ends when it is pulled
	}()
	return func() { out(); <-gone }, nil
}

// Close ends everything, the machine last.
func (m *debian) Close() error {
	var errs []error
	for i := len(m.closing) - 1; i >= 0; i-- {
		errs = append(errs, m.closing[i]())
	}
	return errors.Join(errs...)
}

// words reads the box's screen with tesseract, an independent program, in lower case and without spaces.
func (m *debian) words(ctx context.Context) (string, error) {
	eyes, err := house.Watch(m.place.Outside("/run/sdbox/agent/screen"), 20*time.Millisecond)
	if err != nil {
		return "", err
	}
	defer eyes.Close()
	if err := eyes.Now(ctx); err != nil {
		return "", err
	}
	img := eyes.Image
	in := fmt.Appendf(nil, "P6\n%d %d\n255\n", img.Width, img.Height)
	for y := range img.Height {
		row := img.Row(y, 0, img.Width)
		for i := 0; i < len(row); i += 4 {
			in = append(in, row[i+2], row[i+1], row[i])
		}
	}
	cmd := exec.CommandContext(ctx, "tesseract", "stdin", "stdout", "--psm", "11", "-l", "eng")
	cmd.Env = append(os.Environ(), "OMP_THREAD_LIMIT=1")
	cmd.Stdin = strings.NewReader(string(in))
	out, err := cmd.Output()
	return squeeze(string(out)), err
}

func squeeze(s string) string { return strings.ToLower(strings.Join(strings.Fields(s), "")) }
