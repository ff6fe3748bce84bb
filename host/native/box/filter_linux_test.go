package box

import "testing"

// Every jump of the filter ends at an instruction of it: the kernel refuses others, but only there.
func TestFilterIsWhole(t *testing.T) {
	p := filter()
	if len(p) > 4096 {
		t.Errorf("the filter has %d instructions, and the kernel takes 4096", len(p))
	}
	for i, in := range p {
		if in.Code&7 == 5 && (i+1+int(in.Jt) >= len(p) || i+1+int(in.Jf) >= len(p)) {
			t.Errorf("instruction %d jumps past the end", i)
		}
	}
}
