package stackdriver

type Config struct {
	LabelExtractor, Bucketer       interface{}
	ProjectID, Location, Namespace string
	DebugLogs                      bool
}

type Sink struct{}

func NewSink(interface{}, *Config) *Sink { return &Sink{} }

func (*Sink) SetGauge([]string, float32)    {}
func (*Sink) EmitKey([]string, float32)     {}
func (*Sink) IncrCounter([]string, float32) {}
func (*Sink) AddSample([]string, float32)   {}
