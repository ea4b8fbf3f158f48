// SPDX-License-Identifier: Apache-2.0

// Command updater is an agent that does nothing but what a test tells it by the finger port: to install a release, to say that it is
// healthy, to start the machine again. What PID 1 tells it, it logs. PID 1 is the real one.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"time"

	"sdbox/agent/boot"
)

// broken, set by the linker, makes a system that dies as soon as the kernel has started it.
var broken string

// order is what the test wants, one JSON object on a line; a file of so many bytes follows it.
type order struct {
	Note    []byte `json:"note"`
	Delta   bool   `json:"delta"`
	Size    int64  `json:"size"`
	Healthy bool   `json:"healthy"`
	Reboot  bool   `json:"reboot"`
}

func main() {
	switch {
	case os.Getpid() == 1 && broken != "":
		os.Exit(1)
	case os.Getpid() == 1:
		boot.Main()
	case os.Args[1] != string(boot.RoleAgent):
		for range time.Tick(time.Hour) { // a card reader, a network: not now
		}
	}
	if err := run(slog.New(slog.NewJSONHandler(os.Stderr, nil))); err != nil {
		slog.Error("updater", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	client, _, err := boot.Inherit()
	if err != nil {
		return err
	}
	ended := make(chan error, 3)
	go func() { ended <- client.Run(context.Background()) }()
	go func() { ended <- beat(client) }()
	go func() { ended <- obey(client) }()
	for {
		select {
		case e := <-client.Events():
			switch {
			case e.System != nil:
				log.Info("system", "version", e.System.Version, "trial", e.System.Trial, "tries", e.System.Tries)
			case e.Update != nil:
				log.Info("update", "done", e.Update.Done, "total", e.Update.Total, "installed", e.Update.Installed, "error", e.Update.Error)
			}
		case err := <-ended:
			return err
		}
	}
}

func beat(client *boot.Client) error {
	for range time.Tick(time.Second) {
		if err := client.Beat(); err != nil {
			return err
		}
	}
	return nil
}

// obey takes orders from the port, once it is there and this user's.
func obey(client *boot.Client) error {
	var port *os.File
	for range time.Tick(100 * time.Millisecond) {
		path, err := boot.FindPort("/sys", "/dev", "org.sdbox.finger")
		if err == nil {
			port, err = os.Open(path)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			return err
		}
	}
	in := bufio.NewReader(port)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return err
		}
		var o order
		if err := json.Unmarshal(line, &o); err != nil {
			return err
		}
		if err := do(client, o, in); err != nil {
			return err
		}
	}
}

func do(client *boot.Client, o order, in io.Reader) error {
	switch {
	case o.Reboot:
		return client.Reboot("it is told to")
	case o.Healthy:
		for _, p := range []boot.Part{boot.ReaderSeen, boot.Attested, boot.TunnelUp, boot.ScreenShown} {
			if err := client.Healthy(p); err != nil {
				return err
			}
		}
		return nil
	}
	to, err := client.Install(o.Note, o.Delta)
	if err != nil {
		return err
	}
	_, err = io.CopyN(to, in, o.Size)
	return errors.Join(err, to.Close())
}
