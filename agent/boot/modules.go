// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const modulesFolder = "/lib/modules"

// module is one line of /lib/modules/load: a file in that folder and the parameters it is loaded with. The kernel does not apply the
// parameters of its own command line to modules loaded this way.
type module struct{ file, params string }

// parseModules reads the list of modules in the order they must be loaded in.
func parseModules(text []byte) ([]module, error) {
	var list []module
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		file, params, _ := strings.Cut(line, " ")
		if filepath.Base(file) != file || !strings.HasSuffix(file, ".ko") {
			return nil, fmt.Errorf("list of modules: %.60q is no module's file", file)
		}
		list = append(list, module{file, strings.TrimSpace(params)})
	}
	return list, lines.Err()
}

// readModules reads the list of the image.
func readModules() ([]module, error) {
	text, err := os.ReadFile(filepath.Join(modulesFolder, "load"))
	if err != nil {
		return nil, fmt.Errorf("list of modules: %w", err)
	}
	return parseModules(text)
}

// load hands one module to the kernel, which checks its signature. A module that is there already is no error.
func (m module) load(folder string) error {
	f, err := os.Open(filepath.Join(folder, m.file))
	if err != nil {
		return fmt.Errorf("module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), m.params, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("module %s: %w", m.file, err)
	}
	return nil
}
