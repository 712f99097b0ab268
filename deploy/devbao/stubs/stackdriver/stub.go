package stackdriver

import "github.com/armon/go-metrics"

type Config struct {
	LabelExtractor, Bucketer       interface{}
	ProjectID, Location, Namespace string
	DebugLogs                      bool
}

type Sink struct{}

var _ metrics.MetricSink = (*Sink)(nil)

func NewSink(interface{}, *Config) *Sink { return &Sink{} }

func (*Sink) SetGauge([]string, float32)                               {}
func (*Sink) EmitKey([]string, float32)                                {}
func (*Sink) IncrCounter([]string, float32)                            {}
func (*Sink) AddSample([]string, float32)                              {}
func (*Sink) SetGaugeWithLabels([]string, float32, []metrics.Label)    {}
func (*Sink) IncrCounterWithLabels([]string, float32, []metrics.Label) {}
func (*Sink) AddSampleWithLabels([]string, float32, []metrics.Label)   {}
