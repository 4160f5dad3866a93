package topology

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
)

// pick is the address of key in prefix: where its hash points, or the next one
// that is free. The first address, the one after it (by custom the gateway's)
// and the last are left out.
func pick(prefix netip.Prefix, key string, taken map[netip.Addr]bool) (netip.Addr, error) {
	size := usable(prefix)
	if size == 0 {
		return netip.Addr{}, errFull(prefix)
	}
	h := fnv.New64a()
	h.Write([]byte(key))
	start := h.Sum64() % size
	for i := range size {
		if a := offset(prefix.Masked().Addr(), 2+(start+i)%size); !taken[a] {
			return a, nil
		}
	}
	return netip.Addr{}, errFull(prefix)
}

// usable counts the addresses pick may choose from; at most 2^32 of a prefix.
func usable(prefix netip.Prefix) uint64 {
	bits := min(prefix.Addr().BitLen()-prefix.Bits(), 32)
	if size := uint64(1) << bits; size > 3 {
		return size - 3
	}
	return 0
}

// offset adds n to an address.
func offset(a netip.Addr, n uint64) netip.Addr {
	if a.Is4() {
		b := a.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
		return netip.AddrFrom4(b)
	}
	b := a.As16()
	low := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], low+n)
	return netip.AddrFrom16(b)
}
