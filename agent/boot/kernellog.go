// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelLog is where the kernel's own messages are read (Documentation/ABI/testing/dev-kmsg).
const kernelLog = "/dev/kmsg"

// failure is the kernel's level of what went wrong; a smaller number is worse.
const failure = 3

// watchKernelLog hands tell what went wrong in the kernel, and each system call that a role was denied, until ctx ends. It is for images of
// the form dev: a role that misses a call should be found before people have it.
func watchKernelLog(ctx context.Context, path string, tell func(message string)) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("kernel's log: %w", err)
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	record := make([]byte, maxLine)
	for {
		n, err := f.Read(record)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EPIPE): // the kernel was faster
		case err != nil:
			return fmt.Errorf("kernel's log: %w", err)
		default:
			if message, worth := parseKernelRecord(string(record[:n])); worth {
				tell(message)
			}
		}
	}
}

// parseKernelRecord takes one record apart, "LEVEL,SEQUENCE,TIME,FLAGS;MESSAGE" and lines of properties, and says whether it is worth
// telling.
func parseKernelRecord(record string) (message string, worth bool) {
	head, rest, found := strings.Cut(record, ";")
	level, _, _ := strings.Cut(head, ",")
	n, err := strconv.Atoi(level)
	if !found || err != nil || n < 0 {
		return "", false
	}
	message, _, _ = strings.Cut(rest, "\n")
	denied := strings.HasPrefix(message, "audit: type=1326") // AUDIT_SECCOMP
	return message, denied || n&7 <= failure && n>>3 == 0
}
