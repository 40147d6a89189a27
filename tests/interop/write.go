package main

import (
	"errors"
	"fmt"
	"math"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// What a series is given, round after round.
type source struct {
	labels labels.Labels
	ref    storage.SeriesRef
	next   func(round int) sample
}

type sample struct {
	v  float64
	h  *histogram.Histogram
	fh *histogram.FloatHistogram
}

type writer struct {
	db                *tsdb.DB
	o                 options
	appended, refused int
}

// The same numbers on every machine and in every version of Go.
type random uint64

func (r *random) next() uint64 {
	*r += 0x9E3779B97F4A7C15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

func (r *random) below(n uint64) uint64 { return r.next() % n }

// integers is a histogram whose layout widens now and then and whose counts fall back now and then.
func integers(round int, r *random, custom bool) *histogram.Histogram {
	age := round % 70
	n := 2 + age/20
	h := &histogram.Histogram{Schema: 1, ZeroThreshold: 0.001, ZeroCount: uint64(age), Sum: float64(age) * 1.5}
	if custom {
		h.Schema, h.ZeroThreshold, h.ZeroCount = histogram.CustomBucketsSchema, 0, 0
		h.CustomValues = []float64{0.1, 0.5, 1, 2.5, 10}[:3+round/100%3]
		n = min(n, len(h.CustomValues))
	}
	h.Count = h.ZeroCount
	fill := func() (spans []histogram.Span, deltas []int64) {
		var last int64
		for i := range n {
			count := int64(age*(i+1)) + int64(r.below(2))
			deltas = append(deltas, count-last)
			h.Count += uint64(count)
			last = count
		}
		return []histogram.Span{{Offset: 0, Length: uint32(n)}}, deltas
	}
	h.PositiveSpans, h.PositiveBuckets = fill()
	if !custom && round%3 != 0 {
		h.NegativeSpans, h.NegativeBuckets = fill()
	}
	return h
}

func series(name string, i int) labels.Labels {
	return labels.FromStrings(labels.MetricName, name, "i", fmt.Sprint(i), "written_by", "prometheus")
}

// own are series of every kind.
func own() []*source {
	var out []*source
	add := func(name string, next func(round int, r *random) sample) {
		for i := range 3 {
			r := random(i + 1)
			out = append(out, &source{labels: series(name, i), next: func(round int) sample { return next(round, &r) }})
		}
	}
	stale := math.Float64frombits(value.StaleNaN)
	add("continue_counter_total", func(round int, r *random) sample { return sample{v: float64(round*100) + float64(r.below(50))} })
	add("continue_gauge", func(_ int, r *random) sample { return sample{v: float64(r.below(1000003)) / 1000} })
	specials := []float64{0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), math.NaN(), 5e-324, math.MaxFloat64, 1}
	add("continue_specials", func(round int, _ *random) sample { return sample{v: specials[round%len(specials)]} })
	add("continue_stale", func(round int, _ *random) sample {
		if round%17 == 16 {
			return sample{v: stale}
		}
		return sample{v: 1}
	})
	add("continue_integers", func(round int, r *random) sample {
		if round%43 == 42 {
			return sample{v: stale}
		}
		return sample{h: integers(round, r, false)}
	})
	add("continue_floats", func(round int, r *random) sample { return sample{fh: integers(round, r, false).ToFloat(nil)} })
	add("continue_gauge_integers", func(round int, r *random) sample {
		h := integers(round, r, false)
		h.CounterResetHint = histogram.GaugeType
		return sample{h: h}
	})
	add("continue_gauge_floats", func(round int, r *random) sample {
		h := integers(round, r, false).ToFloat(nil)
		h.CounterResetHint = histogram.GaugeType
		return sample{fh: h}
	})
	add("continue_custom", func(round int, r *random) sample { return sample{h: integers(round, r, true)} })
	add("continue_custom_floats", func(round int, r *random) sample { return sample{fh: integers(round, r, true).ToFloat(nil)} })
	add("continue_mixed", func(round int, r *random) sample {
		switch round / 25 % 3 {
		case 0:
			return sample{v: float64(round)}
		case 1:
			return sample{h: integers(round, r, false)}
		}
		return sample{fh: integers(round, r, true).ToFloat(nil)}
	})
	add("continue métrique utf-8", func(round int, _ *random) sample { return sample{v: float64(round)} })
	return out
}

// others are the series that were here before, each going on with what its newest sample is like.
func (w *writer) others() []*source {
	q, err := w.db.Querier(math.MinInt64, math.MaxInt64)
	check(err)
	defer func() { check(q.Close()) }()
	var out []*source
	set := q.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchNotEqual, "written_by", "prometheus"))
	for set.Next() {
		s := &source{labels: set.At().Labels().Copy()}
		it := set.At().Iterator(nil)
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			var last sample
			switch kind {
			case chunkenc.ValFloat:
				_, last.v = it.At()
			case chunkenc.ValHistogram:
				_, last.h = it.AtHistogram(nil)
			case chunkenc.ValFloatHistogram:
				_, last.fh = it.AtFloatHistogram(nil)
			}
			s.next = func(round int) sample { return last.after(round) }
		}
		check(it.Err())
		if s.next != nil {
			out = append(out, s)
		}
	}
	check(set.Err())
	return out
}

// after is a sample that may follow s: the same layout with higher counts.
func (s sample) after(round int) sample {
	switch {
	case s.h != nil && !value.IsStaleNaN(s.h.Sum):
		h := s.h.Copy()
		h.Sum += float64(round)
		if len(h.PositiveBuckets) > 0 {
			h.PositiveBuckets[0] += int64(round)
			h.Count += uint64(round * len(h.PositiveBuckets))
		}
		if h.CounterResetHint != histogram.GaugeType {
			h.CounterResetHint = histogram.UnknownCounterReset
		}
		return sample{h: h}
	case s.fh != nil && !value.IsStaleNaN(s.fh.Sum):
		h := s.fh.Copy()
		h.Sum += float64(round)
		if h.CounterResetHint != histogram.GaugeType {
			h.CounterResetHint = histogram.UnknownCounterReset
		}
		return sample{fh: h}
	}
	return sample{v: float64(round)}
}

func (w *writer) run() {
	if w.o.rounds == 0 {
		return
	}
	from, step := w.o.from, w.o.step.Milliseconds()
	if from == 0 {
		from = w.newest() + step
	}
	sources := append(own(), w.others()...)
	for round := range w.o.rounds {
		t := from + int64(round)*step
		app := w.db.AppenderV2(ctx)
		for i, s := range sources {
			var start int64
			if w.o.starts {
				start = from - 1000 - int64(round/60)
			}
			// Deletes of series that stand still leave room for samples of their own.
			w.append(app, s, round, start, t+int64(i%7))
		}
		check(app.Commit())
		if w.o.window > 0 && round > 40 && round%5 == 0 {
			app := w.db.AppenderV2(ctx)
			for i, s := range sources {
				if i%3 == 0 {
					back := int64(7+round%31)*step + step/2
					w.append(app, s, round, 0, max(t-back, t-w.o.window.Milliseconds()+step))
				}
			}
			check(app.Commit())
		}
	}
	if w.o.deletes {
		all := from + int64(w.o.rounds)*step
		check(w.db.Delete(ctx, from+20*step, from+35*step, labels.MustNewMatcher(labels.MatchRegexp, labels.MetricName, "continue_(gauge|integers|custom)")))
		check(w.db.Delete(ctx, math.MinInt64, all, labels.MustNewMatcher(labels.MatchEqual, labels.MetricName, "continue_specials"), labels.MustNewMatcher(labels.MatchEqual, "i", "2")))
	}
}

// newest is the time of the newest sample, in blocks or the head.
func (w *writer) newest() int64 {
	newest := int64(0)
	for _, b := range w.db.Blocks() {
		newest = max(newest, b.MaxTime())
	}
	if t := w.db.Head().MaxTime(); t != math.MinInt64 {
		newest = max(newest, t)
	}
	return newest
}

func (w *writer) append(app storage.AppenderV2, s *source, round int, start, t int64) {
	next := s.next(round)
	options := storage.AOptions{}
	if round%50 == 0 {
		options.Metadata = metadata.Metadata{Type: model.MetricTypeCounter, Unit: "s", Help: fmt.Sprintf("what round %d said", round/100)}
	}
	if round%9 == 3 {
		options.Exemplars = []exemplar.Exemplar{{Labels: labels.FromStrings("trace_id", fmt.Sprintf("%x", t)), Value: float64(round), Ts: t, HasTs: true}}
	}
	ref, err := app.Append(s.ref, s.labels, start, t, next.v, next.h, next.fh, options)
	var partial *storage.AppendPartialError
	switch {
	case err == nil, errors.As(err, &partial):
		s.ref = ref
		w.appended++
	case errors.Is(err, storage.ErrOutOfOrderSample), errors.Is(err, storage.ErrOutOfBounds), errors.Is(err, storage.ErrTooOldSample), errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
		w.refused++
	default:
		check(fmt.Errorf("%s at %d: %w", s.labels, t, err))
	}
}
