// SPDX-License-Identifier: Apache-2.0

package uki

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// PE format, "COFF File Header" and "Optional Header": offsets from the signature "PE\0\0" on.
const (
	atMachine      = 4
	atSections     = 6
	atTime         = 8
	atSymbols      = 12
	atSymbolCount  = 16
	atOptionalSize = 20
	atMagic        = 24
	atInitialized  = 24 + 8
	atFileAlign    = 24 + 36
	atImageSize    = 24 + 56
	atHeaderSize   = 24 + 60
	atChecksum     = 24 + 64
	atDirectories  = 24 + 108
	atCertificates = 24 + 144 // data directory 4: offset in the file and size of the certificate table
	atTable        = 24 + 112 // behind 8 bytes for each data directory
	entrySize      = 40       // of the section table

	machineX64 = 0x8664
	magicPE32P = 0x20b
	fileAlign  = 0x200
	pageSize   = 0x1000
	flagsData  = 0x40000040 // initialised data, readable

	certificateRevision = 0x0200
	certificatePKCS7    = 2
)

// Limits of what is read, ours.
const (
	maxSections   = 32
	maxHeaders    = 64 << 10
	maxSignatures = 4
	maxSignature  = 16 << 10
)

// head is what the headers say, checked.
type head struct {
	pe           int // where "PE\0\0" stands
	table        int // where the section table begins
	size         int // of all headers, in the file
	end          int // of the last section, in the file
	symbols      uint32
	checksum     uint32
	certificates int // where the certificate table begins; 0: there is none
	certSize     int
}

func u16(b []byte, at int) int { return int(binary.LittleEndian.Uint16(b[at:])) }
func u32(b []byte, at int) int { return int(binary.LittleEndian.Uint32(b[at:])) }

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// parsePE reads the headers of a 64-bit PE whose sections follow one another in the file without a gap and do not overlap in memory:
// the stub, the kernel, an image.
func parsePE(raw []byte) (head, []Section, error) {
	h, err := parseHead(raw)
	if err != nil {
		return head{}, nil, err
	}
	count := u16(raw, h.pe+atSections)
	sections := make([]Section, 0, count)
	file, memory := h.size, h.size
	for n := range count {
		s, err := parseSection(raw, h.table+n*entrySize)
		if err != nil {
			return head{}, nil, fmt.Errorf("section %d: %w", n+1, err)
		}
		if s.offset != file {
			return head{}, nil, fmt.Errorf("section %s begins at %d in the file, want %d: there must be neither gap nor overlap", s.Name, s.offset, file)
		}
		if int(s.Address) < memory {
			return head{}, nil, fmt.Errorf("section %s overlaps another in memory, or stands before it", s.Name)
		}
		if slices.ContainsFunc(sections, func(o Section) bool { return o.Name == s.Name }) {
			return head{}, nil, fmt.Errorf("two sections %s", s.Name)
		}
		file, memory = file+s.padded, int(s.Address)+s.memory
		sections = append(sections, s)
	}
	if size := u32(raw, h.pe+atImageSize); memory > size || size > memory+MaxSize {
		return head{}, nil, fmt.Errorf("image of %d bytes in memory, sections end at %d", size, memory)
	}
	h.end = file
	return h, sections, nil
}

func parseHead(raw []byte) (head, error) {
	if len(raw) < 64 || raw[0] != 'M' || raw[1] != 'Z' {
		return head{}, errors.New("no MZ at the beginning: this is no PE")
	}
	h := head{pe: u32(raw, 0x3c)}
	if h.pe < 64 || h.pe > maxHeaders || h.pe%8 != 0 || h.pe+atTable > len(raw) || string(raw[h.pe:h.pe+4]) != "PE\x00\x00" {
		return head{}, errors.New("no PE header where the first bytes say")
	}
	directories := u32(raw, h.pe+atDirectories)
	if directories < 5 || directories > 16 {
		return head{}, fmt.Errorf("%d data directories, want 5 to 16", directories)
	}
	h.table = h.pe + atTable + 8*directories
	for _, want := range []struct {
		name       string
		got, value int
	}{
		{"machine", u16(raw, h.pe+atMachine), machineX64},
		{"optional header's size", u16(raw, h.pe+atOptionalSize), h.table - h.pe - 24},
		{"optional header's kind", u16(raw, h.pe+atMagic), magicPE32P},
		{"alignment in the file", u32(raw, h.pe+atFileAlign), fileAlign},
	} {
		if want.got != want.value {
			return head{}, fmt.Errorf("%s %#x, want %#x", want.name, want.got, want.value)
		}
	}
	h.size = u32(raw, h.pe+atHeaderSize)
	count := u16(raw, h.pe+atSections)
	if count == 0 || count > maxSections || h.size > maxHeaders || h.size%fileAlign != 0 || h.size > len(raw) || h.table+count*entrySize > h.size {
		return head{}, fmt.Errorf("%d sections, limit %d, in headers of %d bytes, limit %d", count, maxSections, h.size, maxHeaders)
	}
	h.symbols = uint32(u32(raw, h.pe+atSymbols) | u32(raw, h.pe+atSymbolCount))
	h.checksum = uint32(u32(raw, h.pe+atChecksum))
	h.certificates, h.certSize = u32(raw, h.pe+atCertificates), u32(raw, h.pe+atCertificates+4)
	return h, nil
}

func parseSection(raw []byte, at int) (Section, error) {
	entry := raw[at : at+entrySize]
	name := bytes.TrimRight(entry[:8], "\x00")
	if len(name) == 0 || bytes.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Section{}, fmt.Errorf("name %q", name)
	}
	size, address, padded, offset := u32(entry, 8), u32(entry, 12), u32(entry, 16), u32(entry, 20)
	if size == 0 || padded == 0 || padded%fileAlign != 0 || offset > len(raw) || offset+padded > len(raw) {
		return Section{}, fmt.Errorf("%s: %d bytes, %d in the file from %d on, in a file of %d", name, size, padded, offset, len(raw))
	}
	if address > 2*MaxSize || size > 2*MaxSize {
		return Section{}, fmt.Errorf("%s: %d bytes loaded at %#x, beyond any image", name, size, address)
	}
	end := offset + min(size, padded)
	s := Section{Name: string(name), Data: raw[offset:end:end], Address: uint32(address), offset: offset, memory: size, padded: padded}
	s.flags = binary.LittleEndian.Uint32(entry[36:])
	if u32(entry, 24) != 0 || u32(entry, 28) != 0 || u32(entry, 32) != 0 {
		return Section{}, fmt.Errorf("%s: it has relocations or line numbers", name)
	}
	return s, nil
}

// writePE makes a PE of the stub's sections and the added ones. The stub's debugging symbols and whatever stands behind its sections
// are left out.
func writePE(stub []byte, h head, sections, added []Section, built uint32) ([]byte, error) {
	all := slices.Clone(sections)
	last := sections[len(sections)-1]
	memory := roundUp(int(last.Address)+last.memory, pageSize)
	initialized := u32(stub, h.pe+atInitialized)
	for _, a := range added {
		a.Address, a.memory, a.padded, a.flags = uint32(memory), len(a.Data), roundUp(len(a.Data), fileAlign), flagsData
		memory = roundUp(memory+a.memory, pageSize)
		initialized += a.padded
		all = append(all, a)
	}
	headers := roundUp(h.table+len(all)*entrySize, fileAlign)
	if headers > int(all[0].Address) {
		return nil, fmt.Errorf("%d sections: their headers do not fit before the first", len(all))
	}
	total := headers
	for _, s := range all {
		total += s.padded
	}
	if total > MaxSize-maxSignature {
		return nil, fmt.Errorf("%d bytes, limit %d", total, MaxSize-maxSignature)
	}
	raw := make([]byte, total)
	copy(raw, stub[:h.table])
	put := binary.LittleEndian.PutUint32
	binary.LittleEndian.PutUint16(raw[h.pe+atSections:], uint16(len(all)))
	put(raw[h.pe+atTime:], built)
	put(raw[h.pe+atSymbols:], 0)
	put(raw[h.pe+atSymbolCount:], 0)
	put(raw[h.pe+atInitialized:], uint32(initialized))
	put(raw[h.pe+atImageSize:], uint32(memory))
	put(raw[h.pe+atHeaderSize:], uint32(headers))
	put(raw[h.pe+atChecksum:], 0)
	clear(raw[h.pe+atCertificates : h.pe+atCertificates+8])
	offset := headers
	for n, s := range all {
		entry := raw[h.table+n*entrySize:]
		copy(entry[:8], s.Name)
		put(entry[8:], uint32(s.memory))
		put(entry[12:], s.Address)
		put(entry[16:], uint32(s.padded))
		put(entry[20:], uint32(offset))
		put(entry[36:], s.flags)
		copy(raw[offset:], s.Data)
		offset += s.padded
	}
	return raw, nil
}

// imageHash is SHA-256 over a PE as Authenticode wants it (Windows Authenticode Portable Executable Signature Format, "Calculating the PE
// Image Hash"): without its checksum, without the entry of the certificate table, without the table, filled up to a multiple of 8. With
// sections that follow one another, sorting them as the rule says changes nothing.
func imageHash(raw []byte, h head) [32]byte {
	end := len(raw)
	if h.certificates != 0 {
		end = h.certificates
	}
	s := sha256.New()
	s.Write(raw[:h.pe+atChecksum])
	s.Write(raw[h.pe+atChecksum+4 : h.pe+atCertificates])
	s.Write(raw[h.pe+atCertificates+8 : end])
	s.Write(make([]byte, roundUp(end, 8)-end))
	return [32]byte(s.Sum(nil))
}

// certificateTable reads the attribute certificate table (PE format, "The Attribute Certificate Table"): it must be the end of the file
// and hold PKCS #7 signatures only. Without one the file ends with its last section.
func certificateTable(raw []byte, h head) ([][]byte, error) {
	if h.certificates == 0 && h.certSize == 0 {
		if len(raw) != h.end {
			return nil, fmt.Errorf("%d bytes behind the last section", len(raw)-h.end)
		}
		return nil, nil
	}
	if h.certificates != h.end || h.certSize == 0 || h.certificates+h.certSize != len(raw) {
		return nil, fmt.Errorf("the signatures are said to be %d bytes from %d on: want all from %d to the end of the file, %d", h.certSize, h.certificates, h.end, len(raw))
	}
	var list [][]byte
	for rest := raw[h.end:]; len(rest) > 0; {
		if len(rest) < 8 {
			return nil, errors.New("a signature is cut off")
		}
		size := u32(rest, 0)
		if size <= 8 || size > maxSignature || roundUp(size, 8) > len(rest) || len(list) == maxSignatures {
			return nil, fmt.Errorf("signature of %d bytes, limit %d and the file, %d signatures at most", size, maxSignature, maxSignatures)
		}
		if revision, kind := u16(rest, 4), u16(rest, 6); revision != certificateRevision || kind != certificatePKCS7 {
			return nil, fmt.Errorf("signature of revision %#x and kind %d, want %#x and %d, PKCS #7", revision, kind, certificateRevision, certificatePKCS7)
		}
		if pad := rest[size:roundUp(size, 8)]; bytes.ContainsFunc(pad, func(r rune) bool { return r != 0 }) {
			return nil, errors.New("what fills up behind a signature is not zero")
		}
		list = append(list, rest[8:size])
		rest = rest[roundUp(size, 8):]
	}
	return list, nil
}
