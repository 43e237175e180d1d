package executor

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/airlock-ci/airlock/api"
)

// cacheUse is a prometheus.Collector of what the cache of images takes, which it is asked for at every scrape.
type cacheUse struct {
	ask     func(context.Context) (*api.Images, error)
	figures []cacheFigure
}

type cacheFigure struct {
	description *prometheus.Desc
	kind        prometheus.ValueType
	read        func(*api.Images) int64
}

func newCacheUse(ask func(context.Context) (*api.Images, error)) *cacheUse {
	c := &cacheUse{ask: ask}
	add := func(kind prometheus.ValueType, name, help string, labels prometheus.Labels, read func(*api.Images) int64) {
		c.figures = append(c.figures, cacheFigure{prometheus.NewDesc("airlock_cache_"+name, help, nil, labels), kind, read})
	}
	gauge := func(name, help string, read func(*api.Images) int64) {
		add(prometheus.GaugeValue, name, help, nil, read)
	}
	gauge("used_bytes", "What images, their disks and records take, in allocated blocks.", func(r *api.Images) int64 { return r.UsedBytes })
	gauge("used_inodes", "Files, directories and links of images.", func(r *api.Images) int64 { return r.UsedInodes })
	gauge("limit_bytes", "disk_limit; 0: none.", func(r *api.Images) int64 { return r.LimitBytes })
	gauge("limit_inodes", "inode_limit; 0: none.", func(r *api.Images) int64 { return r.LimitInodes })
	gauge("pinned_bytes", "The part of used_bytes that no pull evicts.", func(r *api.Images) int64 { return r.PinnedBytes })
	gauge("pinned_inodes", "The part of used_inodes that no pull evicts.", func(r *api.Images) int64 { return r.PinnedInodes })
	gauge("images", "Images in the cache.", func(r *api.Images) int64 { return int64(len(r.Images)) })
	gauge("free_bytes", "What the file system of the cache has free.", func(r *api.Images) int64 { return r.FreeBytes })
	gauge("free_inodes", "Inodes that the file system of the cache has free.", func(r *api.Images) int64 { return r.FreeInodes })
	gauge("min_free_bytes", "What pulls leave free of the file system.", func(r *api.Images) int64 { return r.FloorBytes })
	gauge("min_free_inodes", "Inodes that pulls leave free of the file system.", func(r *api.Images) int64 { return r.FloorInodes })
	add(prometheus.CounterValue, "evictions_total", "Images that made room for others.", nil, func(r *api.Images) int64 { return r.Evicted })
	const refused = "Pulls that were refused: the image exceeds the limits of one image, or the file system has no room."
	add(prometheus.CounterValue, "refusals_total", refused, prometheus.Labels{"reason": "image_limit"}, func(r *api.Images) int64 { return r.RefusedTooLarge })
	add(prometheus.CounterValue, "refusals_total", refused, prometheus.Labels{"reason": "no_room"}, func(r *api.Images) int64 { return r.RefusedNoRoom })
	return c
}

// Describe implements prometheus.Collector.
func (c *cacheUse) Describe(descriptions chan<- *prometheus.Desc) {
	for _, f := range c.figures {
		descriptions <- f.description
	}
}

// Collect implements prometheus.Collector.
func (c *cacheUse) Collect(found chan<- prometheus.Metric) {
	ctx, cancel := collectContext()
	defer cancel()
	reply, err := c.ask(ctx)
	if err != nil {
		return // the cache has logged it
	}
	for _, f := range c.figures {
		found <- prometheus.MustNewConstMetric(f.description, f.kind, float64(f.read(reply)))
	}
}
