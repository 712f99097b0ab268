package pgxv4

import (
	"errors"

	"cloud.google.com/go/cloudsqlconn"
)

func RegisterDriver(string, ...cloudsqlconn.Option) (func() error, error) {
	return nil, errors.New("Cloud SQL is not built into this server")
}
