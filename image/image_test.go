// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sdbox/firmware/reference"
	"sdbox/image/initramfs"
	"sdbox/image/keys"
	"sdbox/image/packages"
	"sdbox/image/uki"

	"github.com/stretchr/testify/require"
)

// The packages are fetched once for the whole tree, and kept: they are 112 MB.
const cache = "../build/cache"

// testLock is the lock that "make test" makes first: what the mirror has today. Without it the tests take the one of the tree.
func testLock(t testing.TB) packages.Lock {
	f, err := os.Open("../build/cache/packages.lock")
	if errors.Is(err, fs.ErrNotExist) {
		l, err := Lock()
		require.NoError(t, err)
		return l
	}
	require.NoError(t, err)
	defer f.Close()
	l, err := packages.ParseLock(f)
	require.NoError(t, err)
	return l
}

// builder in the environment makes the test program build one image, in the folder it stands in, and end.
const builder = "SDBOX_IMAGE_TEST_BUILD"

func TestMain(m *testing.M) {
	folder, ours := os.LookupEnv(builder)
	if !ours {
		os.Exit(m.Run())
	}
	syscall.Umask(0o077)
	s, err := spec(folder)
	if err == nil {
		_, err = Build(context.Background(), s, ".")
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

// site makes a folder with all an image is made of but the packages: anchors, keys and an agent; site.toml names them.
func site(t testing.TB) string {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	_, public, err := reference.GenerateKey("release-1.lab")
	require.NoError(t, err)
	require.NoError(t, keys.Make(filepath.Join(dir, "keys"), "lab", time.Now()))
	for name, data := range map[string]string{
		"root.pem":    string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"release.pub": public + "\n",
		"site.toml":   goodSite,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644))
	}
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "netgo,osusergo", "-ldflags", "-s -w -buildid=", "-o", filepath.Join(dir, "agent"), "sdbox/cmd/sdbox-agent")
	c.Env = append(os.Environ(), "CGO_ENABLED=1")
	out, err := c.CombinedOutput()
	require.NoError(t, err, string(out))
	lock := testLock(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "packages.lock"), []byte(lock.Text()), 0o644))
	debs, err := packages.Fetch(t.Context(), lock, cache, func(p packages.Package) { t.Log("fetching", p) })
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "cache"), 0o755))
	for _, deb := range debs { // copies: another user may not be let through to the tree
		require.NoError(t, exec.Command("cp", deb, filepath.Join(dir, "cache")).Run())
	}
	return dir
}

const goodSite = `domain = "lab"
gateway = ["10.0.2.2:443"]
gateway_name = "gw1.lab"
root = "root.pem"
keys = "keys"
support = "call 1234"
events = "port:org.sdbox.events"
finger = "port:org.sdbox.finger"
[release]
threshold = 1
keys = ["release.pub"]
`

// kernelFolder in the environment names a kernel of one's own, for which the same must be true: SDBOX_KERNEL=$PWD/build/kernel go test ./image.
const kernelFolder = "SDBOX_KERNEL"

func spec(folder string) (Spec, error) {
	s, err := ReadSite(filepath.Join(folder, "site.toml"))
	if err != nil {
		return Spec{}, err
	}
	f, err := os.Open(filepath.Join(folder, "packages.lock"))
	if err != nil {
		return Spec{}, err
	}
	defer f.Close()
	lock, err := packages.ParseLock(f)
	return Spec{
		Site: s, Profile: "qemu", Form: Production, Version: "2026.11.24", Built: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC),
		Agent: filepath.Join(folder, "agent"), Lock: lock, Cache: filepath.Join(folder, "cache"), Note: func(string) {},
		Kernel: os.Getenv(kernelFolder),
	}, err
}

// elsewhere builds in another folder, with another home, temporary folder and umask, and as another user where this one may.
func elsewhere(t *testing.T, folder string) string {
	out := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	program := filepath.Join(out, "builder")
	require.NoError(t, exec.Command("cp", self, program).Run())
	for _, dir := range []string{out, folder} { // another user must be let through
		require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	}
	c := exec.Command(program)
	c.Dir, c.Env = out, []string{builder + "=" + folder, kernelFolder + "=" + os.Getenv(kernelFolder), "PATH=" + os.Getenv("PATH"), "HOME=" + out, "TMPDIR=" + out, "TZ=Asia/Tokyo", "LANG=fr_FR.UTF-8"}
	if os.Getuid() == 0 {
		const nobody = 65534
		require.NoError(t, exec.Command("chown", "-R", "65534:65534", out, folder).Run())
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	said, err := c.CombinedOutput()
	require.NoError(t, err, string(said))
	return out
}

func TestBuild(t *testing.T) {
	folder, out := site(t), t.TempDir()
	s, err := spec(folder)
	require.NoError(t, err)
	b, err := Build(t.Context(), s, out)
	require.NoError(t, err)

	t.Run("the same input makes the same bytes for any user in any folder", func(t *testing.T) {
		other := elsewhere(t, folder)
		for _, name := range []string{FileUKI, FileDisk, FileReference, FileSBOM, FileSums} {
			one, err := os.ReadFile(filepath.Join(out, name))
			require.NoError(t, err)
			two, err := os.ReadFile(filepath.Join(other, name))
			require.NoError(t, err)
			require.True(t, bytes.Equal(one, two), name)
		}
		c := exec.Command("sha256sum", "-c", "--quiet", FileSums)
		c.Dir = other
		said, err := c.CombinedOutput()
		require.NoError(t, err, string(said))
	})
	i, err := uki.Parse(b.UKI)
	require.NoError(t, err)
	tree, err := initramfs.Read(i.Section(uki.Initrd))
	require.NoError(t, err)
	t.Run("two programs and their loader, and nothing of the machine that built it", func(t *testing.T) {
		checkContents(t, tree, folder)
	})
	t.Run("nothing is missing that a program loads", func(t *testing.T) {
		checkLibraries(t, tree)
	})
	t.Run("every profile finds what it asks for, and loads it after what it needs", func(t *testing.T) {
		files, err := unpack(t.Context(), s)
		require.NoError(t, err)
		checkModules(t, tree)
		for _, name := range initramfs.ProfileNames() {
			if name == s.Profile {
				continue
			}
			p, err := initramfs.ReadProfile(name)
			require.NoError(t, err)
			root, err := initramfs.Build(initramfs.Spec{Agent: tree["bin/sdbox-agent"].Data, Profile: p, Packages: files})
			require.NoError(t, err)
			checkModules(t, root)
		}
	})
	t.Run("the execution policy is signed by the key that signs the image", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "ipe.p7b")
		require.NoError(t, os.WriteFile(file, tree["etc/sdbox/ipe.p7b"].Data, 0o600))
		db := filepath.Join(folder, "keys", "db.pem")
		said, err := exec.Command("openssl", "cms", "-verify", "-binary", "-inform", "der", "-in", file, "-CAfile", db, "-purpose", "any").Output()
		require.NoError(t, err)
		require.Equal(t, execution, string(said))
	})
	t.Run("the bill of materials names every package and module once", func(t *testing.T) {
		checkBill(t, filepath.Join(out, FileSBOM), s)
	})
}

func checkContents(t *testing.T, tree initramfs.Tree, folder string) {
	require.NoError(t, tree.Check())
	require.Equal(t, []string{"bin/sdbox-agent", "lib64/ld-linux-x86-64.so.2", "usr/sbin/pcscd"}, tree.Executables())
	here, err := os.Getwd()
	require.NoError(t, err)
	for p, e := range tree {
		for _, path := range []string{filepath.Dir(here) + "/", folder, "/tmp/go-build"} {
			require.False(t, bytes.Contains(e.Data, []byte(path)), "%s holds %q, a folder of this machine", p, path)
		}
		require.NotContains(t, []string{"sh", "bash", "dash", "busybox", "login", "su"}, filepath.Base(p))
	}
}

// checkLibraries has the image's own loader resolve what the programs and drivers need, from the image alone.
func checkLibraries(t *testing.T, tree initramfs.Tree) {
	root := t.TempDir()
	for p, e := range tree {
		if e.Mode.IsRegular() {
			file := filepath.Join(root, p)
			require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
			require.NoError(t, os.WriteFile(file, e.Data, 0o755))
		}
	}
	loader, libraries := filepath.Join(root, "lib64/ld-linux-x86-64.so.2"), filepath.Join(root, "lib/x86_64-linux-gnu")
	for _, p := range []string{"bin/sdbox-agent", "usr/sbin/pcscd", "usr/lib/pcsc/drivers/ifd-ccid.bundle/Contents/Linux/libccid.so", "lib/x86_64-linux-gnu/libgcc_s.so.1"} {
		c := exec.Command(loader, "--inhibit-cache", "--library-path", libraries, "--list", filepath.Join(root, p))
		said, err := c.CombinedOutput()
		require.NoError(t, err, string(said))
		for line := range strings.Lines(string(said)) {
			_, from, found := strings.Cut(line, "=> ")
			require.True(t, !found || strings.HasPrefix(from, root), "%s: %s", p, line)
		}
	}
}

// checkModules reads .modinfo with the machine's own tool, beside the code that made the order.
func checkModules(t *testing.T, tree initramfs.Tree) {
	loaded, inside := map[string]bool{}, 0
	for p := range tree {
		if strings.HasSuffix(p, ".ko") {
			inside++
		}
	}
	for line := range strings.Lines(string(tree["lib/modules/load"].Data)) {
		file, parameters, _ := strings.Cut(strings.TrimSpace(line), " ")
		require.Equal(t, file == "usbcore.ko", parameters == "authorized_default=0", line)
		e, found := tree["lib/modules/"+file]
		require.True(t, found, file)
		_, info, found := bytes.Cut(e.Data, []byte("\x00depends="))
		require.True(t, found, file)
		needs, _, _ := bytes.Cut(info, []byte{0})
		for _, n := range strings.FieldsFunc(string(needs), func(r rune) bool { return r == ',' }) {
			require.True(t, loaded[strings.ReplaceAll(n, "-", "_")], "%s is loaded before %s", file, n)
		}
		require.True(t, bytes.HasSuffix(e.Data, []byte("~Module signature appended~\n")), file)
		loaded[strings.TrimSuffix(file, ".ko")] = true
	}
	require.Len(t, loaded, inside)
}

func checkBill(t *testing.T, file string, s Spec) {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var b cdxBOM
	require.NoError(t, json.Unmarshal(text, &b))
	refs, modules := map[string]bool{}, 0
	for _, c := range b.Components {
		require.False(t, refs[c.Ref], c.Ref)
		refs[c.Ref] = true
		require.NotEmpty(t, c.Version, c.Name)
		if strings.HasPrefix(c.PURL, "pkg:golang/") && c.Name != "std" {
			modules++
			require.Len(t, c.Hashes, 1, c.Name)
		}
	}
	for _, p := range s.Lock {
		require.True(t, refs["pkg:deb/debian/"+p.Name+"@"+p.Version+"?arch=amd64&distro=debian-12"], p)
	}
	require.Greater(t, modules, 20)
}

func TestASiteWithAMistakeIsNamed(t *testing.T) {
	for want, change := range map[string][2]string{
		"mean nothing here":                        {"support", "suport"},
		"domain, gateway_name, root and keys":      {`root = "root.pem"`, ``},
		"gateway: want 1 to 8":                     {`["10.0.2.2:443"]`, `[]`},
		"want host:port":                           {`"10.0.2.2:443"`, `"10.0.2.2"`},
		"release.threshold 2: want 1 to the":       {"threshold = 1", "threshold = 2"},
		"events leave a box in the domain \"lab\"": {`domain = "lab"`, `domain = "sd.example.org"`},
		"want fr or en":                            {"[release]", "language = \"de\"\n[release]"},
	} {
		file := filepath.Join(t.TempDir(), "site.toml")
		require.NoError(t, os.WriteFile(file, []byte(strings.Replace(goodSite, change[0], change[1], 1)), 0o600))
		_, err := ReadSite(file)
		require.ErrorContains(t, err, want)
	}
}

func TestALockThatLacksWhatAProgramLoadsIsNamed(t *testing.T) {
	s := Spec{Lock: packages.Lock{}, Cache: cache, Note: func(string) {}}
	for _, p := range testLock(t) {
		if p.Name != "libusb-1.0-0" && !strings.HasPrefix(p.Name, "linux-image-") {
			s.Lock = append(s.Lock, p)
		}
	}
	files, err := unpack(t.Context(), s)
	require.NoError(t, err)
	agent, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	_, err = initramfs.Build(initramfs.Spec{Agent: agent, Packages: files})
	require.ErrorContains(t, err, "libusb-1.0.so.0: no package of the lock holds it")
}
