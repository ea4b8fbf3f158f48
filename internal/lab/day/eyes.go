// SPDX-License-Identifier: Apache-2.0

package day

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"sdbox/agent/screen"
	"sdbox/internal/lab/house"
)

const (
	glance    = time.Millisecond // how often the screen is looked at
	memoryLen = 4096             // flushes remembered by the clock of a screen
)

// eyes look at one box's screen: they see pixels, read words by optical character recognition, and know when each picture
// came. They are owned by one goroutine.
type eyes struct {
	box     *house.Box
	watcher *house.Watcher
	clock   *screenClock
}

// openEyes waits until the box has a screen and looks at it. A file that is there but not yet written is no error.
func openEyes(ctx context.Context, box *house.Box) (*eyes, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		watcher, err := house.Watch(box.ScreenFile(), glance)
		if err == nil {
			clock, err := startClock(box.ScreenFile())
			if err != nil {
				return nil, errors.Join(err, watcher.Close())
			}
			return &eyes{box: box, watcher: watcher, clock: clock}, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("screen of %s: %w", box.Serial, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

// Close shuts them.
func (e *eyes) Close() error {
	e.clock.stop()
	return e.watcher.Close()
}

// read waits until all these words stand on the screen, and returns when the picture that has them came. The words may be
// anywhere; capitals and spaces do not count.
func (e *eyes) read(ctx context.Context, words ...string) (time.Time, error) {
	return e.readIn(ctx, nil, words...)
}

// readIn is read for small letters: it looks closely at parts of the screen; without parts, at the whole as it is.
func (e *eyes) readIn(ctx context.Context, parts []image.Rectangle, words ...string) (time.Time, error) {
	came, text, err := e.readUntil(ctx, parts, func(text string) bool { return holds(text, words) })
	if err != nil {
		return came, fmt.Errorf("read %q on the screen of %s: %w; it says %q", words, e.box.Serial, err, strings.Join(strings.Fields(text), " "))
	}
	return came, nil
}

// readUntil reads every picture until done likes its text; it returns that text, and when its picture came.
func (e *eyes) readUntil(ctx context.Context, parts []image.Rectangle, done func(text string) bool) (came time.Time, text string, err error) {
	err = e.watcher.Now(ctx)
	for err == nil {
		came = e.clock.at(e.watcher.Sequence())
		if text, err = e.text(ctx, parts); err != nil {
			break
		}
		if done(text) {
			return came, text, nil
		}
		if parts == nil && !e.watcher.Stale() { // nothing newer to read: look closer at this one
			closer, err := e.text(ctx, []image.Rectangle{e.watcher.Image.Bounds()})
			if err == nil && done(text+closer) {
				return came, text + closer, nil
			}
		}
		err = e.watcher.Next(ctx)
	}
	return time.Time{}, text, err
}

// text is what the present picture says.
func (e *eyes) text(ctx context.Context, parts []image.Rectangle) (string, error) {
	if parts == nil {
		return recognise(ctx, e.watcher.Image)
	}
	var all strings.Builder
	for _, r := range parts {
		scrap, err := recognise(ctx, part(e.watcher.Image, r, 2))
		if err != nil {
			return "", err
		}
		all.WriteString(scrap)
	}
	return all.String(), nil
}

// await waits until a picture is right, and returns when it came.
func (e *eyes) await(ctx context.Context, right func(*screen.Image) bool) (time.Time, error) {
	seen, err := e.watcher.Until(ctx, right)
	if err != nil {
		return seen, fmt.Errorf("screen of %s: %w", e.box.Serial, err)
	}
	return e.clock.at(e.watcher.Sequence()), nil
}

// recognise reads the words of a picture with tesseract, as separate scraps of text.
func recognise(ctx context.Context, img *screen.Image) (string, error) {
	return recogniseAs(ctx, img, "11") // words anywhere
}

// recogniseAs does it with a page segmentation mode of tesseract.
func recogniseAs(ctx context.Context, img *screen.Image, mode string) (string, error) {
	cmd := exec.CommandContext(ctx, "tesseract", "stdin", "stdout", "--psm", mode, "-l", "eng")
	cmd.Env = append(os.Environ(), "OMP_THREAD_LIMIT=1")
	var in bytes.Buffer
	fmt.Fprintf(&in, "P5\n%d %d\n255\n", img.Width, img.Height)
	in.Write(grey(img))
	cmd.Stdin = &in
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("recognise text (package tesseract-ocr): %w", errors.Join(err, ctx.Err()))
	}
	return string(out), nil
}

// grey is the picture as one byte a pixel, by the weights of ITU-R BT.601.
func grey(img *screen.Image) []byte {
	out := make([]byte, 0, img.Width*img.Height)
	for y := range img.Height {
		row := img.Row(y, 0, img.Width)
		for i := 0; i < len(row); i += 4 {
			out = append(out, byte((114*int(row[i])+587*int(row[i+1])+299*int(row[i+2]))/1000))
		}
	}
	return out
}

// holds says whether a text has all the words, comparing letters and digits only, those that look alike as one, and a zero that
// was read twice as one zero.
func holds(text string, words []string) bool {
	plain := onlyLetters(text)
	for _, w := range words {
		if !strings.Contains(plain, onlyLetters(w)) {
			return false
		}
	}
	return true
}

func onlyLetters(s string) string {
	var last rune
	return strings.Map(func(r rune) rune {
		before := last
		last = lookalike(unicode.ToLower(r))
		if last == '0' && before == '0' {
			return -1
		}
		return last
	}, s)
}

// lookalike maps letters that are mistaken for one another to one of them, and what is no letter or digit to -1. Of a letter with an
// accent only the letter counts.
func lookalike(r rune) rune {
	if i := strings.IndexRune("éèêëàâîïôûùç", r); i >= 0 {
		r = []rune("eeeeaaiiouuc")[utf8.RuneCountInString("éèêëàâîïôûùç"[:i])]
	}
	switch {
	case r == 'o':
		return '0'
	case r == 'l' || r == 'i' || r == '|':
		return '1'
	case r == 's':
		return '5'
	case unicode.IsLetter(r) || unicode.IsDigit(r):
		return r
	}
	return -1
}

// part copies a rectangle of a picture, enlarged so that small letters are read well.
func part(img *screen.Image, r image.Rectangle, times int) *screen.Image {
	r = r.Intersect(img.Bounds())
	out := screen.NewImage(r.Dx()*times, r.Dy()*times)
	for y := range out.Height {
		src, dst := img.Row(r.Min.Y+y/times, r.Min.X, r.Max.X), out.Row(y, 0, out.Width)
		for x := range out.Width {
			copy(dst[4*x:4*x+4], src[x/times*4:])
		}
	}
	return out
}

// black says whether the share of pixels of a picture that are black is at least this many in a thousand.
func black(img *screen.Image, thousandth int) bool {
	count := 0
	for y := range img.Height {
		row := img.Row(y, 0, img.Width)
		for i := 0; i < len(row); i += 4 {
			if row[i]|row[i+1]|row[i+2] == 0 {
				count++
			}
		}
	}
	return count*1000 >= img.Width*img.Height*thousandth
}

// save writes the present picture as PNG.
func (e *eyes) save(ctx context.Context, path string) error {
	if err := e.watcher.Now(ctx); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(png.Encode(f, e.watcher.Image.RGBA()), f.Close())
}

// screenClock notes when each flush of a screen was first seen, while its owner is busy reading an older picture.
type screenClock struct {
	quit chan struct{}
	done sync.WaitGroup

	mu    sync.Mutex
	times map[uint64]time.Time // by sequence; guarded by mu
	last  uint64               // guarded by mu
}

func startClock(path string) (*screenClock, error) {
	r, err := screen.MapFile(path)
	if err != nil {
		return nil, err
	}
	c := &screenClock{quit: make(chan struct{}), times: map[uint64]time.Time{}, last: r.Sequence()}
	c.done.Go(func() {
		defer r.Close()
		tick := time.NewTicker(glance)
		defer tick.Stop()
		for {
			select {
			case <-c.quit:
				return
			case now := <-tick.C:
				c.note(r.Sequence(), now)
			}
		}
	})
	return c, nil
}

func (c *screenClock) note(sequence uint64, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := max(c.last+1, sequence-min(sequence, memoryLen)); s <= sequence; s++ {
		c.times[s] = now
		delete(c.times, s-memoryLen)
	}
	c.last = max(c.last, sequence)
}

// at is when a flush came; now, if the clock has not seen it yet.
func (c *screenClock) at(sequence uint64) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.times[sequence]; ok {
		return t
	}
	return time.Now()
}

func (c *screenClock) stop() {
	close(c.quit)
	c.done.Wait()
}
