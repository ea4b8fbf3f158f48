// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Ours: making an RSA key takes a slow TPM some seconds.
const (
	socketTimeout  = 60 * time.Second
	socketAttempts = 4
)

// tpmHeader is the length of a response header: tag, size, code (TPM 2.0 Part 1, 18.1).
const tpmHeader = 10

// socket speaks to a simulated TPM. It dials anew for each command, because the simulator serves one connection at a time and
// the box's power switch, outside the agent, needs its turn.
type socket struct {
	dial func() (net.Conn, error)
}

// Send gives the TPM one command and returns its response (transport.TPM). Both are bounded in length and time. A TPM that was
// not ready to begin is asked again at once, as the kernel does for a real one.
func (s *socket) Send(command []byte) ([]byte, error) {
	for range socketAttempts - 1 {
		response, err := s.exchange(command)
		if err != nil || binary.BigEndian.Uint32(response[6:tpmHeader]) != uint32(tpm2.TPMRCRetry) {
			return response, err
		}
	}
	return s.exchange(command)
}

func (s *socket) exchange(command []byte) ([]byte, error) {
	conn, err := s.dial()
	if err != nil {
		return nil, fmt.Errorf("dial simulated TPM: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(socketTimeout)); err != nil {
		return nil, fmt.Errorf("bound TPM command: %w", err)
	}
	if _, err := conn.Write(command); err != nil {
		return nil, fmt.Errorf("send TPM command: %w", err)
	}
	response := make([]byte, tpmHeader, maxTPMResponse)
	if _, err := io.ReadFull(conn, response); err != nil {
		return nil, fmt.Errorf("read TPM response: %w", err)
	}
	size := binary.BigEndian.Uint32(response[2:6])
	if size < tpmHeader || size > maxTPMResponse {
		return nil, fmt.Errorf("read TPM response: its header says %d bytes, want %d to %d", size, tpmHeader, maxTPMResponse)
	}
	response = response[:size]
	if _, err := io.ReadFull(conn, response[tpmHeader:]); err != nil {
		return nil, fmt.Errorf("read TPM response: %w", err)
	}
	return response, nil
}

// Close does nothing: no connection outlives a command.
func (s *socket) Close() error { return nil }
