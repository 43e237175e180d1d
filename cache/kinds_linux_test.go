package cache_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/fault"
)

// announced has the registry answer for one tag with other bytes, another type, or both.
func (h *hub) announced(t *testing.T, repository, contentType string, manifest []byte) string {
	t.Helper()
	h.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/v2/"+repository+"/manifests/") {
			return false
		}
		if strings.HasSuffix(r.URL.Path, "/manifests/1") || manifest == nil || !strings.Contains(r.URL.Path, "sha256:") {
			w.Header()["Content-Type"] = nil // else it is guessed
			if contentType != "" {
				w.Header().Set("Content-Type", contentType)
			}
			_, _ = w.Write(manifest)
			return true
		}
		return false
	})
	return h.host + "/" + repository + ":1"
}

func manifestOf(t *testing.T, image interface{ RawManifest() ([]byte, error) }) []byte {
	t.Helper()
	raw, err := image.RawManifest()
	require.NoError(t, err)
	return raw
}

// changed is a manifest with some keys at its top set, or removed by nil.
func changed(t *testing.T, raw []byte, keys map[string]any) []byte {
	t.Helper()
	var all map[string]any
	require.NoError(t, json.Unmarshal(raw, &all))
	for key, value := range keys {
		if all[key] = value; value == nil {
			delete(all, key)
		}
	}
	raw, err := json.Marshal(all)
	require.NoError(t, err)
	return raw
}

func TestWhatAManifestIsItSaysItself(t *testing.T) {
	h, image := newHub(t), imageOf(t, layerOf(t, nil, "v", "1"))
	oci := mutate.ConfigMediaType(mutate.MediaType(image, types.OCIManifestSchema1), types.OCIConfigJSON)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: oci})
	h.push("app:1", oci)
	h.push("app:docker", image)
	h.push("app:index", index)
	c := open(t)
	plain := manifestOf(t, oci)
	for name, test := range map[string]struct {
		contentType string
		manifest    []byte
	}{
		"with parameters":                {"application/vnd.oci.image.manifest.v1+json; charset=utf-8", plain},
		"in capitals, with parameters":   {"Application/VND.OCI.Image.Manifest.v1+JSON;charset=\"utf-8\"", plain},
		"with broken parameters":         {"application/vnd.oci.image.manifest.v1+json; =;", plain},
		"generic":                        {"application/json", plain},
		"generic, with parameters":       {"application/json; charset=utf-8", plain},
		"bytes":                          {"application/octet-stream", plain},
		"text":                           {"text/plain; charset=utf-8", plain},
		"web page":                       {"text/html", plain},
		"none":                           {"", plain},
		"garbage":                        {"////;;", plain},
		"nothing says it":                {"application/json", changed(t, plain, map[string]any{"mediaType": nil})},
		"the header alone":               {"application/vnd.oci.image.manifest.v1+json;v=1", changed(t, plain, map[string]any{"mediaType": nil})},
		"the one image kind for another": {string(types.DockerManifestSchema2), plain},
		"docker's, generic":              {"text/plain", manifestOf(t, image)},
		"an index, generic":              {"application/json", manifestOf(t, index)},
		"an index, with parameters":      {string(types.OCIImageIndex) + "; charset=utf-8", manifestOf(t, index)},
		"an index, nothing says it":      {"", changed(t, manifestOf(t, index), map[string]any{"mediaType": nil})},
		"an old configuration's type": {"application/json", bytes.Replace(manifestOf(t, image),
			[]byte("application/vnd.docker.container.image.v1+json"), []byte("application/octet-stream"), 1)},
	} {
		t.Run(name, func(t *testing.T) {
			reference := h.announced(t, "app", test.contentType, test.manifest)
			base := get(t, c, cache.Request{Image: reference, PullPolicy: "always", Holder: "al-1"})
			require.FileExists(t, filepath.Join(base.Layers[0], "v"))
		})
	}
}

func TestWhatIsNoImageIsRefusedByName(t *testing.T) {
	h, image := newHub(t), imageOf(t, layerOf(t, nil, "v", "1"))
	h.push("app:1", image)
	plain := manifestOf(t, image)
	var parsed struct {
		Config map[string]any   `json:"config"`
		Layers []map[string]any `json:"layers"`
	}
	require.NoError(t, json.Unmarshal(plain, &parsed))
	config := func(mediaType string) map[string]any {
		return map[string]any{"config": map[string]any{"mediaType": mediaType, "digest": parsed.Config["digest"], "size": parsed.Config["size"]}}
	}
	layer := func(key string, value any) map[string]any {
		one := map[string]any{"mediaType": parsed.Layers[0]["mediaType"], "digest": parsed.Layers[0]["digest"], "size": parsed.Layers[0]["size"]}
		if one[key] = value; value == nil {
			delete(one, key)
		}
		return map[string]any{"layers": []any{one}}
	}
	with := func(base map[string]any, key string, value any) map[string]any { base[key] = value; return base }
	many := func(n int, part string) string { return "[" + strings.Repeat(part+",", n-1) + part + "]" }
	for name, test := range map[string]struct {
		manifest []byte
		message  string
	}{
		"a Helm chart":          {changed(t, plain, config("application/vnd.cncf.helm.config.v1+json")), "is no image: it is a Helm chart (application/vnd.cncf.helm.config.v1+json)"},
		"an artifact":           {changed(t, plain, config("application/vnd.example.thing+json")), "is no image: it is an OCI artifact of type application/vnd.example.thing+json"},
		"an empty artifact":     {changed(t, plain, with(config("application/vnd.oci.empty.v1+json"), "artifactType", "application/vnd.example+type")), "an OCI artifact of type application/vnd.example+type"},
		"a nameless artifact":   {changed(t, plain, config("application/vnd.oci.empty.v1+json")), "an OCI artifact without a type"},
		"a cosign signature":    {changed(t, plain, layer("mediaType", "application/vnd.dev.cosign.simplesigning.v1+json")), "a cosign signature"},
		"an attestation":        {changed(t, plain, layer("mediaType", "application/vnd.in-toto+json")), "a build attestation"},
		"an encrypted image":    {changed(t, plain, layer("mediaType", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted")), "its layers are encrypted"},
		"a Docker plugin":       {changed(t, plain, config("application/vnd.docker.plugin.v1+json")), "a Docker plugin"},
		"an old artifact":       {[]byte(`{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","artifactType":"application/spdx+json","blobs":[]}`), "a bill of materials"},
		"an index of artifacts": {[]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","artifactType":"application/vnd.cncf.helm.x","manifests":[]}`), "a Helm chart"},
		"schema 1":              {[]byte(`{"schemaVersion":1,"name":"app","tag":"1","fsLayers":[{"blobSum":"sha256:1"}],"history":[]}`), "old schema 1"},
		"a type with controls":  {changed(t, plain, config("application/x\x1b[31m\u202e"+strings.Repeat("y", 500))), "an OCI artifact of type application/x[31m"},

		"no JSON":                  {[]byte("<html>s3cret</html>"), "it is not the JSON of one"},
		"nothing":                  {nil, "it is not the JSON of one"},
		"a list":                   {[]byte(`["s3cret"]`), "it is not the JSON of one"},
		"null":                     {[]byte(`null`), "neither an image's nor an index"},
		"something else":           {[]byte(`{"s3cret":1}`), "neither an image's nor an index"},
		"an image and an index":    {changed(t, plain, map[string]any{"manifests": []any{}}), "contradicts itself"},
		"an image that says index": {changed(t, plain, map[string]any{"mediaType": types.OCIImageIndex}), "contradicts itself"},
		"an index that says image": {[]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}`), "contradicts itself"},
		"another schema":           {changed(t, plain, map[string]any{"schemaVersion": 3}), "does not have schema version 2"},
		"an empty index":           {[]byte(`{"schemaVersion":2,"manifests":[]}`), "its index names none"},
		"a size that is negative":  {changed(t, plain, layer("size", -1)), "it gives layer 1 the size -1"},
		"no size":                  {changed(t, plain, layer("size", nil)), "it gives layer 1 the size 0"},
		"a size that is too small": {changed(t, plain, layer("size", 10)), "its size is not the one that the manifest gives"},
		"a size that is too large": {changed(t, plain, layer("size", 1<<20)), "its size is not the one that the manifest gives"},
		"a size that is text":      {changed(t, plain, layer("size", "s3cret")), "its entries are not descriptors"},
		"no digest":                {changed(t, plain, layer("digest", nil)), "layer 1 has no digest"},
		"a broken digest":          {changed(t, plain, layer("digest", "sha256:s3cret")), "its entries are not descriptors"},
		"a configuration that is huge": {changed(t, plain, map[string]any{"config": map[string]any{"mediaType": types.DockerConfigJSON,
			"digest": parsed.Config["digest"], "size": 1 << 40}}), "it gives the configuration the size"},
		"a configuration of another size": {changed(t, plain, map[string]any{"config": map[string]any{"mediaType": types.DockerConfigJSON,
			"digest": parsed.Config["digest"], "size": 10}}), "its size is not the one that the manifest gives"},
		"a configuration that is none": {changed(t, plain, map[string]any{"config": map[string]any{"mediaType": types.DockerConfigJSON,
			"digest": parsed.Layers[0]["digest"], "size": parsed.Layers[0]["size"]}}), "its configuration is broken"},
		"too many layers":  {[]byte(`{"schemaVersion":2,"config":{},"layers":` + many(1_000_000, "{}") + `}`), "has 1000000 layers, 127 are allowed"},
		"too many entries": {[]byte(`{"schemaVersion":2,"manifests":` + many(1_000_000, "{}") + `}`), "more than 1000 entries"},
		"40 MB":            {bytes.Repeat([]byte(" "), 40<<20), "its manifest is larger than 4 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			h.push("app:1", image)
			directory := t.TempDir()
			c := open(t, func(o *cache.Options) { o.Dir = directory })
			reference := h.announced(t, "app", "application/json", test.manifest)
			_, err := c.Base(t.Context(), cache.Request{Image: reference, PullPolicy: "always", Holder: "al-1"}, nil)
			require.ErrorContains(t, err, test.message)
			require.Equal(t, fault.Author, fault.ClassOf(err))
			require.NotContains(t, err.Error(), "s3cret")
			require.NotContains(t, err.Error(), "\x1b")
			require.Less(t, len(err.Error()), 600)
			requireNothingKept(t, c, directory)
		})
	}
}

// A registry that answers for a digest with something else is found out, and the job's log does not tell with what.
func TestManifestsOfOtherContentOrSize(t *testing.T) {
	h, image := newHub(t), imageOf(t, layerOf(t, nil, "v", "1"))
	h.push("app:1", image)
	digest, err := image.Digest()
	require.NoError(t, err)
	c := open(t)
	reference := h.announced(t, "app", "application/json", []byte(`{"s3cret":1}`))
	h.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		found := strings.Contains(r.URL.Path, "/manifests/")
		if found {
			_, _ = io.WriteString(w, `{"s3cret":1}`)
		}
		return found
	})
	_, err = c.Base(t.Context(), cache.Request{Image: reference + "@" + digest.String(), PullPolicy: "always", Holder: "al-1"}, nil)
	require.ErrorContains(t, err, "delivers another manifest than the one of digest "+digest.String())
	require.Equal(t, fault.Author, fault.ClassOf(err))
	delivered, _, _ := v1.SHA256(strings.NewReader(`{"s3cret":1}`))
	require.NotContains(t, err.Error(), delivered.Hex)

	h.intercept(nil)
	index := manifestOf(t, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image}))
	index = bytes.Replace(index, []byte(`"size":`), []byte(`"size":1`), 1)
	reference = h.announced(t, "app", "application/json", index)
	_, err = c.Base(t.Context(), cache.Request{Image: reference, PullPolicy: "always", Holder: "al-1"}, nil)
	require.ErrorContains(t, err, "its index is broken: the size that it gives to "+digest.String()+" is wrong")
	require.Equal(t, fault.Author, fault.ClassOf(err))
}

// What else listens somewhere is not quoted either.
func TestServicesThatAreNoRegistries(t *testing.T) {
	t.Parallel() // waits between its tries
	for name, greeting := range map[string]string{
		"ssh": "SSH-2.0-s3cret\r\n", "an old web server": "HTTP/1.0 200 s3cret\r\nX: s3cret\r\n\r\ns3cret", "half a header": "HTTP/1.1 s3cret",
		"long headers": "HTTP/1.1 200 OK\r\n" + strings.Repeat("s3cret: s3cret\r\n", 1<<15) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			t.Cleanup(func() { _ = listener.Close() })
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					_, _ = io.WriteString(conn, greeting)
					_, _ = conn.Read(make([]byte, 1<<10)) // closed sooner, what was sent may be lost
					_ = conn.Close()
				}
			}()
			host := listener.Addr().String()
			c := open(t, func(o *cache.Options) { o.InsecureRegistries = []string{host} })
			_, err = c.Base(t.Context(), cache.Request{Image: host + "/app:1", PullPolicy: "always", Holder: "al-1"}, nil)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "s3cret")
			require.NotContains(t, err.Error(), "SSH")
			t.Log(err)
		})
	}
}

func TestIndexesThatNestAreFollowedSoFar(t *testing.T) {
	h := newHub(t)
	for depth, works := range map[int]bool{3: true, 4: false} {
		var top mutate.Appendable = imageOf(t, layerOf(t, nil, "v", "1"))
		for range depth {
			top = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: top})
		}
		image := h.push(fmt.Sprintf("nested:%d", depth), top.(v1.ImageIndex))
		_, err := open(t).Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}, nil)
		if works {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, "nests more than 4 levels")
		require.Equal(t, fault.Author, fault.ClassOf(err))
	}
}

// processorLevel reads this processor's x86-64 level where people do.
func processorLevel(t *testing.T) int {
	info, err := os.ReadFile("/proc/cpuinfo")
	require.NoError(t, err)
	flags := strings.Fields(strings.SplitN(string(info)[strings.Index(string(info), "\nflags"):], "\n", 3)[1])
	for level, needed := range [][]string{{"cx16", "popcnt", "sse4_2"}, {"avx2", "bmi2", "fma", "movbe"}, {"avx512f", "avx512bw", "avx512vl"}} {
		for _, flag := range needed {
			if !slices.Contains(flags, flag) {
				return level + 1
			}
		}
	}
	return 4
}

func variantsOf(t *testing.T, names ...string) v1.ImageIndex {
	var index v1.ImageIndex = empty.Index
	for _, name := range names {
		platform := v1.Platform{OS: "linux", Architecture: "amd64", Variant: name}
		if os, rest, found := strings.Cut(name, "/"); found {
			arch, variant, _ := strings.Cut(rest, "/")
			platform = v1.Platform{OS: os, Architecture: arch, Variant: variant}
		}
		image := configured(t, imageOf(t, layerOf(t, nil, "variant", name)), func(c *v1.ConfigFile) {
			c.OS, c.Architecture, c.Variant = platform.OS, platform.Architecture, platform.Variant
		})
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	return index
}

func variantOf(t *testing.T, base cache.Base) string {
	content, err := os.ReadFile(filepath.Join(base.Layers[0], "variant"))
	require.NoError(t, err)
	return string(content)
}

func TestTheBestThatAProcessorRuns(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Log("other architectures have no levels")
		return
	}
	h, c := newHub(t), open(t)
	levels := []string{"linux/amd64", "v2", "v3", "v4"}
	host := processorLevel(t)
	for name, order := range map[string][]string{
		"down": {"v4", "v3", "v2", "linux/amd64"}, "up": {"linux/amd64", "v2", "v3", "v4"},
		"others": {"linux/arm64/v8", "v9", "foo", "windows/amd64", "unknown/unknown", "linux/386", "v4", "linux/amd64", "v3", "v2"},
	} {
		image := h.push(name+":1", variantsOf(t, order...))
		for _, policy := range []string{"always", "if-not-present", "always", "never"} {
			require.Equal(t, levels[host-1], variantOf(t, get(t, c, cache.Request{Image: image, PullPolicy: policy, Holder: "al-1"})))
			// What is chosen for one level does not stand for another.
			for n, variant := range []string{"v1", "v2", "v3", "v4"} {
				if policy != "never" || n+1 != host {
					base, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: policy, Holder: "al-2", Variant: variant}, nil)
					require.NoError(t, err)
					require.Equal(t, levels[n], variantOf(t, base), "%s %s", name, policy)
				}
			}
		}
		h.seen("")
		get(t, c, cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-1", Variant: "v3"})
		require.Empty(t, h.seen(""), "it is present")
	}
	names := map[string]int{}
	images, err := c.List(t.Context())
	require.NoError(t, err)
	for _, image := range images {
		for _, name := range image.Names {
			names[name]++
		}
	}
	require.Equal(t, 4, names[h.host+"/up:1"])
	c.Release("al-1")
	c.Release("al-2")
	_, err = c.Remove(t.Context(), h.host+"/up:1")
	require.NoError(t, err)
	_, err = c.Remove(t.Context(), h.host+"/up:1")
	require.ErrorContains(t, err, "not in the cache")

	t.Run("none that it runs", func(t *testing.T) {
		image := h.push("new:1", variantsOf(t, "v3", "v4", "linux/arm64"))
		_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1", Variant: "v2"}, nil)
		require.ErrorContains(t, err, "is for linux/amd64/v3, linux/amd64/v4, linux/arm64, this runner is linux/amd64/v2")
		require.Equal(t, fault.Author, fault.ClassOf(err))
	})
	t.Run("an image that says so itself", func(t *testing.T) {
		image := h.push("alone:1", configured(t, imageOf(t, layerOf(t, nil, "variant", "v3")), func(c *v1.ConfigFile) { c.Variant = "v3" }))
		get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1", Variant: "v3"})
		for _, policy := range []string{"always", "if-not-present", "never"} {
			_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: policy, Holder: "al-2", Variant: "v2"}, nil)
			require.ErrorContains(t, err, "is for linux/amd64/v3, this runner is linux/amd64/v2", policy)
		}
	})
	t.Run("a name that does not vary any more", func(t *testing.T) {
		image := h.push("down:1", imageOf(t, layerOf(t, nil, "variant", "one for all")))
		get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1", Variant: "v3"})
		h.seen("")
		require.Equal(t, "one for all", variantOf(t, get(t, c, cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-1", Variant: "v2"})))
		require.Empty(t, h.seen(""))
	})
}

func TestPlatformsThatJobsDemand(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Log("written for amd64")
		return
	}
	h, c := newHub(t), open(t)
	image := h.push("app:1", variantsOf(t, "linux/amd64", "v2", "linux/arm64/v8"))
	for platform, want := range map[string]string{
		"": "v2", "linux": "v2", "amd64": "v2", "linux/amd64": "v2", "x86_64": "v2", "Linux/AMD64": "v2", "linux/amd64/v1": "linux/amd64", "linux/amd64/v2": "v2",
	} {
		base := get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1", Platform: platform})
		require.Equal(t, want, variantOf(t, base), platform)
	}
	h.seen("")
	for _, platform := range []string{"linux/arm64", "arm64/v8", "arm64", "aarch64", "linux/arm/v7", "windows/amd64", "windows", "linux/386", "linux/riscv64", "darwin", "linux/amd64/v9"} {
		_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1", Platform: platform}, nil)
		require.ErrorContains(t, err, "is wanted for the platform", platform)
		require.ErrorContains(t, err, "image:docker:platform", platform)
		require.Equal(t, fault.Author, fault.ClassOf(err))
	}
	for _, platform := range []string{"/", "a/b/c/d", "linux//", "\x1b"} {
		_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1", Platform: platform}, nil)
		require.Equal(t, fault.Author, fault.ClassOf(err), platform)
		require.NotContains(t, err.Error(), "\x1b")
	}
	require.Empty(t, h.seen(""), "said before anything is pulled")
}

func TestEntriesOfIndexesThatAreNoImages(t *testing.T) {
	h, c := newHub(t), open(t)
	image := imageOf(t, layerOf(t, nil, "v", "1"))
	other := imageOf(t, layerOf(t, nil, "v", "2"))
	platform := &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}},
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: platform, Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"}}},
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: platform, ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json"}},
		mutate.IndexAddendum{Add: other},
		mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	base := get(t, c, cache.Request{Image: h.push("app:1", index), PullPolicy: "always", Holder: "al-1"})
	content, err := os.ReadFile(filepath.Join(base.Layers[0], "v"))
	require.NoError(t, err)
	require.Equal(t, "1", string(content))
}
