// SPDX-License-Identifier: Apache-2.0

// Package ioctl asks the drivers behind device files what only an ioctl can ask, for rooms whose driver no library knows.
package ioctl

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Do makes a request of the driver behind f. arg points to the structure the request names; memory that the structure itself
// points to must be pinned by the caller. A call that a signal cut off is made again. The error is the driver's, a unix.Errno.
func Do(f *os.File, request uint, arg unsafe.Pointer) error {
	return control(f, func(fd uintptr) unix.Errno {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(arg))
		runtime.KeepAlive(arg)
		return errno
	})
}

// Set makes a request whose argument is a number.
func Set(f *os.File, request uint, value uintptr) error {
	return control(f, func(fd uintptr) unix.Errno {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), value)
		return errno
	})
}

func control(f *os.File, call func(fd uintptr) unix.Errno) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	errno := unix.EINTR
	for errno == unix.EINTR && err == nil {
		err = conn.Control(func(fd uintptr) { errno = call(fd) })
	}
	if err == nil && errno != 0 {
		err = errno
	}
	return err
}
