package supervisor

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/airlock-ci/airlock/executor/api"
)

// cacheUse is a prometheus.Collector of what the executor's cache of images takes, which it is asked for at every scrape.
// An executor that is not there has none.
type cacheUse struct {
	ask     func(context.Context) *api.ImagesReply
	figures []cacheFigure
}

type cacheFigure struct {
	description *prometheus.Desc
	kind        prometheus.ValueType
	read        func(*api.ImagesReply) int64
}

func newCacheUse(ask func(context.Context) *api.ImagesReply) *cacheUse {
	c := &cacheUse{ask: ask}
	add := func(kind prometheus.ValueType, name, help string, labels prometheus.Labels, read func(*api.ImagesReply) int64) {
		c.figures = append(c.figures, cacheFigure{prometheus.NewDesc("airlock_cache_"+name, help, nil, labels), kind, read})
	}
	gauge := func(name, help string, read func(*api.ImagesReply) int64) {
		add(prometheus.GaugeValue, name, help, nil, read)
	}
	gauge("used_bytes", "What images, their disks and records take, in allocated blocks.", (*api.ImagesReply).GetUsedBytes)
	gauge("used_inodes", "Files, directories and links of images.", (*api.ImagesReply).GetUsedInodes)
	gauge("limit_bytes", "disk_limit; 0: none.", (*api.ImagesReply).GetLimitBytes)
	gauge("limit_inodes", "inode_limit; 0: none.", (*api.ImagesReply).GetLimitInodes)
	gauge("pinned_bytes", "The part of used_bytes that no pull evicts.", (*api.ImagesReply).GetPinnedBytes)
	gauge("pinned_inodes", "The part of used_inodes that no pull evicts.", (*api.ImagesReply).GetPinnedInodes)
	gauge("images", "Images in the cache.", func(r *api.ImagesReply) int64 { return int64(len(r.GetImages())) })
	gauge("free_bytes", "What the file system of the cache has free.", (*api.ImagesReply).GetFreeBytes)
	gauge("free_inodes", "Inodes that the file system of the cache has free.", (*api.ImagesReply).GetFreeInodes)
	gauge("min_free_bytes", "What pulls leave free of the file system.", (*api.ImagesReply).GetFloorBytes)
	gauge("min_free_inodes", "Inodes that pulls leave free of the file system.", (*api.ImagesReply).GetFloorInodes)
	add(prometheus.CounterValue, "evictions_total", "Images that made room for others.", nil, (*api.ImagesReply).GetEvicted)
	const refused = "Pulls that were refused: the image exceeds the limits of one image, or the file system has no room."
	add(prometheus.CounterValue, "refusals_total", refused, prometheus.Labels{"reason": "image_limit"}, (*api.ImagesReply).GetRefusedTooLarge)
	add(prometheus.CounterValue, "refusals_total", refused, prometheus.Labels{"reason": "no_room"}, (*api.ImagesReply).GetRefusedNoRoom)
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
	ctx, cancel := context.WithTimeoutCause(context.Background(), scrapeTimeout, errNoAnswer)
	defer cancel()
	reply := c.ask(ctx)
	if reply == nil {
		return
	}
	for _, f := range c.figures {
		found <- prometheus.MustNewConstMetric(f.description, f.kind, float64(f.read(reply)))
	}
}
