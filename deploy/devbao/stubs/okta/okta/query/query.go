package query

type Params struct{}

func WithFilter(string) interface{}         { return nil }
func NewQueryParams(...interface{}) *Params { return nil }
