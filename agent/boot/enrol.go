// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"sdbox/firmware/efivar"
)

// enrolment is where an image has what makes a firmware trust the site's keys, if the site wants that done by the image.
const enrolment = "/etc/sdbox/enrol"

// enrol gives the keys in this folder to a firmware that has none yet, and says whether it did. An image without such a folder, a
// firmware that has keys and a machine without UEFI are left as they are.
func enrol(variables *efivar.Files, folder string) (bool, error) {
	var e efivar.Enrolment
	for _, f := range []struct {
		into *[]byte
		name string
	}{{&e.DB, "db.auth"}, {&e.KEK, "KEK.auth"}, {&e.PK, "PK.auth"}} {
		var err error
		if *f.into, err = os.ReadFile(filepath.Join(folder, f.name)); errors.Is(err, fs.ErrNotExist) {
			return false, nil
		} else if err != nil {
			return false, fmt.Errorf("enrol keys: %w", err)
		}
	}
	if _, err := variables.Read(efivar.SetupMode); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	err := variables.Enrol(e)
	if errors.Is(err, efivar.ErrEnrolled) {
		return false, nil
	}
	return err == nil, err
}
