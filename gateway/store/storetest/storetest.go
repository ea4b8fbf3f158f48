// SPDX-License-Identifier: Apache-2.0

// Package storetest starts a private PostgreSQL server for tests of queries: the installed one, under a user of its own, on a Unix
// socket in a temporary folder.
package storetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// Programs is where Debian's postgresql-15 has its programs.
const Programs = "/usr/lib/postgresql/15/bin"

// Server is a running server. Its methods may be called from any goroutine.
type Server struct {
	dir  string
	cmd  *exec.Cmd
	log  sync.WaitGroup // of what reads the server's log
	last string         // of the log; written before ready is closed
}

// Start makes an empty database cluster in a temporary folder and serves it. The server ends with this process; Stop ends it
// before, and takes the folder away.
func Start() (*Server, error) {
	dir, err := os.MkdirTemp("", "sdbox-pg-")
	if err != nil {
		return nil, fmt.Errorf("postgresql: %w", err)
	}
	s := &Server{dir: dir}
	if err := s.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("postgresql (package postgresql-15): %w", err), s.Stop())
	}
	return s, nil
}

func (s *Server) start() error {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() == 0 { // the server refuses to be root
		u, err := user.Lookup("postgres")
		if err != nil {
			return err
		}
		uid, bad := strconv.Atoi(u.Uid)
		gid, worse := strconv.Atoi(u.Gid)
		if err := errors.Join(bad, worse, os.Chown(s.dir, uid, gid)); err != nil {
			return err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(s.dir, "data")
	initdb := exec.Command(filepath.Join(Programs, "initdb"), "-D", data, "-U", "sdbox", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	initdb.SysProcAttr, initdb.Dir = attr, s.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	s.cmd = exec.Command(filepath.Join(Programs, "postgres"), "-D", data, "-k", s.dir, "-c", "listen_addresses=", "-c", "timezone=UTC", "-c", "max_connections=200", "-c", "shared_buffers=16MB",
		"-c", "fsync=off") // that it survives a power cut is not ours to test
	s.cmd.SysProcAttr, s.cmd.Dir = attr, s.dir
	out, err := s.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	return s.wait(out)
}

// wait reads the log until the server takes connections, and has the rest read by a goroutine that ends with the server.
func (s *Server) wait(out io.Reader) error {
	ready := make(chan bool, 1)
	s.log.Go(func() {
		said := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if !said {
				s.last += lines.Text() + "\n"
			}
			if !said && strings.Contains(lines.Text(), "ready to accept connections") {
				said = true
				ready <- true
			}
		}
		if !said {
			ready <- false
		}
	})
	if !<-ready {
		return errors.New(s.last)
	}
	return nil
}

// Schema makes an empty schema in the server whose folder is dir, and returns the data source name of it: a database as a program
// sees it, made in a millisecond.
func Schema(ctx context.Context, dir, name string) (string, error) {
	dsn := "host=" + dir + " user=sdbox dbname=postgres"
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", fmt.Errorf("postgresql: %w", err)
	}
	_, err = conn.Exec(ctx, "CREATE SCHEMA "+pgx.Identifier{name}.Sanitize())
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return "", fmt.Errorf("postgresql: %w", err)
	}
	return "postgres:" + dsn + " search_path=" + name, nil
}

// Dir is the folder of the server, with its socket .s.PGSQL.5432.
func (s *Server) Dir() string { return s.dir }

// Stop ends the server at once and removes its folder.
func (s *Server) Stop() error {
	var err error
	if s.cmd != nil {
		err = s.cmd.Process.Signal(syscall.SIGINT) // fast shutdown
		s.log.Wait()
		err = errors.Join(err, s.cmd.Wait())
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
