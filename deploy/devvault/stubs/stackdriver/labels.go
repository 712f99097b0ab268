package stackdriver

import "github.com/armon/go-metrics"

var _ metrics.MetricSink = (*Sink)(nil)

func (*Sink) SetGaugeWithLabels([]string, float32, []metrics.Label)    {}
func (*Sink) IncrCounterWithLabels([]string, float32, []metrics.Label) {}
func (*Sink) AddSampleWithLabels([]string, float32, []metrics.Label)   {}
