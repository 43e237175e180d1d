package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/fault"
)

// imagesJSON is the cache in JSON output. Its field names are a promise to scripts; sizes are in bytes of
// allocated blocks, a limit of 0 is none, times are RFC 3339 in UTC.
type imagesJSON struct {
	Images       []imageJSON `json:"images"`
	UsedBytes    int64       `json:"used_bytes"`
	LimitBytes   int64       `json:"limit_bytes"`
	UsedInodes   int64       `json:"used_inodes"`
	LimitInodes  int64       `json:"limit_inodes"`
	PinnedBytes  int64       `json:"pinned_bytes"`
	PinnedInodes int64       `json:"pinned_inodes"`
}

type imageJSON struct {
	Name       string     `json:"name"`
	Digest     string     `json:"digest"`
	SizeBytes  int64      `json:"size_bytes"`
	Inodes     int64      `json:"inodes"`
	CreatedAt  *time.Time `json:"created_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
	Leases     int32      `json:"leases"` // sandboxes that use it now
	Private    bool       `json:"private"`
	Pinned     bool       `json:"pinned"` // no pull evicts it
}

func imageCommand() *cli.Command {
	return &cli.Command{
		Name:            "image",
		Usage:           "look after the cached images",
		HideHelpCommand: true,
		Commands: []*cli.Command{
			{
				Name:   "ls",
				Usage:  "list the cached images",
				Flags:  []cli.Flag{jsonFlag()},
				Action: listImages,
			},
			{
				Name:      "pull",
				Usage:     "pull an image into the cache",
				ArgsUsage: "IMAGE",
				Action:    pullImage,
			},
			{
				Name:      "import",
				Usage:     "store an image from a tar file",
				ArgsUsage: "[NAME] FILE",
				Description: "FILE is a docker-archive (docker save) or an OCI layout in a tar, as it is or compressed with gzip or zstd; - is stdin.\n" +
					"Without NAME the image keeps the name that the archive gives it. The image is pinned: no pull evicts it to make room.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "name", Usage: "import the image that the archive calls `IMAGE`, of several"},
					&cli.BoolFlag{Name: "no-pin", Usage: "let pulls evict the image like one of a registry"},
				},
				Action: importImage,
			},
			{
				Name:        "pin",
				Usage:       "keep images from being evicted by pulls",
				ArgsUsage:   "IMAGE...",
				Description: "IMAGE is a name or a digest. Imported images are pinned already.",
				Action:      func(ctx context.Context, c *cli.Command) error { return pinImages(ctx, c, true) },
			},
			{
				Name:        "unpin",
				Usage:       "let pulls evict images to make room",
				ArgsUsage:   "IMAGE...",
				Description: "IMAGE is a name or a digest.",
				Action:      func(ctx context.Context, c *cli.Command) error { return pinImages(ctx, c, false) },
			},
			{
				Name:        "rm",
				Usage:       "remove images that no sandbox uses",
				ArgsUsage:   "IMAGE...",
				Description: "IMAGE is a name or a digest.",
				Action:      removeImages,
			},
		},
	}
}

func listImages(ctx context.Context, c *cli.Command) error {
	service, _, err := connect(ctx, c, 0, 0)
	if err != nil {
		return err
	}
	defer service.Close()
	reply, err := api.Ask(ctx, service, api.ListImages, api.Nothing{})
	if err != nil {
		return err
	}
	out := c.Root().Writer
	if c.Bool("json") {
		return printJSON(out, newImagesJSON(reply))
	}
	rows := make([][]string, 0, len(reply.Images))
	for _, image := range reply.Images {
		rows = append(rows, []string{
			orDash(image.Name), shortDigest(image.Digest), bytesize.Format(image.SizeBytes), fmt.Sprint(image.Inodes),
			lastUsed(image), fmt.Sprint(image.Leases), pinned(image),
		})
	}
	if err := printTable(out, []string{"image", "digest", "size", "inodes", "last used", "in use by", "pinned"}, rows); err != nil {
		return err
	}
	count := func(n int64) string { return fmt.Sprint(n) }
	_, err = fmt.Fprintf(out, "\n%s\n%s inodes\n%s and %d inodes are pinned\n",
		use(bytesize.Format(reply.UsedBytes), reply.LimitBytes, bytesize.Format),
		use(count(reply.UsedInodes), reply.LimitInodes, count),
		bytesize.Format(reply.PinnedBytes), reply.PinnedInodes)
	return err
}

func pinned(image *api.ImageInfo) string {
	if image.Pinned {
		return "yes"
	}
	return "no"
}

func newImagesJSON(reply *api.Images) imagesJSON {
	out := imagesJSON{
		Images: []imageJSON{}, UsedBytes: reply.UsedBytes, LimitBytes: reply.LimitBytes,
		UsedInodes: reply.UsedInodes, LimitInodes: reply.LimitInodes,
		PinnedBytes: reply.PinnedBytes, PinnedInodes: reply.PinnedInodes,
	}
	for _, image := range reply.Images {
		out.Images = append(out.Images, imageJSON{
			Name: image.Name, Digest: image.Digest, SizeBytes: image.SizeBytes, Inodes: image.Inodes,
			CreatedAt: timestamp(image.CreatedUnixNano), LastUsedAt: timestamp(image.LastUsedUnixNano),
			Leases: image.Leases, Private: image.Private, Pinned: image.Pinned,
		})
	}
	return out
}

func lastUsed(image *api.ImageInfo) string {
	if image.LastUsedUnixNano == 0 {
		return "never"
	}
	return age(time.Since(time.Unix(0, image.LastUsedUnixNano))) + " ago"
}

func pullImage(ctx context.Context, c *cli.Command) error {
	service, args, err := connect(ctx, c, 1, 1)
	if err != nil {
		return err
	}
	defer service.Close()
	return progress(c, func(streams api.Streams) (int, error) {
		return service.Call(ctx, api.OpPull, api.Pull{Image: args[0]}, streams)
	})
}

func importImage(ctx context.Context, c *cli.Command) error {
	args, err := arguments(ctx, c, 1, 2)
	if err != nil {
		return err
	}
	image := &api.Import{Pick: c.String("name")}
	if len(args) == 2 {
		image.Name = args[0]
	}
	var tar io.Reader = os.Stdin
	if path := args[len(args)-1]; path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return fault.Adminf("the image's tar: %w", err)
		}
		defer func() { _ = file.Close() }()
		tar = file
	}
	service, err := dial(ctx, c)
	if err != nil {
		return err
	}
	image.Unpinned = c.Bool("no-pin")
	defer service.Close()
	return progress(c, func(streams api.Streams) (int, error) {
		streams.Stdin = tar
		return service.Call(ctx, api.OpImport, image, streams)
	})
}

// progress shows what a call says while it lasts.
func progress(c *cli.Command, call func(api.Streams) (int, error)) error {
	_, err := call(api.Streams{Stdout: c.Root().Writer, Stderr: c.Root().Writer})
	return err
}

func pinImages(ctx context.Context, c *cli.Command, pinned bool) error {
	service, images, err := connect(ctx, c, 1, -1)
	if err != nil {
		return err
	}
	defer service.Close()
	for _, image := range images {
		if _, err := api.Ask(ctx, service, api.PinImage, api.PinRequest{Image: image, Pinned: pinned}); err != nil {
			return err
		}
	}
	return nil
}

func removeImages(ctx context.Context, c *cli.Command) error {
	service, images, err := connect(ctx, c, 1, -1)
	if err != nil {
		return err
	}
	defer service.Close()
	for _, image := range images {
		removed, err := api.Ask(ctx, service, api.RemoveImage, api.ImageRequest{Image: image})
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(c.Root().Writer, "removed %s, %s freed\n", printable(image), bytesize.Format(removed.FreedBytes)); err != nil {
			return err
		}
	}
	return nil
}
