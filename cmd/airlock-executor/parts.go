package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/network"
	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/jobs/audit"
	"github.com/airlock-ci/airlock/jobs/reaper"
	"github.com/airlock-ci/airlock/jobs/store"
	"github.com/airlock-ci/airlock/policy"
	"github.com/airlock-ci/airlock/policy/idtoken"
)

// patience is how many times longer a silent job is left alone while its runner lives: a runner calls stage after
// stage, with pauses of seconds.
const patience = 30

// parts are the concrete things behind jobs' interfaces.
type parts struct {
	cache    *cache.Cache
	networks *network.Manager
	runtimes
	journal *store.Journal
	audit   *audit.Log
}

// runtimes are those that this host can run, what closes them, and why it cannot run the others.
type runtimes struct {
	list        []sandboxRuntime
	closers     []io.Closer
	unavailable map[isolation.Level]error
}

// add takes a runtime, or the reason why there is none for its level.
func (r *runtimes) add(level isolation.Level, runtime interface {
	sandboxRuntime
	io.Closer
}, err error) {
	if err != nil {
		r.unavailable[level] = err
		return
	}
	r.list, r.closers = append(r.list, runtime), append(r.closers, runtime)
}

// sandboxRuntime is a runtime, by a name that does not clash with Go's.
type sandboxRuntime = isolation.Runtime

// assemble opens everything that has state. When it fails, what was opened is closed again: it returns p even then.
func assemble(cfg *config.Config, logger zerolog.Logger) (p *parts, err error) {
	p = &parts{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close(context.Background()))
		}
	}()
	for _, dir := range []string{cfg.StateDir, cfg.RunDir} {
		if err := makeRoot(dir); err != nil {
			return p, err
		}
	}
	importer, err := importer()
	if err != nil {
		return p, err
	}
	component := func(name string) zerolog.Logger { return logger.With().Str("component", name).Logger() }
	if p.journal, err = store.Open(filepath.Join(cfg.RunDir, "journal.db"), store.Options{Logger: component("journal")}); err != nil {
		return p, err
	}
	if p.audit, err = audit.Open(audit.Options{Path: filepath.Join(cfg.StateDir, "audit", "decisions.jsonl")}); err != nil {
		return p, err
	}
	if p.networks, err = network.New(network.Options{
		Bridge: cfg.Network.Bridge, Subnet: cfg.Network.Subnet, Allow: cfg.Network.Allow, MaxConnections: cfg.Network.MaxConnections,
		DNS: cfg.DNS, DNSSearch: cfg.DNSSearch, ExtraHosts: cfg.ExtraHosts, Logger: component("network"),
	}); err != nil {
		return p, err
	}
	if p.cache, err = cache.New(cache.Options{
		Dir: filepath.Join(cfg.StateDir, "cache"), RunDir: cfg.RunDir, DiskLimit: cfg.Cache.DiskLimit, InodeLimit: cfg.Cache.InodeLimit,
		MaxUnpacked: cfg.Cache.ImageSizeLimit, MaxEntries: cfg.Cache.ImageInodeLimit,
		MinFree: func(total cache.Use) (floor cache.Use) {
			floor.Bytes, floor.Inodes = cfg.Cache.MinFree(total.Bytes, total.Inodes)
			return floor
		},
		InsecureRegistries: cfg.Cache.InsecureRegistries, PullTimeout: cfg.Cache.PullTimeout,
		Scratch: cache.ScratchKind(cfg.Cache.Scratch), ScratchSize: cfg.Limits.Scratch, Importer: importer, Logger: component("cache"),
	}); err != nil {
		return p, err
	}
	p.runtimes, err = openRuntimes(cfg, component("runtime"))
	if err != nil {
		return p, err
	}
	for level, why := range p.unavailable {
		// Wanted or not, it is said at the start; doctor and the jobs that need it say it again.
		logger.Warn().Err(why).Stringer("isolation", level).Msg("this host cannot run the level")
	}
	if why := p.unavailable[cfg.Isolation]; why != nil && cfg.Isolation == isolation.ProcessLevel {
		return p, why // not a matter of the hardware: the administrator can install it
	}
	if len(p.list) == 0 {
		return p, fault.Adminf("this host can run neither level: %w",
			errors.Join(p.unavailable[isolation.ProcessLevel], p.unavailable[isolation.HypervisorLevel]))
	}
	return p, nil
}

func (p *parts) service(settings jobs.Settings, logger zerolog.Logger, instance string) (*jobs.Service, error) {
	return jobs.New(jobs.Options{
		Settings: settings, Layers: layers{p.cache}, Networks: p.networks,
		Runtimes: p.list, Unavailable: p.unavailable, Journal: p.journal, Audit: p.audit,
		Logger: logger, Version: version, Instance: instance,
	})
}

// settings is what a reload may change. It fails when a file that the configuration names cannot be used; then the
// settings in force stay.
func settings(cfg *config.Config) (jobs.Settings, error) {
	s := jobs.Settings{
		Policy: policy.Fixed(cfg.DefaultGrant()), Image: cfg.Image, HelperImage: cfg.HelperImage, GracefulKillTimeout: cfg.GracefulKillTimeout,
		IdleTimeout: patience * cfg.OrphanTimeout, OrphanTimeout: cfg.OrphanTimeout,
	}
	if cfg.Policy == nil {
		return s, nil
	}
	s.Policy = cfg.Policy
	if token := cfg.Policy.IDToken; token != nil {
		identities, err := idtoken.New(idtoken.Options{
			Issuer: token.Issuer, Audience: token.Audience, Variable: token.Variable, KeysFile: token.Keys,
		})
		if err != nil {
			return jobs.Settings{}, err
		}
		s.Identities = identities
	}
	return s, nil
}

func (p *parts) reaper(service *jobs.Service, logger zerolog.Logger) (*reaper.Reaper, error) {
	resources := append([]reaper.Resource{
		resource{jobs.EffectContainer, p.listSandboxes, p.destroySandbox},
		resource{jobs.EffectNetwork, p.networks.Attached, p.networks.Detach},
		resource{jobs.EffectScratch, p.cache.Scratches, p.cache.DestroyScratch},
		resource{jobs.EffectLease, func(context.Context) ([]string, error) { return nil, nil }, p.release},
	}, runnerDirs(p.journal)...)
	return reaper.New(reaper.Options{
		Journal: p.journal, Live: service.Live, Resources: resources,
		Logger: logger.With().Str("component", "reaper").Logger(),
	})
}

// listSandboxes and destroySandbox ask every runtime: an id does not tell whose it is.
func (p *parts) listSandboxes(ctx context.Context) ([]string, error) {
	var all []string
	for _, r := range p.list {
		ids, err := r.List(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.Name(), err)
		}
		all = append(all, ids...)
	}
	return all, nil
}

func (p *parts) destroySandbox(ctx context.Context, id string) error {
	var errs []error
	for _, r := range p.list {
		errs = append(errs, r.Destroy(ctx, id))
	}
	return errors.Join(errs...)
}

// release ends leases: they live in this process only, so a predecessor left none.
func (p *parts) release(_ context.Context, holder string) error {
	p.cache.Release(holder)
	return nil
}

// close gives everything back that a stopped executor should not hold: bridge and rules, files, locks.
func (p *parts) close(ctx context.Context) error {
	var errs []error
	for _, closer := range p.closers {
		errs = append(errs, closer.Close())
	}
	if p.networks != nil {
		errs = append(errs, p.networks.Remove(ctx))
	}
	if p.cache != nil {
		errs = append(errs, p.cache.Close())
	}
	if p.audit != nil {
		errs = append(errs, p.audit.Close())
	}
	if p.journal != nil {
		errs = append(errs, p.journal.Close())
	}
	return errors.Join(errs...)
}

// warmer is the power of a runtime to prepare for sandboxes of a kind before the first of them is asked for.
type warmer interface {
	Warm(ctx context.Context, limits isolation.Limits, network bool) error
}

// warm prepares the runtimes for all that jobs can get, and says early what would keep them from it. The jobs that come
// meanwhile need not wait.
func (p *parts) warm(ctx context.Context, cfg *config.Config, logger zerolog.Logger) {
	for _, r := range p.list {
		w, ok := r.(warmer)
		if !ok {
			continue
		}
		for _, grant := range cfg.Grants() {
			if grant.Level != r.Level() {
				continue
			}
			err := w.Warm(ctx, grant.Limits, grant.Network != "none")
			if err != nil && ctx.Err() == nil {
				logger.Error().Err(err).Stringer("isolation", r.Level()).Msg("sandboxes of this level cannot be made yet")
			}
		}
	}
}

// resource makes a reaper.Resource of an owner's two methods.
type resource struct {
	kind    jobs.Effect
	list    func(context.Context) ([]string, error)
	destroy func(context.Context, string) error
}

func (r resource) Kind() string                                   { return string(r.kind) }
func (r resource) List(ctx context.Context) ([]string, error)     { return r.list(ctx) }
func (r resource) Destroy(ctx context.Context, name string) error { return r.destroy(ctx, name) }
