package jobs

import (
	"context"
	"time"
)

// SweepNow looks for orphans as if it were now.
func (s *Service) SweepNow(now time.Time) { s.sweep(context.Background(), now) }
