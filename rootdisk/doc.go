// Package rootdisk makes of what a user calls an image the disk that a Linux guest has as its root.
//
// Root directories, tars of them, OCI layouts and docker archives become an ext4 file system in a file: written by rootdisk/ext4 from the
// image's layers, without root, without loop devices and without unpacking them on the host, so that owners, modes, devices, links and
// extended attributes are the image's whoever runs it. The files are kept in a cache by the digest of the contents; they are shared and must not be
// written to: a guest gets a copy-on-write overlay of one. Disk images, raw or qcow2, are recognised and passed through.
//
// Images come from strangers. oci/image checks digests and manifests; names, links and sizes in layers are checked here and never
// reach a path of the host. Guests, devices and disks' formats do not enter.
package rootdisk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/qenex/qenex-kernel/oci/image"
	"github.com/qenex/qenex-kernel/rootdisk/ext4"
)

// Builder makes root disks. The zero value of a field means its default.
type Builder struct {
	Cache  string       // directory of finished disks; default qenex/disks in the user's cache directory
	Free   int64        // bytes free for new files in the file system, which take no room on the host; default 1 GiB
	Limits image.Limits // of one image; default 64 GiB and 2^20 entries
	Keep   int64        // bytes that the cache may take on the host before the disks not used for longest go; default 32 GiB
}

const (
	defaultFree    = 1 << 30
	defaultBytes   = 64 << 30
	defaultEntries = 1 << 20
	defaultKeep    = 32 << 30
)

func (b Builder) withDefaults() Builder {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&b.Free, defaultFree)
	def(&b.Limits.Bytes, defaultBytes)
	def(&b.Keep, defaultKeep)
	if b.Limits.Entries == 0 {
		b.Limits.Entries = defaultEntries
	}
	return b
}

// Build returns the path of a disk with the image's files as an ext4 file system, and what the image says of the program to run. cacheDir ""
// means the default. The disk is the cache's: open it read-only, or below an overlay.
func Build(ctx context.Context, path, cacheDir string) (string, image.Config, error) {
	return Builder{Cache: cacheDir}.Build(ctx, path)
}

// Build is the function of the same name, with settings. Errors that wrap image.ErrInvalid blame the image.
func (b Builder) Build(ctx context.Context, path string) (string, image.Config, error) {
	b = b.withDefaults()
	c, err := openCache(b.Cache, b.Keep)
	if err != nil {
		return "", image.Config{}, err
	}
	disk, config, err := b.build(ctx, c, path)
	if err != nil {
		return "", image.Config{}, fmt.Errorf("root disk of %s: %w", path, err)
	}
	return disk, config, nil
}

func (b Builder) build(ctx context.Context, c *cache, path string) (string, image.Config, error) {
	ref, err := fileRef(path)
	if err != nil {
		return "", image.Config{}, err
	}
	if disk, config, ok := c.byRef(ref, b.Free); ok {
		return disk, config, nil
	}
	layers, err := image.OpenLayers(path, image.Options{Cache: c.dir, Limits: b.Limits})
	if err != nil {
		return "", image.Config{}, err
	}
	defer layers.Close()
	digest := strings.TrimPrefix(layers.Digest, "sha256:")
	if layers.Kind == image.KindDirectory {
		if digest, err = fingerprint(ctx, layers.Root); err != nil {
			return "", image.Config{}, err
		}
	}
	disk, config, err := c.put(ctx, diskName(digest, b.Free), func(f *os.File) (image.Config, error) {
		return layers.Config, b.write(ctx, f, layers, digest)
	})
	if err != nil {
		return "", image.Config{}, err
	}
	if again, err := fileRef(path); err != nil || again != ref {
		return "", image.Config{}, fmt.Errorf("the image was changed while it was read (%v); try again", err)
	}
	return disk, config, c.setRef(ref, digest)
}

// write makes the file system in f.
func (b Builder) write(ctx context.Context, f *os.File, layers *image.Layers, digest string) error {
	w := ext4.NewWriter(f)
	t := newTree(ctx, w, b.Limits)
	if layers.Kind == image.KindDirectory {
		if err := t.directory(layers.Root); err != nil {
			return err
		}
		if again, err := fingerprint(ctx, layers.Root); err != nil || again != digest {
			return fmt.Errorf("the directory was changed while it was read (%v); try again", err)
		}
	} else if err := layers.Each(func(plain io.Reader, whiteouts bool) error { return t.layer(plain, whiteouts) }); err != nil {
		return err
	}
	identity := sha256.Sum256([]byte("qenex root disk " + digest))
	if err := w.Finish(t.root, uint64(b.Free), identity, time.Unix(0, 0)); err != nil {
		return fmt.Errorf("%w: %w", image.ErrInvalid, err)
	}
	return nil
}

// WriteDirectory writes an ext4 file system with the files of a host directory into f, an empty regular file, with at least free bytes for new
// files. Owners are as on the host, but for a caller who is not root: the caller's files are root's there.
func WriteDirectory(ctx context.Context, f *os.File, dir string, free int64) error {
	b := Builder{Free: free}.withDefaults()
	digest, err := fingerprint(ctx, dir)
	if err != nil {
		return err
	}
	return b.write(ctx, f, &image.Layers{Kind: image.KindDirectory, Root: dir}, digest)
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{image.ErrInvalid}, args...)...)
}
