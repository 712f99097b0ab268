package link

import "time"

// WriteRaw sends bytes as they are to the peer, past the framing.
func (c *Conn) WriteRaw(b []byte) error {
	if _, err := c.tls.Write(b); err != nil {
		return err
	}
	return c.raw.push(time.Now().Add(c.stall))
}

// Frame is a frame's bytes, for tests that send it out of turn.
func Frame(length int, kind, step, number uint32, payload []byte) []byte {
	out := make([]byte, headerSize, headerSize+len(payload))
	header(out, length, kind, step, number)
	return append(out, payload...)
}

// Cut ends the connection without a word, as a crash does.
func (c *Conn) Cut() { c.raw.Conn.Close() }

const (
	KindData   = kindData
	KindHello  = kindHello
	MaxPayload = maxPayload
	Window     = window / maxPayload
)

// ParseHeader is parseHeader.
func ParseHeader(h [16]byte) (length int, kind, step, number uint32, err error) {
	return parseHeader(h)
}
