package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layer is one layer of an image, in a source.
type layer struct {
	name   string // in the source
	digest string // sha256 of the file as it is stored, or "" if only diffID is known
	diffID string // sha256 of the plain tar
	size   int64  // of the file as it is stored; -1 if not known
}

// contents is a parsed image that has not been unpacked.
type contents struct {
	kind   Kind
	digest string // of the configuration: the image's identity
	config Config
	layers []layer
}

// parseLayout finds the image for linux/amd64 in an OCI layout.
func parseLayout(s source) (*contents, error) {
	var version struct {
		Version string `json:"imageLayoutVersion"`
	}
	b, err := readAll(s, "oci-layout")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, invalid("oci-layout: %w", err)
	}
	if !strings.HasPrefix(version.Version, "1.") {
		return nil, invalid("OCI layout of version %q: only 1.x is known", version.Version)
	}
	index, err := readAll(s, "index.json")
	if err != nil {
		return nil, err
	}
	manifest, err := chooseManifest(s, index, 0)
	if err != nil {
		return nil, err
	}
	return parseManifest(s, manifest)
}

// chooseManifest returns the manifest for this machine in an index, which may hold indexes.
func chooseManifest(s source, index []byte, depth int) ([]byte, error) {
	if depth > 3 {
		return nil, invalid("indexes nested more than three deep")
	}
	ix, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return nil, invalid("index: %w", err)
	}
	var fitting []v1.Descriptor
	for _, d := range ix.Manifests {
		if _, attestation := d.Annotations["vnd.docker.reference.type"]; attestation {
			continue
		}
		if p := d.Platform; p != nil && (p.OS != "linux" || p.Architecture != "amd64") {
			continue
		}
		fitting = append(fitting, d)
	}
	if len(fitting) != 1 {
		return nil, invalid("the index holds %d images for linux/amd64 (of %d manifests); give a layout with exactly one", len(fitting), len(ix.Manifests))
	}
	b, err := readBlob(s, fitting[0])
	if err != nil {
		return nil, err
	}
	switch t := fitting[0].MediaType; {
	case t.IsIndex():
		return chooseManifest(s, b, depth+1)
	case t.IsImage():
		return b, nil
	default:
		return nil, invalid("the index points at a %q, which is no image", t)
	}
}

func parseManifest(s source, manifest []byte) (*contents, error) {
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return nil, invalid("manifest: %w", err)
	}
	b, err := readBlob(s, m.Config)
	if err != nil {
		return nil, err
	}
	c, diffIDs, err := parseConfig(b)
	if err != nil {
		return nil, err
	}
	c.kind = KindLayout
	if len(m.Layers) != len(diffIDs) {
		return nil, invalid("the manifest has %d layers, the configuration %d", len(m.Layers), len(diffIDs))
	}
	for i, d := range m.Layers {
		if !tarLayer(d.MediaType) {
			return nil, invalid("layer %d is a %q: only tar layers, plain, gzip or zstd, are known", i, d.MediaType)
		}
		name, err := blobName(d)
		if err != nil {
			return nil, err
		}
		c.layers = append(c.layers, layer{name: name, digest: d.Digest.Hex, diffID: diffIDs[i], size: d.Size})
	}
	return c, nil
}

func tarLayer(t types.MediaType) bool {
	switch t {
	case types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, types.DockerLayer, types.DockerUncompressedLayer:
		return true
	}
	return false
}

// blobName returns where a layout keeps a blob. Only SHA-256 is known: it is the one everybody uses, and a digest is a file name here.
func blobName(d v1.Descriptor) (string, error) {
	if d.Digest.Algorithm != "sha256" || !isHex(d.Digest.Hex) {
		return "", invalid("digest %q: only sha256 is known", d.Digest.String())
	}
	if d.Size < 0 {
		return "", invalid("blob %s has size %d", d.Digest, d.Size)
	}
	return "blobs/sha256/" + d.Digest.Hex, nil
}

func isHex(s string) bool {
	return len(s) == hex.EncodedLen(sha256.Size) && strings.Trim(s, "0123456789abcdef") == ""
}

// readBlob reads a small blob and checks its digest.
func readBlob(s source, d v1.Descriptor) ([]byte, error) {
	name, err := blobName(d)
	if err != nil {
		return nil, err
	}
	b, err := readAll(s, name)
	if err != nil {
		return nil, err
	}
	if got := sumHex(b); got != d.Digest.Hex {
		return nil, invalid("%s is damaged: its digest is sha256:%s", name, got)
	}
	return b, nil
}

func sumHex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// parseConfig reads an image configuration and returns the digests of its layers.
func parseConfig(b []byte) (*contents, []string, error) {
	f, err := v1.ParseConfigFile(bytes.NewReader(b))
	if err != nil {
		return nil, nil, invalid("configuration: %w", err)
	}
	if f.OS != "" && f.OS != "linux" || f.Architecture != "" && f.Architecture != "amd64" {
		return nil, nil, invalid("the image is for %s/%s, this machine runs linux/amd64", f.OS, f.Architecture)
	}
	if len(f.RootFS.DiffIDs) > maxLayers {
		return nil, nil, invalid("%d layers, more than the %d allowed", len(f.RootFS.DiffIDs), maxLayers)
	}
	var ids []string
	for _, id := range f.RootFS.DiffIDs {
		if id.Algorithm != "sha256" || !isHex(id.Hex) {
			return nil, nil, invalid("layer digest %q: only sha256 is known", id.String())
		}
		ids = append(ids, id.Hex)
	}
	return &contents{
		digest: sumHex(b),
		config: Config{
			Entrypoint: f.Config.Entrypoint, Cmd: f.Config.Cmd, Env: f.Config.Env,
			WorkingDir: f.Config.WorkingDir, User: f.Config.User, StopSignal: f.Config.StopSignal,
		},
	}, ids, nil
}

// parseDockerArchive reads what docker save writes.
func parseDockerArchive(s source) (*contents, error) {
	b, err := readAll(s, "manifest.json")
	if err != nil {
		return nil, err
	}
	var images []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(b, &images); err != nil {
		return nil, invalid("manifest.json: %w", err)
	}
	if len(images) != 1 {
		return nil, invalid("the docker archive holds %d images; save exactly one", len(images))
	}
	b, err = readAll(s, path.Clean(images[0].Config))
	if err != nil {
		return nil, err
	}
	c, diffIDs, err := parseConfig(b)
	if err != nil {
		return nil, err
	}
	c.kind = KindDockerArchive
	if len(images[0].Layers) != len(diffIDs) {
		return nil, invalid("manifest.json has %d layers, the configuration %d", len(images[0].Layers), len(diffIDs))
	}
	for i, name := range images[0].Layers {
		c.layers = append(c.layers, layer{name: path.Clean(name), diffID: diffIDs[i], size: -1})
	}
	return c, nil
}
