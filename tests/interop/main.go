// continue: Prometheus 3.14's tsdb package, going on where somebody else stopped writing.
//
//	continue write [flags] DIR   opens DIR, appends every kind of sample to what is there and to series of its own, and
//	                             dumps what its querier then returns; -crash leaves without closing
//	continue dump [flags] DIR    opens DIR and dumps (it replays the log and writes into DIR: give it a copy)
//	continue exemplars DIR       the same for exemplars
//	continue chunks              reads chunks from standard input and prints the samples in them
//
// The dump is that of `narthex tsdb dump`: one JSON line a series, floats as 16 hex digits of their bits.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/compression"
)

var ctx = context.Background()

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "continue:", err)
		os.Exit(1)
	}
}

type options struct {
	window      time.Duration
	snapshot    bool
	floats      string
	starts      bool
	histogramST bool
	compression string
	block       time.Duration
	from        int64
	step        time.Duration
	rounds      int
	deletes     bool
	compact     bool
	crash       bool
	dump        string
	verbose     bool
}

func flags(name string, args []string) (options, string) {
	var o options
	f := flag.NewFlagSet(name, flag.ExitOnError)
	f.DurationVar(&o.window, "out-of-order", 30*time.Minute, "the out-of-order window")
	f.BoolVar(&o.snapshot, "snapshot", false, "read a chunk snapshot, and write one at closing")
	f.StringVar(&o.floats, "floats", "xor", "the encoding of floats: xor or xor2")
	f.BoolVar(&o.starts, "starts", false, "store start timestamps")
	f.BoolVar(&o.histogramST, "histogram-starts", false, "store start timestamps with histograms")
	f.StringVar(&o.compression, "compression", "snappy", "of the log: none, snappy or zstd")
	f.DurationVar(&o.block, "block", 2*time.Hour, "the range of a block cut from the head")
	f.Int64Var(&o.from, "from", 0, "where to begin, in milliseconds; 0: a step after the newest sample")
	f.DurationVar(&o.step, "step", 15*time.Second, "between samples")
	f.IntVar(&o.rounds, "rounds", 200, "samples for each series")
	f.BoolVar(&o.deletes, "delete", false, "delete some of it again")
	f.BoolVar(&o.compact, "compact", false, "compact at the end")
	f.BoolVar(&o.crash, "crash", false, "leave without closing")
	f.StringVar(&o.dump, "dump", "-", "the dump's file; - for standard output, empty for none")
	f.BoolVar(&o.verbose, "verbose", false, "log what Prometheus says")
	check(f.Parse(args))
	if f.NArg() != 1 {
		check(errors.New("exactly one directory"))
	}
	return o, f.Arg(0)
}

func open(o options, dir string) *tsdb.DB {
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	t := tsdb.DefaultOptions()
	t.RetentionDuration = 1 << 50
	t.MinBlockDuration = o.block.Milliseconds()
	// No longer blocks: Prometheus may merge a block of out-of-order samples into one that it takes for all there is of
	// its time, and then it forgets what the head holds of that time (seen with 3.14).
	t.MaxBlockDuration = o.block.Milliseconds()
	t.OutOfOrderTimeWindow = o.window.Milliseconds()
	t.EnableMemorySnapshotOnShutdown = o.snapshot
	t.EnableSTStorage = o.starts
	t.EnableHistogramSTEncoding = o.histogramST
	t.EnableExemplarStorage = true
	t.MaxExemplars = 100_000
	t.EnableMetadataWALRecords = true
	t.XOR2EncodingAllowed = true
	if o.floats == "xor2" {
		t.FloatChunkEncoding = chunkenc.EncXOR2
	}
	t.WALCompression = map[string]compression.Type{"none": compression.None, "snappy": compression.Snappy, "zstd": compression.Zstd}[o.compression]
	db, err := tsdb.Open(dir, log, nil, t, nil)
	check(err)
	db.DisableCompactions()
	return db
}

func dumpTo(name string, db *tsdb.DB) {
	if name == "" {
		return
	}
	file := os.Stdout
	if name != "-" {
		var err error
		file, err = os.Create(name)
		check(err)
	}
	out := bufio.NewWriter(file)
	q, err := db.Querier(math.MinInt64, math.MaxInt64)
	check(err)
	dump(out, q)
	check(q.Close())
	check(out.Flush())
	if name != "-" {
		check(file.Close())
	}
}

func dump(out *bufio.Writer, q storage.Querier) {
	set := q.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchNotEqual, "", "x"))
	for set.Next() {
		// A series all of whose samples are deleted is listed until it is next compacted; that is nobody's promise.
		if samples := readSamples(set.At().Iterator(nil)); len(samples) > 0 {
			writeRow(out, set.At().Labels(), samples)
		}
	}
	check(set.Err())
}

func main() {
	if len(os.Args) < 2 {
		check(errors.New("usage: continue write|dump|exemplars [flags] DIR | continue chunks"))
	}
	switch os.Args[1] {
	case "write":
		o, dir := flags("write", os.Args[2:])
		db := open(o, dir)
		w := &writer{db: db, o: o}
		w.run()
		if o.compact {
			check(db.Compact(ctx))
			check(db.CompactOOOHead(ctx))
			check(db.Compact(ctx))
		}
		dumpTo(o.dump, db)
		fmt.Fprintf(os.Stderr, "continue: %d appended, %d refused, until %d\n", w.appended, w.refused, db.Head().MaxTime())
		if o.crash {
			os.Exit(0)
		}
		check(db.Close())
	case "dump":
		o, dir := flags("dump", os.Args[2:])
		dumpTo(o.dump, open(o, dir))
	case "exemplars":
		o, dir := flags("exemplars", os.Args[2:])
		out := bufio.NewWriter(os.Stdout)
		dumpExemplars(out, open(o, dir))
		check(out.Flush())
	case "chunks":
		decodeChunks(os.Stdin, os.Stdout)
	default:
		check(fmt.Errorf("no such command: %s", os.Args[1]))
	}
}
