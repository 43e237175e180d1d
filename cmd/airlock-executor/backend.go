package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/executor"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/jobs/reaper"
)

// backend adds to the jobs what only administrators ask for: images, events, the reaper, a reload.
type backend struct {
	*jobs.Service
	parts      *parts
	reaper     *reaper.Reaper
	events     *executor.EventLog
	configPath string
	log        zerolog.Logger
	levels     atomic.Pointer[[]isolation.Level] // that jobs can get by the configuration: what images are made ready for
	bound      atomic.Pointer[[]string]          // runner classes that the configuration gives a socket
	version    api.Version
	// prepare prepares the host for what a configuration lets jobs have, and returns at once.
	prepare func(*config.Config)
}

var _ executor.Backend = (*backend)(nil)

func (b *backend) Version() api.Version { return b.version }

func (b *backend) Events(ctx context.Context, job string, follow bool, emit func([]byte) error) error {
	return b.events.Events(ctx, job, follow, emit)
}

// Prepare makes a job's sandbox. It writes the job log as text.
func (b *backend) Prepare(ctx context.Context, req *api.Prepare, response []byte, log io.Writer) error {
	return b.Service.Prepare(ctx, req, response, joblog.New(log))
}

// PullImage makes an image ready for every level that jobs can get and this host can run.
func (b *backend) PullImage(ctx context.Context, req *api.Pull, progress io.Writer) error {
	log := joblog.New(progress)
	var base cache.Base
	var missing []error
	levels := *b.levels.Load()
	for _, level := range levels {
		runtime, err := b.Runtime(level)
		if err != nil {
			missing = append(missing, err)
			continue
		}
		base, err = b.parts.cache.Pull(ctx, cache.Request{
			Image: req.Image, PullPolicy: cache.PullAlways, AllowLocal: true, Form: baseForm(runtime.Needs().Root),
			Variant: jobs.Variant(ctx, runtime),
		}, log)
		if err != nil {
			return err
		}
	}
	if len(missing) == len(levels) {
		return errors.Join(missing...)
	}
	warn(log, base)
	return nil
}

// warn tells what of an image its sandboxes will not have.
func warn(log *joblog.Log, base cache.Base) {
	for _, warning := range base.Warnings {
		log.Warning("%s", warning)
	}
}

func (b *backend) ImportImage(ctx context.Context, req *api.Import, tar io.Reader, progress io.Writer) error {
	log := joblog.New(progress)
	base, err := b.parts.cache.Import(ctx, cache.ImportRequest{Name: req.Name, Pick: req.Pick}, tar, log)
	if err != nil {
		return err
	}
	if req.Unpinned {
		if err := b.parts.cache.Pin(ctx, base.Digest, false); err != nil {
			return err
		}
	}
	warn(log, base)
	log.Note("Imported %s, %s", base.Image, base.Digest)
	return nil
}

func (b *backend) Images(ctx context.Context) (*api.Images, error) {
	images, err := b.parts.cache.List(ctx)
	if err != nil {
		return nil, err
	}
	usage, err := b.parts.cache.Usage()
	if err != nil {
		return nil, err
	}
	reply := &api.Images{
		UsedBytes: usage.Used.Bytes, UsedInodes: usage.Used.Inodes, LimitBytes: usage.Limit.Bytes, LimitInodes: usage.Limit.Inodes,
		PinnedBytes: usage.Pinned.Bytes, PinnedInodes: usage.Pinned.Inodes,
		FreeBytes: usage.Free.Bytes, FreeInodes: usage.Free.Inodes, FloorBytes: usage.Floor.Bytes, FloorInodes: usage.Floor.Inodes,
		Evicted: usage.Counts.Evicted, RefusedTooLarge: usage.Counts.TooLarge, RefusedNoRoom: usage.Counts.NoRoom,
	}
	for _, image := range images {
		reply.Images = append(reply.Images, &api.ImageInfo{
			Name: strings.Join(image.Names, ", "), Digest: image.Digest, SizeBytes: image.Use.Bytes, Inodes: image.Use.Inodes,
			CreatedUnixNano: image.Created.UnixNano(), LastUsedUnixNano: image.LastUsed.UnixNano(),
			Leases: int32(image.Leases), Private: image.Private, Pinned: image.Pinned,
		})
	}
	return reply, nil
}

func (b *backend) RemoveImage(ctx context.Context, image string) (int64, error) {
	return b.parts.cache.Remove(ctx, image)
}

// PinImage keeps an image from being evicted by pulls, or no longer.
func (b *backend) PinImage(ctx context.Context, image string, pinned bool) error {
	return b.parts.cache.Pin(ctx, image, pinned)
}

func (b *backend) Reap(ctx context.Context, dryRun bool) ([]*api.Leftover, error) {
	leftovers, err := b.reaper.Pass(ctx, dryRun)
	var list []*api.Leftover
	for _, l := range leftovers {
		entry := &api.Leftover{Kind: l.Kind, Name: l.Name, Sandbox: l.Sandbox, Removed: l.Removed}
		if l.Err != nil {
			entry.Error = l.Err.Error()
		}
		list = append(list, entry)
	}
	return list, err
}

// Reload puts a new configuration in force for jobs prepared from now on. What only a start can change (paths,
// network, runtime) stays as it was. When anything of it is refused, nothing changes: the whole of the new policy is in
// force, or the whole of the old one.
func (b *backend) Reload(context.Context) error {
	cfg, err := config.Load(b.configPath)
	if err != nil {
		return err
	}
	settings, err := settings(cfg)
	if err != nil {
		return err
	}
	b.setClasses(cfg) // before anything that the same file says of them is believed
	b.Apply(settings)
	b.setLevels(cfg)
	logPolicy(b.log, cfg)
	b.prepare(cfg)
	return nil
}

// BoundClasses are the runner classes that have sockets of their own by the configuration in force.
func (b *backend) BoundClasses() []string { return *b.bound.Load() }

func (b *backend) setClasses(cfg *config.Config) {
	var classes []string
	for _, s := range cfg.Sockets {
		classes = append(classes, s.RunnerClass)
	}
	b.bound.Store(&classes)
}

// setLevels keeps the levels that jobs can get.
func (b *backend) setLevels(cfg *config.Config) {
	levels := cfg.Levels()
	b.levels.Store(&levels)
}

// logPolicy says which policy is in force from now on, and what is worth a second look in it.
func logPolicy(log zerolog.Logger, cfg *config.Config) {
	if cfg.Policy == nil {
		log.Info().Stringer("isolation", cfg.Isolation).Msg("no policy: every job gets the same isolation")
		return
	}
	log.Info().Str("policy", cfg.Policy.Digest()).Stringer("default", cfg.Isolation).Msg("the policy is in force")
	for _, w := range cfg.Policy.Warnings {
		log.Warn().Int("line", w.Line).Str("key", w.Key).Str("remedy", w.Remedy).Msg(w.Message)
	}
}
