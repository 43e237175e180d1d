// Package snowplow stands in for LabKit's client of a usage collector, to which GitLab's own runners report what jobs
// cost. It is switched off: NewEmitter fails, so a runner that is configured for it says so in its log and runs on.
package snowplow

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"gitlab.com/gitlab-org/labkit/v2/events/snowplow/metrics"
	"gitlab.com/gitlab-org/labkit/v2/events/snowplow/oidc"
)

var errOff = errors.New("usage events are not part of this build")

// SendResult is what became of a batch of events.
type SendResult struct {
	EventCount, StatusCode int
	Err                    error
}

// SendCallback hears of batches; EmitterOption is an option of NewEmitter, of which none has an effect.
type (
	SendCallback  func(successes, failures []SendResult)
	EmitterOption struct{}
)

func WithCallback(SendCallback) EmitterOption                              { return EmitterOption{} }
func WithTokenSource(*oidc.Source) EmitterOption                           { return EmitterOption{} }
func WithMetricsCollectorOptions(...metrics.CollectorOption) EmitterOption { return EmitterOption{} }

// Emitter would send events; there is none.
type Emitter struct{}

func NewEmitter(string, ...EmitterOption) (*Emitter, error) { return nil, errOff }
func (*Emitter) Collector() prometheus.Collector            { return nil }

// Tracker would make events of jobs; there is none.
type Tracker struct{}

func NewTracker(string, *Emitter) (*Tracker, error) { return nil, errOff }
func (*Tracker) Stop()                              {}

func (*Tracker) TrackBillingEventWithOptionalInput(BillingEventRequiredInput, BillingEventOptionalInput) error {
	return errOff
}

// BillingEventRequiredInput and BillingEventOptionalInput are an event's fields.
type (
	BillingEventRequiredInput struct {
		Category, EventType, Realm, UnitOfMeasure string
		Quantity                                  float64
	}
	BillingEventOptionalInput struct {
		Subject, DeploymentType, InstanceID, UniqueInstanceID   string
		ProjectID, NamespaceID, RootNamespaceID, OrganizationID int64
		Metadata                                                map[string]any
	}
)
