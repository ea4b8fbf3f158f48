// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"os"
	"testing"

	"sdbox/test/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }
