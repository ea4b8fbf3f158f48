// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbox/internal/card"
	"sdbox/internal/card/cardsim"
	"sdbox/internal/finger/fingersim"
	"sdbox/internal/ident"
	"sdbox/internal/lab/house"
	"sdbox/internal/tpm/tpmsim"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

// block is a fenced block of README.md that is run: its info string is "sh real: NAME".
var block = regexp.MustCompile("(?ms)^```sh real: ([a-z]+)\n(.*?)^```$")

// blocks are the commands of README.md by name, in their order.
func blocks(t *testing.T) (names []string, commands map[string]string) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	commands = map[string]string{}
	for _, b := range block.FindAllStringSubmatch(string(text), -1) {
		require.NotContains(t, commands, b[1], "two blocks of one name")
		names, commands[b[1]] = append(names, b[1]), b[2]
	}
	require.Len(t, names, strings.Count(string(text), "\n```sh real"), "a block has a name of small letters")
	return names, commands
}

// TestReadmeRunsForReal follows README.md from an empty machine to a person at work, by its own lines and no others.
func TestReadmeRunsForReal(t *testing.T) {
	require.Zero(t, os.Geteuid(), "a machine of one's own wants namespaces: run the tests as root")
	bin := programs(t)
	r := &reader{t: t}
	r.names, r.commands = blocks(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/real",
		Setup: func(e *testscript.Env) (err error) {
			if r.machine, err = newDebian(filepath.Join(e.WorkDir, "house"), bin); err != nil {
				return err
			}
			e.Defer(func() { require.NoError(t, r.machine.Close()) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"readme": r.readme, "readme-end": r.readmeEnd, "see": r.see, "keys-on-card": r.keysOnCard, "certificates-on-card": r.certificatesOnCard,
			"boot": r.boot, "plug": r.plug, "card": r.insert, "touch": r.touch, "type": r.typing, "at-machine": r.atMachine,
		},
	})
}

// reader does what README.md says at a machine.
type reader struct {
	t        *testing.T
	names    []string // of the blocks, in their order
	commands map[string]string
	ran      []string
	machine  *debian
	hand     *fingersim.Finger
	pull     func() // nil while no card is in
}

// check ends the script with what the machine's programs logged.
func (r *reader) check(ts *testscript.TestScript, err error) {
	if err != nil {
		ts.Fatalf("%v\n%s", err, r.machine.logs())
	}
}

// readme runs a block: readme NAME [what its output must have...].
func (r *reader) readme(ts *testscript.TestScript, neg bool, args []string) {
	commands, found := r.commands[args[0]]
	if !found {
		ts.Fatalf("README.md has no block %q", args[0])
	}
	r.ran = append(r.ran, args[0])
	out, err := r.machine.run(commands)
	ts.Logf("%s%s", commands, out)
	r.check(ts, err)
	for _, want := range args[1:] {
		if !strings.Contains(out, want) {
			ts.Fatalf("want %q in the output", want)
		}
	}
}

// readmeEnd wants that every block of README.md was run, in its order.
func (r *reader) readmeEnd(ts *testscript.TestScript, neg bool, args []string) {
	if !slices.Equal(r.names, r.ran) {
		ts.Fatalf("README.md has the blocks %q, run were %q", r.names, r.ran)
	}
}

// atMachine runs a command of no block until its output has something: at-machine WANT COMMAND.
func (r *reader) atMachine(ts *testscript.TestScript, neg bool, args []string) {
	var out string
	r.eventually(ts, func(context.Context) (err error) {
		if out, err = r.machine.run(args[1]); err == nil && !strings.Contains(out, args[0]) {
			err = fmt.Errorf("%s: no %q in %s", args[1], args[0], out)
		}
		return err
	})
}

// see waits until the box's screen says all these words.
func (r *reader) see(ts *testscript.TestScript, neg bool, args []string) {
	r.eventually(ts, func(ctx context.Context) error {
		text, err := r.machine.words(ctx)
		missing := slices.DeleteFunc(slices.Clone(args), func(w string) bool { return strings.Contains(text, squeeze(w)) })
		if err == nil && len(missing) > 0 {
			err = fmt.Errorf("the screen does not say %q but %q", missing, text)
		}
		return err
	})
}

// eventually tries until it works or patience ends.
func (r *reader) eventually(ts *testscript.TestScript, try func(context.Context) error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := try(ctx)
		switch {
		case err == nil:
			return
		case ctx.Err() == nil:
			last = err // what a cut-off try says is no use
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.check(ts, errors.Join(ctx.Err(), last))
		}
	}
}

// keysOnCard does what a card maker's tool does: keys-on-card GUID NAME. The public keys go to ~/house.
func (r *reader) keysOnCard(ts *testscript.TestScript, neg bool, args []string) {
	guid, err := ident.ParseGUID(args[0])
	ts.Check(err)
	sim, err := cardsim.New(cardsim.NISTOCC, cardsim.Person{GUID: guid, Name: args[1]})
	ts.Check(err)
	r.machine.card, r.hand = sim, fingersim.NewFinger(42)
	ts.Check(sim.Enrol(card.RefFinger, r.hand.Reference().Encode()))
	for slot, name := range map[card.Slot]string{card.Slot9A: "9a.pub", card.Slot9E: "9e.pub"} {
		key, err := sim.Generate(slot)
		ts.Check(err)
		der, err := x509.MarshalPKIXPublicKey(key)
		ts.Check(err)
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		ts.Check(os.WriteFile(r.machine.place.Outside("/home/root/house/"+name), text, 0o600))
	}
}

// certificatesOnCard puts what sdbox-pki made onto the card: certificates-on-card FOLDER.
func (r *reader) certificatesOnCard(ts *testscript.TestScript, neg bool, args []string) {
	for slot, name := range map[card.Slot]string{card.Slot9A: "9a.pem", card.Slot9E: "9e.pem"} {
		text, err := os.ReadFile(r.machine.place.Outside(filepath.Join(args[0], name)))
		ts.Check(err)
		der, _ := pem.Decode(text)
		ts.Check(r.machine.card.PutCertificate(slot, der.Bytes))
	}
}

// boot measures into the TPM what a real boot measured.
func (r *reader) boot(ts *testscript.TestScript, neg bool, args []string) {
	list, err := tpmsim.RecordedBoot()
	ts.Check(err)
	r.eventually(ts, func(context.Context) error { return tpmsim.Boot(r.machine.place.Outside(args[0]), list) })
}

func (r *reader) plug(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(r.machine.plug(r.t.Context()))
}

// insert is the hand with the card: card in, card out.
func (r *reader) insert(ts *testscript.TestScript, neg bool, args []string) {
	switch {
	case args[0] == "in" && r.pull == nil:
		r.eventually(ts, func(ctx context.Context) (err error) { r.pull, err = r.machine.insert(ctx); return err })
		ts.Defer(func() {
			if r.pull != nil {
				r.pull()
			}
		})
	case args[0] == "out" && r.pull != nil:
		r.pull()
		r.pull = nil
	default:
		ts.Fatalf("card %s cannot be now", args[0])
	}
}

// touch places the enrolled finger once the box asks for it.
func (r *reader) touch(ts *testscript.TestScript, neg bool, args []string) {
	select {
	case r.machine.fingers <- r.hand.Impression(rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))):
	case <-time.After(patience):
		r.check(ts, fmt.Errorf("the box does not ask for a finger"))
	}
}

// typing types a text at the box's keyboard; \n is the Enter key.
func (r *reader) typing(ts *testscript.TestScript, neg bool, args []string) {
	m := r.machine
	if m.keyboard == nil {
		conn, err := m.keys.Accept()
		ts.Check(err)
		m.keyboard = conn
	}
	events, err := house.Typing(strings.ReplaceAll(args[0], `\n`, "\n"))
	ts.Check(err)
	var out []byte
	for _, e := range events {
		out = e.Append(out)
	}
	_, err = m.keyboard.Write(out)
	ts.Check(err)
}
