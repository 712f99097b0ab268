package schema

import "hash/maphash"

// entityCounter counts rows per entity without keeping the keys: it stores 128 bits of a hash keyed at random for this
// run, 24 bytes per distinct entity and at most twice and a half that. Two entities that collide would count as one,
// which can only refuse a table, never let an entity have more rows than declared.
type entityCounter struct {
	seeds [2]maphash.Seed
	slots []entitySlot // open addressing, linear probing; a power of two
	used  int
}

// entitySlot keeps hash and count together: a look-up in a large table costs one cache miss and not two.
type entitySlot struct {
	hash [2]uint64
	rows uint32 // 0 = free
}

func newEntityCounter() *entityCounter {
	return &entityCounter{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, slots: make([]entitySlot, 1<<10)}
}

func (c *entityCounter) grow() {
	old := c.slots
	c.slots = make([]entitySlot, 2*len(old))
	for _, s := range old {
		if s.rows > 0 {
			*c.find(s.hash) = s
		}
	}
}

// find returns the slot of a hash, or the free one where it belongs.
func (c *entityCounter) find(h [2]uint64) *entitySlot {
	mask := uint64(len(c.slots) - 1)
	for i := h[0] & mask; ; i = (i + 1) & mask {
		if s := &c.slots[i]; s.rows == 0 || s.hash == h {
			return s
		}
	}
}

// add counts one more row of the entity and returns how many it has.
func (c *entityCounter) add(key string) uint32 {
	h := [2]uint64{maphash.String(c.seeds[0], key), maphash.String(c.seeds[1], key)}
	s := c.find(h)
	if s.rows == 0 {
		if c.used >= len(c.slots)/4*3 {
			c.grow()
			s = c.find(h)
		}
		s.hash = h
		c.used++
	}
	if s.rows < 1<<32-1 {
		s.rows++
	}
	return s.rows
}

// most is the largest number of rows of one entity.
func (c *entityCounter) most() uint32 {
	m := uint32(0)
	for i := range c.slots {
		m = max(m, c.slots[i].rows)
	}
	return m
}
