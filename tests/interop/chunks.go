package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// What stands in one chunk. `Same` is whether Prometheus's appender makes the same bytes of the same samples; it is only
// said of floats, where nothing but the samples decides them.
type chunkRow struct {
	Samples []any  `json:"samples"`
	Error   string `json:"error,omitempty"`
	Same    *bool  `json:"same,omitempty"`
}

// decodeChunks reads length (4 bytes, big endian, of what follows the encoding), encoding (1 byte) and the chunk's bytes,
// again and again, and prints a line for each.
func decodeChunks(in io.Reader, to io.Writer) {
	r, out := bufio.NewReaderSize(in, 1<<20), bufio.NewWriterSize(to, 1<<20)
	for {
		var head [5]byte
		if _, err := io.ReadFull(r, head[:]); errors.Is(err, io.EOF) {
			break
		} else {
			check(err)
		}
		data := make([]byte, binary.BigEndian.Uint32(head[:4]))
		_, err := io.ReadFull(r, data)
		check(err)
		writeJSON(out, decodeChunk(chunkenc.Encoding(head[4]), data))
	}
	check(out.Flush())
}

func decodeChunk(encoding chunkenc.Encoding, data []byte) (row chunkRow) {
	chunk, err := chunkenc.FromData(encoding, data)
	if err != nil {
		return chunkRow{Error: err.Error()}
	}
	row.Samples, err = tryReadSamples(chunk.Iterator(nil))
	if err != nil {
		row.Error = err.Error()
		return row
	}
	if encoding == chunkenc.EncXOR || encoding == chunkenc.EncXOR2 {
		again, err := chunkenc.NewEmptyChunk(encoding)
		check(err)
		app, err := again.Appender()
		check(err)
		it := chunk.Iterator(nil)
		for it.Next() != chunkenc.ValNone {
			t, v := it.At()
			app.Append(it.AtST(), t, v)
		}
		same := bytes.Equal(again.Bytes(), data)
		row.Same = &same
	}
	return row
}
