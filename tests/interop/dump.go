package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// A histogram as the dump has it: bucket counts are absolute, everything that is a float is its bits.
type histogramRow struct {
	Schema          int32      `json:"schema"`
	ZeroThreshold   string     `json:"zero_threshold"`
	ZeroCount       string     `json:"zero_count"`
	Count           string     `json:"count"`
	Sum             string     `json:"sum"`
	PositiveSpans   [][2]int64 `json:"positive_spans"`
	NegativeSpans   [][2]int64 `json:"negative_spans"`
	PositiveBuckets []string   `json:"positive_buckets"`
	NegativeBuckets []string   `json:"negative_buckets"`
	CustomValues    []string   `json:"custom_values,omitempty"`
	Hint            string     `json:"counter_reset_hint"`
	Float           bool       `json:"float"`
}

func hex(v float64) string { return fmt.Sprintf("%016x", math.Float64bits(v)) }

func each[T, U any](in []T, f func(T) U) []U {
	out := make([]U, 0, len(in))
	for _, v := range in {
		out = append(out, f(v))
	}
	return out
}

func span(s histogram.Span) [2]int64 { return [2]int64{int64(s.Offset), int64(s.Length)} }

func hint(h histogram.CounterResetHint) string {
	return map[histogram.CounterResetHint]string{histogram.UnknownCounterReset: "unknown", histogram.CounterReset: "reset", histogram.NotCounterReset: "not_reset", histogram.GaugeType: "gauge"}[h]
}

func counts(deltas []int64) []string {
	var sum int64
	return each(deltas, func(d int64) string { sum += d; return strconv.FormatInt(sum, 10) })
}

func integerRow(h *histogram.Histogram) histogramRow {
	return histogramRow{
		Schema: h.Schema, ZeroThreshold: hex(h.ZeroThreshold), ZeroCount: strconv.FormatUint(h.ZeroCount, 10),
		Count: strconv.FormatUint(h.Count, 10), Sum: hex(h.Sum),
		PositiveSpans: each(h.PositiveSpans, span), NegativeSpans: each(h.NegativeSpans, span),
		PositiveBuckets: counts(h.PositiveBuckets), NegativeBuckets: counts(h.NegativeBuckets),
		CustomValues: each(h.CustomValues, hex), Hint: hint(h.CounterResetHint),
	}
}

func floatRow(h *histogram.FloatHistogram) histogramRow {
	return histogramRow{
		Schema: h.Schema, ZeroThreshold: hex(h.ZeroThreshold), ZeroCount: hex(h.ZeroCount), Count: hex(h.Count), Sum: hex(h.Sum),
		PositiveSpans: each(h.PositiveSpans, span), NegativeSpans: each(h.NegativeSpans, span),
		PositiveBuckets: each(h.PositiveBuckets, hex), NegativeBuckets: each(h.NegativeBuckets, hex),
		CustomValues: each(h.CustomValues, hex), Hint: hint(h.CounterResetHint), Float: true,
	}
}

func pairs(ls labels.Labels) [][2]string {
	out := [][2]string{}
	ls.Range(func(l labels.Label) { out = append(out, [2]string{l.Name, l.Value}) })
	return out
}

func readSamples(it chunkenc.Iterator) []any {
	samples, err := tryReadSamples(it)
	check(err)
	return samples
}

func tryReadSamples(it chunkenc.Iterator) ([]any, error) {
	out := []any{}
	for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
		var s []any
		switch kind {
		case chunkenc.ValFloat:
			t, v := it.At()
			s = []any{t, hex(v)}
		case chunkenc.ValHistogram:
			t, h := it.AtHistogram(nil)
			s = []any{t, integerRow(h)}
		case chunkenc.ValFloatHistogram:
			t, h := it.AtFloatHistogram(nil)
			s = []any{t, floatRow(h)}
		}
		if st := it.AtST(); st != 0 {
			s = append(s, map[string]int64{"st": st})
		}
		out = append(out, s)
	}
	return out, it.Err()
}

func writeJSON(out *bufio.Writer, v any) {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	check(e.Encode(v))
}

func writeRow(out *bufio.Writer, ls labels.Labels, samples []any) {
	writeJSON(out, struct {
		Labels  [][2]string `json:"labels"`
		Samples []any       `json:"samples"`
	}{pairs(ls), samples})
}

func dumpExemplars(out *bufio.Writer, db *tsdb.DB) {
	q, err := db.ExemplarQuerier(ctx)
	check(err)
	series, err := q.Select(math.MinInt64, math.MaxInt64, []*labels.Matcher{labels.MustNewMatcher(labels.MatchNotEqual, "", "x")})
	check(err)
	for _, s := range series {
		rows := []any{}
		for _, e := range s.Exemplars {
			rows = append(rows, []any{e.Ts, hex(e.Value), pairs(e.Labels)})
		}
		writeJSON(out, struct {
			Labels    [][2]string `json:"labels"`
			Exemplars []any       `json:"exemplars"`
		}{pairs(s.SeriesLabels), rows})
	}
}
