package cloudsqlconn

type Option func()
type DialOption func()

func WithIAMAuthN() Option                        { return nil }
func WithCredentialsJSON([]byte) Option           { return nil }
func WithDefaultDialOptions(...DialOption) Option { return nil }
func WithPrivateIP() DialOption                   { return nil }
func WithPSC() DialOption                         { return nil }
