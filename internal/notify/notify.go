// SPDX-License-Identifier: Apache-2.0

// Package notify tells the supervisor that started a program, systemd for one, that the program is ready (sd_notify(3)).
package notify

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// Ready says that the program does its work from now on. Without a supervisor that asked to be told, it does nothing. It is
// called once, before the program starts others: they must not speak for it, so the address is taken out of the environment.
func Ready() error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	err := os.Unsetenv("NOTIFY_SOCKET")
	conn, dialErr := net.Dial("unixgram", address) // a name that begins with @ is an abstract one, here as there
	if dialErr != nil {
		return fmt.Errorf("tell the supervisor: %w", errors.Join(err, dialErr))
	}
	_, writeErr := conn.Write([]byte("READY=1"))
	if err := errors.Join(err, writeErr, conn.Close()); err != nil {
		return fmt.Errorf("tell the supervisor: %w", err)
	}
	return nil
}
