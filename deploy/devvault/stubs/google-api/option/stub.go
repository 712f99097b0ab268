package option

func WithUserAgent(string) interface{} { return nil }
