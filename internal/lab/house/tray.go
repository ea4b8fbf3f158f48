// SPDX-License-Identifier: Apache-2.0

package house

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"sdbox/internal/card/cardsim"
	"sdbox/internal/ident"
)

// vpcdAddress is where a place's PC/SC daemon listens for a virtual card (vsmartcard, slot 0).
const vpcdAddress = "127.0.0.1:35963"

// errNoCard says that a card is not in the tray.
var errNoCard = errors.New("there is no such card")

// Tray holds the simulated cards of the house: each lies there, or is in one box's reader. Its methods may be called from
// any goroutine.
type Tray struct {
	running sync.WaitGroup

	mu    sync.Mutex
	cards []*trayCard // guarded by mu
}

// trayCard is one card; owned by the tray's lock.
type trayCard struct {
	sim  *cardsim.Sim
	box  *Box // nil: in the tray
	pull context.CancelFunc
	gone chan struct{} // closed when the card is out of the reader
}

// CardView is what can be seen of a card from outside.
type CardView struct {
	GUID ident.GUID
	Name string
	Box  string // serial of the box it is in, or empty
}

// Add puts a new card into the tray.
func (t *Tray) Add(sim *cardsim.Sim) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cards = append(t.cards, &trayCard{sim: sim})
}

// Cards returns all cards in the order they were added.
func (t *Tray) Cards() []CardView {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]CardView, 0, len(t.cards))
	for _, c := range t.cards {
		who := c.sim.Person()
		v := CardView{GUID: who.GUID, Name: who.Name}
		if c.box != nil {
			v.Box = c.box.Serial
		}
		out = append(out, v)
	}
	return out
}

// Insert puts a card into a box's reader. A card that is in another box is pulled there first; a reader that holds another
// card refuses.
func (t *Tray) Insert(ctx context.Context, guid ident.GUID, box *Box) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := t.findLocked(guid)
	if err != nil {
		return err
	}
	if c.box == box {
		return nil
	}
	for _, other := range t.cards {
		if other.box == box {
			return fmt.Errorf("insert card into %s: its reader holds the card of %s", box.Serial, other.sim.Person().Name)
		}
	}
	c.ejectLocked()
	serve, err := box.reader(ctx, c.sim)
	if err != nil {
		return fmt.Errorf("insert card into %s: %w", box.Serial, err)
	}
	inserted, pull := context.WithCancel(context.Background())
	gone := make(chan struct{})
	c.box, c.pull, c.gone = box, pull, gone
	t.running.Go(func() {
		_ = serve(inserted) // it ends by Eject, or with the box
		close(gone)
		pull()
		t.mu.Lock()
		defer t.mu.Unlock()
		if c.gone == gone {
			c.box, c.gone = nil, nil
		}
	})
	return nil
}

// Eject pulls a card out of whatever reader it is in, and returns when it is out.
func (t *Tray) Eject(guid ident.GUID) error {
	_, err := t.Pull(guid)
	return err
}

// Pull does the same and says when it began to: a machine may take its time to acknowledge that a card is out.
func (t *Tray) Pull(guid ident.GUID) (time.Time, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := t.findLocked(guid)
	if err != nil {
		return time.Time{}, err
	}
	began := time.Now()
	c.ejectLocked()
	return began, nil
}

// Close pulls all cards and waits for them.
func (t *Tray) Close() {
	t.mu.Lock()
	for _, c := range t.cards {
		c.ejectLocked()
	}
	t.mu.Unlock()
	t.running.Wait()
}

func (t *Tray) findLocked(guid ident.GUID) (*trayCard, error) {
	for _, c := range t.cards {
		if c.sim.Person().GUID == guid {
			return c, nil
		}
	}
	return nil, errNoCard
}

// ejectLocked cuts the card's power; gone is closed without the tray's lock, so waiting for it here is safe.
func (c *trayCard) ejectLocked() {
	if c.box == nil {
		return
	}
	c.pull()
	<-c.gone
	c.box, c.gone = nil, nil
}

// reader is the box's card reader, for a card: what it returns has the card in it until its context ends.
func (b *Box) reader(ctx context.Context, sim *cardsim.Sim) (func(context.Context) error, error) {
	if m := b.on(); m != nil {
		return func(ctx context.Context) error {
			if err := b.slotIsSeen(ctx); err != nil {
				return err
			}
			defer b.slotIsEmpty()
			return sim.InsertVSCard(ctx, dialMachine(m))
		}, nil
	}
	conn, err := dialReader(ctx, b.Place)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return sim.InsertVPCD(ctx, again(conn, b.Place)) }, nil
}

// betweenCards is how long a person takes from one card to the next. The driver of the machine's reader hears once that the slot has
// changed: of a card that came before it looked it believes that there is none.
const betweenCards = 2 * time.Second

// slotIsSeen waits until the machine has seen that its slot is empty.
func (b *Box) slotIsSeen(ctx context.Context) error {
	b.mu.Lock()
	rest := time.NewTimer(time.Until(b.emptied.Add(betweenCards)))
	b.mu.Unlock()
	defer rest.Stop()
	select {
	case <-rest.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *Box) slotIsEmpty() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.emptied = time.Now()
}

// again gives a card the connection that stands, then a new one each time the reader did not see the card coming.
func again(conn net.Conn, p *Place) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		if first := conn; first != nil {
			conn = nil
			return first, nil
		}
		return dialReader(ctx, p)
	}
}

// dialReader reaches the virtual reader of a place, waiting for a PC/SC daemon that is still starting.
func dialReader(ctx context.Context, p *Place) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := p.Dial(ctx, "tcp", vpcdAddress)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("reader of %s: %w", p.Name, err)
		case <-tick.C:
		}
	}
}
