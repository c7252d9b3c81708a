package blockdev

import (
	"bytes"
	"compress/flate"
	"encoding/binary"

	"github.com/klauspost/compress/zstd"
)

// builder makes qcow2 images: clusters of zeroes are not stored, or as zero clusters; the others plain or compressed.
type builder struct {
	version     uint32
	clusterBits uint
	compress    string // "", "zlib", "zstd"
	backing     string
	format      string // of backing
}

// build returns an image: header, reference table, L1 table, L2 tables, data.
func (b builder) build(content []byte) []byte {
	be := binary.BigEndian
	cluster := 1 << b.clusterBits
	n := (len(content) + cluster - 1) / cluster
	l2s := (n + cluster/8 - 1) / (cluster / 8)
	l1Clusters := max(1, (l2s*8+cluster-1)/cluster)
	l1 := 2 * cluster
	l2 := l1 + l1Clusters*cluster
	img := make([]byte, l2+l2s*cluster)
	copy(img, qcow2Magic)
	be.PutUint32(img[4:], b.version)
	be.PutUint32(img[20:], uint32(b.clusterBits))
	be.PutUint64(img[24:], uint64(len(content)))
	be.PutUint32(img[36:], uint32(l2s))
	be.PutUint64(img[40:], uint64(l1))
	be.PutUint64(img[48:], uint64(cluster))
	be.PutUint32(img[56:], 1)
	end := qcow2MinHeader
	if b.version == 3 {
		end = 112
		be.PutUint32(img[96:], 4)
		be.PutUint32(img[100:], uint32(end))
		if b.compress == "zstd" {
			be.PutUint64(img[72:], incompatCompression)
			img[104] = compressionZstd
		}
	}
	if b.backing != "" {
		be.PutUint32(img[end:], extensionBacking)
		be.PutUint32(img[end+4:], uint32(len(b.format)))
		copy(img[end+8:], b.format)
		end += 8 + (len(b.format)+7)&^7 + 8
		be.PutUint64(img[8:], uint64(end))
		be.PutUint32(img[16:], uint32(len(b.backing)))
		copy(img[end:], b.backing)
	}
	for i := range l2s {
		be.PutUint64(img[l1+8*i:], uint64(l2+i*cluster)|entryCopied)
	}
	for i := range n {
		data := make([]byte, cluster)
		copy(data, content[i*cluster:])
		entry := uint64(0)
		switch packed := b.pack(data); {
		case bytes.Count(data, []byte{0}) == cluster:
			if b.version == 3 && i%2 == 0 {
				entry = entryZero
			}
		case packed != nil && len(packed) < cluster:
			bits := 62 - (b.clusterBits - 8)
			last := (len(img) + len(packed) - 1) / SectorSize
			entry = entryCompressed | uint64(last-len(img)/SectorSize)<<bits | uint64(len(img))
			img = append(img, packed...)
		default:
			img = append(img, make([]byte, -len(img)&(cluster-1))...)
			entry = entryCopied | uint64(len(img))
			img = append(img, data...)
		}
		be.PutUint64(img[l2+8*i:], entry)
	}
	return img
}

var zstdWriter, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))

func (b builder) pack(data []byte) []byte {
	switch b.compress {
	case "zlib":
		var out bytes.Buffer
		w, _ := flate.NewWriter(&out, 1)
		w.Write(data)
		w.Close()
		return out.Bytes()
	case "zstd":
		return zstdWriter.EncodeAll(data, nil)
	}
	return nil
}
