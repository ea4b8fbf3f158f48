// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Where things are on the screens of the lab's boxes and in the desktops of its bubbles, in pixels. The desktops' windows
// are placed by the scripts in content.
const ScreenWidth, ScreenHeight = 1920, 1080

// FreeArea is the part of every desktop that no window covers.
func FreeArea() image.Rectangle { return image.Rect(1150, 20, 1880, 440) }

// Terminal is where the text of every desktop's terminal lies.
func Terminal() image.Rectangle { return image.Rect(1122, 490, 1884, 1022) }

// TerminalTitle is a point of the terminal's title bar.
func TerminalTitle() image.Point { return image.Pt(1500, 479) }

// desktopDir is where sdbox-bubble keeps the desktops' sockets.
const desktopDir = "/run/sdbox"

// errNoMachine says that a project of the lab has no machine behind it.
var errNoMachine = errors.New("no machine runs for this project")

// BubbleSpec describes a project of the lab.
type BubbleSpec struct {
	Name, Title string
	Colour      string   // "#rrggbb"
	Countries   []string // from which it may be opened; empty = anywhere
	Number      int      // 1 to 250; its link to the gateway is 10.72.NUMBER.0/24; 0 = no machine runs for it
	Session     string   // file of content with the programs a desktop begins with
	Data        []string // files of content that lie in every person's home
	Ended       bool     // the people's right ended on a date in the past
}

// Bubble is a project's sealed environment: a place of its own, or none for a project nobody may open from here.
type Bubble struct {
	BubbleSpec
	Place   *Place // nil when Number is 0
	Program *Program
}

// Frame is the colour of the frame in which boxes show the bubble.
func (b *Bubble) Frame() color.RGBA {
	rgb, err := strconv.ParseUint(strings.TrimPrefix(b.Colour, "#"), 16, 24)
	if err != nil {
		panic("house: colour of " + b.Name) // a constant of this package
	}
	return color.RGBA{R: uint8(rgb >> 16), G: uint8(rgb >> 8), B: uint8(rgb), A: 255}
}

// DialDisplay connects to the X server of a person's desktop as a program of hers would, and returns her Xauthority file. The
// desktop must have been opened once.
func (b *Bubble) DialDisplay(ctx context.Context, p *Person) (net.Conn, []byte, error) {
	display, err := b.display(p)
	if err != nil {
		return nil, nil, err
	}
	authority, err := readCapped(b.Place.Outside(authorityOf(p)))
	if err != nil {
		return nil, nil, fmt.Errorf("desktop of %s in %s: %w", p.Name, b.Name, err)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", b.Place.Outside(fmt.Sprintf("/tmp/.X11-unix/X%d", display)))
	if err != nil {
		return nil, nil, fmt.Errorf("desktop of %s in %s: %w", p.Name, b.Name, err)
	}
	return conn, authority, nil
}

// Xwd runs xwd(1) inside the bubble, as the person, over her whole desktop and returns what it wrote: the framebuffer as a
// program that has nothing to do with sdbox reads it.
func (b *Bubble) Xwd(ctx context.Context, p *Person) ([]byte, error) {
	display, err := b.display(p)
	if err != nil {
		return nil, err
	}
	env := append(searchPath(), fmt.Sprintf("DISPLAY=:%d", display), "XAUTHORITY="+authorityOf(p), "HOME=/home/"+p.Account)
	return b.Place.Run(ctx, p.account(), env, "/usr/bin/xwd", "-root", "-silent")
}

// display is the number of the person's X server, from the note sdbox-bubble keeps.
func (b *Bubble) display(p *Person) (int, error) {
	if b.Place == nil {
		return 0, errNoMachine
	}
	note, err := readCapped(b.Place.Outside(filepath.Join(desktopDir, p.Account+".pid")))
	if err != nil {
		return 0, fmt.Errorf("desktop of %s in %s: %w", p.Name, b.Name, err)
	}
	var pid, display int
	var began string
	if _, err := fmt.Sscan(string(note), &pid, &began, &display); err != nil {
		return 0, fmt.Errorf("desktop of %s in %s: %w", p.Name, b.Name, err)
	}
	return display, nil
}

func authorityOf(p *Person) string { return filepath.Join(desktopDir, p.Account, "Xauthority") }

// readCapped reads a small file of a place.
func readCapped(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<10))
}
