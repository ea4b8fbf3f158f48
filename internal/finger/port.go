// SPDX-License-Identifier: Apache-2.0

package finger

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Port returns a finger source like Unix's that reads frames from a character device, such as a virtual machine's serial port. find
// names it anew for each finger. A finger that was placed before it was asked for does not count.
func Port(find func() (string, error)) func(ctx context.Context) (Template, error) {
	return func(ctx context.Context) (Template, error) {
		t, err := receivePort(ctx, find)
		if err != nil && ctx.Err() != nil {
			return nil, fmt.Errorf("wait for a finger: %w", context.Cause(ctx))
		}
		if err != nil {
			return nil, fmt.Errorf("wait for a finger: %w", err)
		}
		return t, nil
	}
}

func receivePort(ctx context.Context, find func() (string, error)) (Template, error) {
	path, err := find()
	if err != nil {
		return nil, fmt.Errorf("reach the sensor: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("reach the sensor: %w", err)
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	if err := forget(f); err != nil {
		return nil, fmt.Errorf("reach the sensor: %w", err)
	}
	return ReadFrame(f)
}

// forget drops what waits in the device.
func forget(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	old := make([]byte, 4096)
	defer clear(old)
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		n := 1
		for n > 0 && readErr == nil { // 0: nobody is at the other end yet
			n, readErr = unix.Read(int(fd), old)
		}
		return true
	})
	if errors.Is(readErr, unix.EAGAIN) {
		readErr = nil
	}
	return errors.Join(err, readErr)
}
