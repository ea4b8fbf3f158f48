// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	encoding "encoding/asn1"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sdbox/image/initramfs"
	"sdbox/image/keys"
	"sdbox/image/packages"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// CommandLine is what the kernel of an image is told; it is part of the signed program, and the stub takes no other. The words are the
// kernel's own (Documentation/admin-guide/kernel-parameters.rst); README.md says what each of them answers. config is the kernel's
// configuration: what it was built without needs no word, and it would hand one it does not know to PID 1.
func CommandLine(form string, p initramfs.Profile, config []byte) string {
	words := []string{
		"quiet", "loglevel=3", "panic=-1", "oops=panic", "lockdown=confidentiality", "module.sig_enforce=1",
		"init_on_alloc=1", "init_on_free=1", "slab_nomerge", "page_alloc.shuffle=1", "randomize_kstack_offset=on", "pti=on",
		"proc_mem.force_override=never", "bdev_allow_write_mounted=0",
		"intel_iommu=on", "amd_iommu=force_isolation", "iommu.strict=1", "efi=disable_early_pci_dma",
	}
	for _, w := range []struct{ option, word string }{
		{"X86_VSYSCALL_EMULATION", "vsyscall=none"}, {"IA32_EMULATION", "ia32_emulation=0"}, {"DEBUG_FS", "debugfs=off"},
	} {
		if bytes.Contains(config, []byte("\nCONFIG_"+w.option+"=y\n")) {
			words = append(words, w.word)
		}
	}
	words = append(words, p.Words()...)
	if form == Dev {
		words = append(words, "console=ttyS0")
	}
	return strings.Join(words, " ")
}

// The files of a kernel of one's own, in a folder. It has no modules: what a profile wants is built in.
const (
	ownKernel  = "vmlinuz"
	ownConfig  = "config"
	ownRelease = "release"         // what uname -r says
	ownBuiltin = "modules.builtin" // what is built in, by the files the modules would have been
	ownSource  = "source.lock"     // the package of its source, as a line of a lock
)

// packages are those of the lock that are used.
func (s *Spec) packages() packages.Lock {
	if s.Kernel == "" {
		return s.Lock
	}
	return slices.DeleteFunc(slices.Clone(s.Lock), func(p packages.Package) bool { return strings.HasPrefix(p.Name, "linux-image-") })
}

// own puts a kernel of one's own where that of a package would stand.
func own(dir string, files packages.Files) error {
	release, err := readCapped(filepath.Join(dir, ownRelease))
	if err != nil {
		return err
	}
	name := strings.TrimSpace(string(release))
	if !releaseForm.MatchString(name) {
		return fmt.Errorf("%s: %q is no release of a kernel", dir, name)
	}
	for file, as := range map[string]string{ownKernel: kernelPath + name, ownConfig: configPath + name, ownBuiltin: "lib/modules/" + name + "/" + ownBuiltin} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		files[as] = packages.File{Data: data, Package: "linux"}
	}
	return nil
}

var releaseForm = regexp.MustCompile(`^[0-9][A-Za-z0-9.+~_-]{1,60}$`)

// execution is the policy of Integrity Policy Enforcement (Documentation/admin-guide/LSM/ipe.rst): nothing is executed, loaded into the
// kernel or taken as firmware but what came with the initramfs.
const execution = `policy_name=box policy_version=0.0.1
DEFAULT action=DENY
op=EXECUTE boot_verified=TRUE action=ALLOW
op=FIRMWARE boot_verified=TRUE action=ALLOW
op=KMODULE boot_verified=TRUE action=ALLOW
`

// signPolicy wraps the policy in the form the kernel takes: CMS SignedData that holds its content, without signed attributes (RFC 5652,
// 5.1). The kernel knows the key from the firmware's db. Same policy and key, same bytes.
func signPolicy(policy []byte, by keys.Pair) ([]byte, error) {
	digest := sha256.Sum256(policy)
	signature, err := by.Key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var (
		data       = encoding.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
		signedData = encoding.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
		sha        = encoding.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
		rsa        = encoding.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
		explicit   = asn1.Tag(0).ContextSpecific().Constructed()
	)
	algorithm := func(id encoding.ObjectIdentifier) cryptobyte.BuilderContinuation {
		return func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(id); b.AddASN1NULL() }
	}
	signer := func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(by.Certificate.RawIssuer)
			b.AddASN1BigInt(by.Certificate.SerialNumber)
		})
		b.AddASN1(asn1.SEQUENCE, algorithm(sha))
		b.AddASN1(asn1.SEQUENCE, algorithm(rsa))
		b.AddASN1OctetString(signature)
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(signedData)
		b.AddASN1(explicit, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, algorithm(sha)) })
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(data)
					b.AddASN1(explicit, func(b *cryptobyte.Builder) { b.AddASN1OctetString(policy) })
				})
				b.AddASN1(explicit, func(b *cryptobyte.Builder) { b.AddBytes(by.Certificate.Raw) })
				b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, signer) })
			})
		})
	})
	return b.Bytes()
}
