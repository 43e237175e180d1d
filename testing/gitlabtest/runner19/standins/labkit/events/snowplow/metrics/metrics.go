// Package metrics stands in for the metrics of the usage collector, which are switched off with the collector.
package metrics

// CollectorOption has no effect.
type CollectorOption struct{}

func WithCollectorNamespace(string) CollectorOption                       { return CollectorOption{} }
func WithCollectorBatchDeliveryDurationBuckets([]float64) CollectorOption { return CollectorOption{} }
