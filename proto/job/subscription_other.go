//go:build !linux

package job

func (d *direct) read(b []byte) (int, error) { return d.nc.Read(b) }
