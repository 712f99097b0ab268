package enclave

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
)

func splitCheckpoint(text string) (origin string, size int64, root Digest, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] == "" {
		return "", 0, root, errors.New("want origin, size and root, one line each, and nothing more")
	}
	size, err = strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return "", 0, root, errors.New("tree size is not a plain decimal")
	}
	h, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(h) != len(root) || base64.StdEncoding.EncodeToString(h) != lines[2] {
		return "", 0, root, errors.New("root hash is not 32 bytes of base64")
	}
	copy(root[:], h)
	return lines[0], size, root, nil
}
