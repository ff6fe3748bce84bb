package sdktest_test

import (
	"testing"

	"github.com/sluicehq/sluice/sdk/sdktest"
)

func TestExample(t *testing.T) { sdktest.RunHTTP(t, lines, upstream) }
