// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"sdbox/internal/lab/house"
	"sdbox/internal/lab/page"

	"golang.org/x/sync/errgroup"
)

// lab is what every command that runs the house is told.
type lab struct {
	Bin       string `required:"" type:"existingdir" help:"Folder of the programs: those of make build."`
	Out       string `required:"" type:"path" help:"Folder for pictures, report and, in house/, keys, state and logs. Its house/ is made anew."`
	Page      string `default:"127.0.0.1:8080" help:"Address of the lab page; port 0 takes a free one."`
	Operators string `default:"127.0.0.1:8081" help:"Address of the operators' page; port 0 takes a free one."`
	Form      string `default:"process" enum:"process,image" help:"How a box runs: the agent as a process, or a machine that boots the image under QEMU."`
	Cache     string `default:"build/cache" type:"path" help:"Image form: folder of what is kept from one house to the next."`
}

// open makes the house, or says what is missing for it.
func (l lab) open(ctx context.Context, out io.Writer) (*house.Site, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab makes namespaces and network links: run it as root, or with sudo")
	}
	for _, address := range []string{l.Page, l.Operators} {
		if err := checkLoopback(address); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(l.Out, 0o755); err != nil {
		return nil, err
	}
	dir := filepath.Join(l.Out, "house")
	if err := removeOld(dir); err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "building the house in %s\n", dir)
	return house.Build(ctx, house.Config{Dir: dir, Bin: l.Bin, Said: out, Form: house.Form(l.Form), Cache: l.Cache})
}

// removeOld takes away the house of an earlier run, known by its folders; anything else is left alone.
func removeOld(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "places")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return os.RemoveAll(dir)
}

// pages are the two web pages of the lab while they are served.
type pages struct {
	address   string // of the lab page
	operators *page.Operators
	servers   []*http.Server
	serving   errgroup.Group
}

// openPages serves both pages from now on: a port in use is known before a day is played.
func (l lab) openPages(ctx context.Context, site *house.Site) (*pages, error) {
	boxes, err := listen(l.Page)
	if err != nil {
		return nil, err
	}
	operators, err := listen(l.Operators)
	if err != nil {
		return nil, errors.Join(err, boxes.Close())
	}
	p := &pages{address: boxes.Addr().String()}
	p.operators, err = page.NewOperators(operators.Addr().String(), page.Console{
		Address: house.ConsoleAddress, ServerName: site.Console.TLS.ServerName, TLS: site.Console.TLS, DialContext: site.Console.Dial,
	})
	if err != nil {
		return nil, errors.Join(err, boxes.Close(), operators.Close())
	}
	lab, err := page.New(site, "http://"+operators.Addr().String()+"/")
	if err != nil {
		return nil, errors.Join(err, boxes.Close(), operators.Close())
	}
	p.serve(ctx, boxes, lab.Handler(p.address))
	p.serve(ctx, operators, p.operators.Handler())
	return p, nil
}

// checkLoopback wants an address no other machine reaches: the pages ask nobody who she is.
func checkLoopback(address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !to.Addr().IsLoopback() {
		return fmt.Errorf("serve page at %q: want a loopback address and a port, such as 127.0.0.1:8080", address)
	}
	return nil
}

func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve page: %w; --page and --operators choose other addresses", err)
	}
	return l, nil
}

func (p *pages) serve(ctx context.Context, l net.Listener, h http.Handler) {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }}
	p.servers = append(p.servers, server)
	p.serving.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}

// close ends the pages and waits for them.
func (p *pages) close() error {
	var errs []error
	for _, s := range p.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, p.serving.Wait())...)
}

// stay tells a person where to go, and waits until she has had enough.
func (l lab) stay(ctx context.Context, site *house.Site, p *pages, out io.Writer) {
	fmt.Fprintf(out, "\nThe house is up.\n  lab page         http://%s/\n  operators' page  %s   (works once)\n  logs             %s\nCtrl-C ends it and leaves nothing behind.\n",
		p.address, p.operators.Link(), site.House.Logs())
	<-ctx.Done()
	fmt.Fprintln(out, "\nclosing the house")
}

type upCmd struct {
	lab `embed:""`
}

// Run starts the house and stays up until the context ends.
func (c *upCmd) Run(ctx context.Context, out io.Writer) (err error) {
	site, err := c.open(ctx, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	p, err := c.openPages(ctx, site)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	for _, b := range site.Boxes {
		if err := site.Boot(ctx, b); err != nil {
			return err
		}
	}
	c.stay(ctx, site, p, out)
	return nil
}
