// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// small blocks, so that an image of 96 KiB has several.
func small() shape { return shape{16 << 10, 8 << 10, zstd.SpeedFastest} }

// picture is an image that compresses a little: half of its sectors are the same.
func picture(seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]byte, size)
	for at := 0; at < size; at += 2 * sectorSize {
		for i := range out[at : at+sectorSize] {
			out[at+i] = byte(r.Uint32())
		}
	}
	out[510], out[511] = 0x55, 0xAA
	return out
}

func encoded(t testing.TB, s shape, image, base []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, s.encode(&b, image, base))
	return b.Bytes()
}

func decoded(s shape, file []byte, size int64, base []byte) ([]byte, error) {
	var out []byte
	each := func(block []byte) error {
		out = append(out, block...)
		return nil
	}
	var old io.ReaderAt
	if base != nil {
		old = bytes.NewReader(base)
	}
	err := s.decode(file, size, old, int64(len(base)), each)
	return out, err
}

func TestFilesMakeTheirImageAndFullOnesOpenWithAnyZstd(t *testing.T) {
	old := picture(1, 96<<10)
	for name, image := range map[string][]byte{
		"the same":       old,
		"another":        picture(2, 96<<10),
		"moved":          append(picture(3, 4<<10), old[:92<<10]...),
		"longer, uneven": append(bytes.Clone(old), picture(4, 5<<10)...),
		"shorter":        old[:33<<10],
	} {
		full, delta := encoded(t, small(), image, nil), encoded(t, small(), image, old)
		got, err := decoded(small(), full, int64(len(image)), nil)
		require.NoError(t, err, name)
		require.Equal(t, image, got, name)
		got, err = decoded(small(), delta, int64(len(image)), old)
		require.NoError(t, err, name)
		require.Equal(t, image, got, name)
		require.Equal(t, delta, encoded(t, small(), image, old), "the same input, the same bytes")
		plain, err := zstd.NewReader(nil)
		require.NoError(t, err)
		defer plain.Close()
		got, err = plain.DecodeAll(full, nil)
		require.NoError(t, err)
		require.Equal(t, image, got, name)
	}
	moved := append(picture(3, 4<<10), old[:92<<10]...)
	require.Less(t, len(encoded(t, small(), moved, old)), 4<<10, "what moved costs nothing")
}

// framed puts the length before a frame.
func framed(frame []byte) []byte {
	head := binary.LittleEndian.AppendUint32(nil, lengthMagic)
	head = binary.LittleEndian.AppendUint32(head, 4)
	return append(binary.LittleEndian.AppendUint32(head, uint32(len(frame))), frame...)
}

func hostileFiles(t testing.TB) map[string][]byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	defer w.Close()
	var streamed bytes.Buffer // says no size, and holds 64 MiB of zeros
	s, err := zstd.NewWriter(&streamed)
	require.NoError(t, err)
	for range 64 {
		_, err = s.Write(make([]byte, 1<<20))
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
	block := w.EncodeAll(make([]byte, 16<<10), nil)
	return map[string][]byte{
		"nothing":            nil,
		"no frame":           make([]byte, 64),
		"a frame that lies":  framed(block)[:20],
		"a bomb":             framed(w.EncodeAll(make([]byte, 64<<20), nil)),
		"a bomb in a stream": framed(streamed.Bytes()),
		"many in one":        framed(bytes.Repeat(block, 1000)),
		"a short block":      framed(w.EncodeAll(make([]byte, 100), nil)),
		"one too many":       append(framed(block), append(framed(block), framed(block)...)...),
		"broken":             framed([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xff}),
	}
}

func TestFileNeverMakesMoreThanItsImage(t *testing.T) {
	for name, file := range hostileFiles(t) {
		got, err := decoded(small(), file, 32<<10, nil)
		require.ErrorIs(t, err, ErrCorrupt, name)
		require.LessOrEqual(t, len(got), 32<<10, name)
	}
}

func FuzzDecode(f *testing.F) {
	old, image := picture(1, 40<<10), picture(2, 40<<10)
	f.Add(encoded(f, small(), image, nil), false)
	moved := append(bytes.Clone(old[1000:]), old[:1000]...)
	moved[7] ^= 1
	f.Add(encoded(f, small(), moved, old), true)
	f.Add(encoded(f, small(), image, old), true)
	for _, file := range hostileFiles(f) {
		f.Add(file, false)
	}
	f.Fuzz(func(t *testing.T, file []byte, delta bool) {
		base := old
		if !delta {
			base = nil
		}
		got, err := decoded(small(), file, 40<<10, base)
		if err == nil {
			require.Len(t, got, 40<<10)
		}
		require.LessOrEqual(t, len(got), 40<<10)
	})
}

// FuzzPatch: a block's differences, behind zstd.
func FuzzPatch(f *testing.F) {
	old := picture(1, 4<<10)
	for _, block := range [][]byte{old, picture(2, 4<<10), append(bytes.Clone(old[100:]), old[:100]...), bytes.Repeat([]byte{7}, 4<<10)} {
		f.Add(diff(block, old, 0))
		block[3000] ^= 7
		block[3003] ^= 9
		f.Add(diff(block, old, 0))
	}
	f.Add([]byte{1, 0, 0, 0})
	f.Add([]byte{1, 0, 100, 1, 2, 90, 9, 2, 2, 1, 1, 1, 1})
	f.Add([]byte{200, 1, 0, 30, 0x80})
	f.Fuzz(func(t *testing.T, changes []byte) {
		if block, err := patch(changes, old, 0, 4<<10, nil); err == nil {
			require.Len(t, block, 4<<10)
			again, err := patch(diff(block, old, 0), old, 0, 4<<10, nil)
			require.NoError(t, err)
			require.Equal(t, block, again)
		}
	})
}

// TestCodeThatMovedCostsLittle: a function grew, so that all calls across it differ in their distance by the same number.
func TestCodeThatMovedCostsLittle(t *testing.T) {
	old := picture(5, 256<<10)
	chance := rand.New(rand.NewPCG(1, 9))
	for i := range old {
		old[i] = byte(chance.Uint32())
	}
	calls := func(code []byte, add uint32) {
		for at := 0; at+4 < len(code); at += 24 {
			binary.LittleEndian.PutUint32(code[at:], binary.LittleEndian.Uint32(code[at:])+add)
		}
	}
	grown := slices.Concat(old[:100<<10], []byte("some new code, of 64 bytes or so, that was not there before ...."), old[100<<10:])
	calls(grown[120<<10:], 64)
	s := shape{64 << 10, 64 << 10, zstd.SpeedBestCompression}
	delta := encoded(t, s, grown, old)
	require.Less(t, len(delta), 8<<10, "of %d calls", 136<<10/24)
	got, err := decoded(s, delta, int64(len(grown)), old)
	require.NoError(t, err)
	require.Equal(t, grown, got)
}

// TestAnyChangeOfAnImageIsMade cuts, moves, repeats and changes parts of an image at random.
func TestAnyChangeOfAnImageIsMade(t *testing.T) {
	for seed := range uint64(60) {
		chance := rand.New(rand.NewPCG(seed, 2))
		old := picture(seed, 40<<10)
		image := bytes.Clone(old)
		for range chance.IntN(8) {
			a, b, c := chance.IntN(len(image)), chance.IntN(4<<10), chance.IntN(len(image))
			moved := bytes.Clone(image[a:min(a+b, len(image))])
			switch chance.IntN(4) {
			case 0:
				image = slices.Delete(image, a, min(a+b, len(image)))
			case 1:
				image = slices.Insert(image, c, moved...)
			case 2:
				copy(image[c:], moved)
			default:
				for i := a; i < min(a+b, len(image)); i += 1 + chance.IntN(30) {
					image[i] += byte(seed)
				}
			}
		}
		image = append(image, moreOf(chance)...)
		got, err := decoded(small(), encoded(t, small(), image, old), int64(len(image)), old)
		require.NoError(t, err, "seed %d", seed)
		require.True(t, bytes.Equal(image, got), "seed %d", seed)
	}
}

// moreOf is up to two blocks of what no image has.
func moreOf(chance *rand.Rand) []byte {
	out := make([]byte, 1+chance.IntN(32<<10))
	for i := range out {
		out[i] = byte(chance.Uint32())
	}
	return out
}
