package cli

import (
	"strings"
	"testing"

	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
)

func TestUnlockSaysWhatNobodyHolds(t *testing.T) {
	_, h := banyanv1connect.NewCoordHandler(fakeCoord{locks: []*banyanv1.LockState{{Name: "nightly", Holders: []*banyanv1.Claim{{Name: "nightly", Token: 7}}}}})
	for line, want := range map[string]string{
		"unlock nightly --token 5": `nobody holds lock "nightly" with token 5:`,
		"unlock night":             `nobody holds lock "night":`,
	} {
		if _, errs, code := do(t, sessionAt(t, h), strings.Split(line, " ")...); code != 1 || !strings.Contains(errs, want) {
			t.Errorf("banyan %s: exit %d, %q", line, code, errs)
		}
	}
}
