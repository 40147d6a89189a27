use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::model::{CounterResetHint, Labels, MetricType};

/// The messages as `prost` reads them: the oracle. Texts are bytes, since what is not UTF-8 is the series' fault here
/// and not the message's.
mod oracle {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        pub(super) timeseries: Vec<TimeSeries>,
        #[prost(message, repeated, tag = "3")]
        pub(super) metadata: Vec<MetricMetadata>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub(super) labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub(super) samples: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub(super) exemplars: Vec<Exemplar>,
        #[prost(message, repeated, tag = "4")]
        pub(super) histograms: Vec<Histogram>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Label {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) name: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) value: Vec<u8>,
    }
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Sample {
        #[prost(double, tag = "1")]
        pub(super) value: f64,
        #[prost(int64, tag = "2")]
        pub(super) timestamp: i64,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Exemplar {
        #[prost(message, repeated, tag = "1")]
        pub(super) labels: Vec<Label>,
        #[prost(double, tag = "2")]
        pub(super) value: f64,
        #[prost(int64, tag = "3")]
        pub(super) timestamp: i64,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Histogram {
        #[prost(oneof = "Count", tags = "1, 2")]
        pub(super) count: Option<Count>,
        #[prost(double, tag = "3")]
        pub(super) sum: f64,
        #[prost(sint32, tag = "4")]
        pub(super) schema: i32,
        #[prost(double, tag = "5")]
        pub(super) zero_threshold: f64,
        #[prost(oneof = "ZeroCount", tags = "6, 7")]
        pub(super) zero_count: Option<ZeroCount>,
        #[prost(message, repeated, tag = "8")]
        pub(super) negative_spans: Vec<BucketSpan>,
        #[prost(sint64, repeated, tag = "9")]
        pub(super) negative_deltas: Vec<i64>,
        #[prost(double, repeated, tag = "10")]
        pub(super) negative_counts: Vec<f64>,
        #[prost(message, repeated, tag = "11")]
        pub(super) positive_spans: Vec<BucketSpan>,
        #[prost(sint64, repeated, tag = "12")]
        pub(super) positive_deltas: Vec<i64>,
        #[prost(double, repeated, tag = "13")]
        pub(super) positive_counts: Vec<f64>,
        #[prost(int32, tag = "14")]
        pub(super) reset_hint: i32,
        #[prost(int64, tag = "15")]
        pub(super) timestamp: i64,
        #[prost(double, repeated, tag = "16")]
        pub(super) custom_values: Vec<f64>,
        #[prost(int64, tag = "17")]
        pub(super) start_timestamp: i64,
    }
    #[derive(Clone, Copy, PartialEq, prost::Oneof)]
    pub(super) enum Count {
        #[prost(uint64, tag = "1")]
        Integer(u64),
        #[prost(double, tag = "2")]
        Float(f64),
    }
    #[derive(Clone, Copy, PartialEq, prost::Oneof)]
    pub(super) enum ZeroCount {
        #[prost(uint64, tag = "6")]
        Integer(u64),
        #[prost(double, tag = "7")]
        Float(f64),
    }
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct BucketSpan {
        #[prost(sint32, tag = "1")]
        pub(super) offset: i32,
        #[prost(uint32, tag = "2")]
        pub(super) length: u32,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct MetricMetadata {
        #[prost(int32, tag = "1")]
        pub(super) kind: i32,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) metric_family_name: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) help: Vec<u8>,
        #[prost(bytes = "vec", tag = "5")]
        pub(super) unit: Vec<u8>,
    }

    pub(super) mod v2 {
        #[derive(Clone, PartialEq, prost::Message)]
        pub(in super::super) struct Request {
            #[prost(bytes = "vec", repeated, tag = "4")]
            pub(in super::super) symbols: Vec<Vec<u8>>,
            #[prost(message, repeated, tag = "5")]
            pub(in super::super) timeseries: Vec<TimeSeries>,
        }
        #[derive(Clone, PartialEq, prost::Message)]
        pub(in super::super) struct TimeSeries {
            #[prost(uint32, repeated, tag = "1")]
            pub(in super::super) labels_refs: Vec<u32>,
            #[prost(message, repeated, tag = "2")]
            pub(in super::super) samples: Vec<Sample>,
            #[prost(message, repeated, tag = "3")]
            pub(in super::super) histograms: Vec<super::Histogram>,
            #[prost(message, optional, tag = "5")]
            pub(in super::super) metadata: Option<Metadata>,
        }
        #[derive(Clone, Copy, PartialEq, prost::Message)]
        pub(in super::super) struct Sample {
            #[prost(double, tag = "1")]
            pub(in super::super) value: f64,
            #[prost(int64, tag = "2")]
            pub(in super::super) timestamp: i64,
            #[prost(int64, tag = "3")]
            pub(in super::super) start_timestamp: i64,
        }
        #[derive(Clone, Copy, PartialEq, prost::Message)]
        pub(in super::super) struct Metadata {
            #[prost(int32, tag = "1")]
            pub(in super::super) kind: i32,
            #[prost(uint32, tag = "3")]
            pub(in super::super) help_ref: u32,
            #[prost(uint32, tag = "4")]
            pub(in super::super) unit_ref: u32,
        }
    }
}

/// What a valid series is, in plain types: the model that both sides are brought to.
#[derive(Debug, PartialEq)]
struct Plain {
    labels: Labels,
    samples: Vec<(i64, i64, u64)>,
    histograms: Vec<String>,
    exemplars: Vec<(Labels, i64, u64)>,
}

fn plain(request: &WriteRequest) -> Vec<Plain> {
    let labels = |packed| Labels::parse_packed(packed).expect("what is decoded is packed canonically");
    request
        .series()
        .map(|series| Plain {
            labels: labels(series.packed_labels()),
            samples: series.samples().iter().map(|s| (s.t, s.st, s.value.to_bits())).collect(),
            histograms: series.histograms().iter().map(|h| format!("{h:?}")).collect(),
            exemplars: series.exemplars().map(|e| (labels(e.packed_labels), e.t, e.value.to_bits())).collect(),
        })
        .collect()
}

/// The label set, if it is valid: the rules once more, written to be read rather than to be fast.
fn label_set(pairs: &[(Vec<u8>, Vec<u8>)]) -> Option<Labels> {
    let mut names = std::collections::BTreeSet::new();
    let mut kept = Vec::new();
    for (name, value) in pairs {
        let (name, value) = (std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?);
        if name.is_empty() || !names.insert(name) {
            return None;
        }
        kept.push((name, value));
    }
    Some(Labels::from_pairs(kept))
}

fn plain_histogram(h: &oracle::Histogram) -> String {
    let spans = |spans: &[oracle::BucketSpan]| -> Vec<crate::model::Span> {
        spans.iter().map(|s| crate::model::Span { offset: s.offset, length: s.length }).collect()
    };
    let counter_reset_hint = match h.reset_hint {
        1 => CounterResetHint::CounterReset,
        2 => CounterResetHint::NotCounterReset,
        3 => CounterResetHint::Gauge,
        _ => CounterResetHint::Unknown,
    };
    let value = if let Some(oracle::Count::Float(count)) = h.count {
        HistogramValue::Float(FloatHistogram {
            counter_reset_hint,
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            zero_count: if let Some(oracle::ZeroCount::Float(zero)) = h.zero_count { zero } else { 0.0 },
            count,
            sum: h.sum,
            positive_spans: spans(&h.positive_spans),
            negative_spans: spans(&h.negative_spans),
            positive_buckets: h.positive_counts.clone(),
            negative_buckets: h.negative_counts.clone(),
            custom_values: h.custom_values.clone(),
        })
    } else {
        HistogramValue::Integer(Histogram {
            counter_reset_hint,
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            zero_count: if let Some(oracle::ZeroCount::Integer(zero)) = h.zero_count { zero } else { 0 },
            count: if let Some(oracle::Count::Integer(count)) = h.count { count } else { 0 },
            sum: h.sum,
            positive_spans: spans(&h.positive_spans),
            negative_spans: spans(&h.negative_spans),
            positive_buckets: h.positive_deltas.clone(),
            negative_buckets: h.negative_deltas.clone(),
            custom_values: h.custom_values.clone(),
        })
    };
    format!("{:?}", HistogramSample { t: h.timestamp, st: h.start_timestamp, value })
}

fn oracle_labels(labels: &[oracle::Label]) -> Option<Labels> {
    label_set(&labels.iter().map(|label| (label.name.clone(), label.value.clone())).collect::<Vec<_>>())
}

fn oracle_plain(request: &oracle::WriteRequest) -> Vec<Plain> {
    let series = request.timeseries.iter().filter_map(|series| {
        let labels = oracle_labels(&series.labels).filter(|labels| !labels.metric_name().is_empty())?;
        let exemplars = series.exemplars.iter();
        Some(Plain {
            labels,
            samples: series.samples.iter().map(|s| (s.timestamp, 0, s.value.to_bits())).collect(),
            histograms: series.histograms.iter().map(plain_histogram).collect(),
            exemplars: exemplars
                .filter_map(|e| Some((oracle_labels(&e.labels)?, e.timestamp, e.value.to_bits())))
                .collect(),
        })
    });
    series.collect()
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-c]{1,2}".prop_map(String::into_bytes),
        1 => "[aé]{0,3}".prop_map(String::into_bytes),
        1 => "x{250,260}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..3),
    ]
}

fn labels() -> impl Strategy<Value = Vec<oracle::Label>> {
    let label = (text(), text()).prop_map(|(name, value)| oracle::Label { name, value });
    let metric = text().prop_map(|value| oracle::Label { name: b"__name__".to_vec(), value });
    (prop::collection::vec(label, 0..4), prop::option::weighted(0.9, metric), any::<prop::sample::Index>()).prop_map(
        |(mut labels, metric, at)| {
            if let Some(metric) = metric {
                labels.insert(at.index(labels.len() + 1), metric);
            }
            labels
        },
    )
}

fn histogram() -> impl Strategy<Value = oracle::Histogram> {
    let count = prop_oneof![
        any::<u64>().prop_map(|n| Some(oracle::Count::Integer(n))),
        any::<f64>().prop_map(|n| Some(oracle::Count::Float(n))),
        Just(None)
    ];
    let zero_count = prop_oneof![
        any::<u64>().prop_map(|n| Some(oracle::ZeroCount::Integer(n))),
        any::<f64>().prop_map(|n| Some(oracle::ZeroCount::Float(n))),
    ];
    let spans = || {
        prop::collection::vec((any::<i32>(), any::<u32>()), 0..3).prop_map(|spans| {
            spans.into_iter().map(|(offset, length)| oracle::BucketSpan { offset, length }).collect::<Vec<_>>()
        })
    };
    let deltas = || prop::collection::vec(any::<i64>(), 0..4);
    let counts = || prop::collection::vec(any::<f64>(), 0..4);
    let head = (count, zero_count, any::<f64>(), any::<i32>(), any::<f64>(), 0..5i32, any::<i64>(), any::<i64>());
    let buckets = (spans(), deltas(), counts(), spans(), deltas(), counts(), counts());
    (head, buckets).prop_map(|(head, buckets)| oracle::Histogram {
        count: head.0,
        zero_count: head.1,
        sum: head.2,
        schema: head.3,
        zero_threshold: head.4,
        reset_hint: head.5,
        timestamp: head.6,
        start_timestamp: head.7,
        negative_spans: buckets.0,
        negative_deltas: buckets.1,
        negative_counts: buckets.2,
        positive_spans: buckets.3,
        positive_deltas: buckets.4,
        positive_counts: buckets.5,
        custom_values: buckets.6,
    })
}

fn write_request() -> impl Strategy<Value = oracle::WriteRequest> {
    let sample = (any::<f64>(), any::<i64>()).prop_map(|(value, timestamp)| oracle::Sample { value, timestamp });
    let exemplar = (labels(), any::<f64>(), any::<i64>()).prop_map(|(labels, value, timestamp)| oracle::Exemplar {
        labels,
        value,
        timestamp,
    });
    let series = (
        labels(),
        prop::collection::vec(sample, 0..3),
        prop::collection::vec(exemplar, 0..2),
        prop::collection::vec(histogram(), 0..2),
    )
        .prop_map(|(labels, samples, exemplars, histograms)| oracle::TimeSeries {
            labels,
            samples,
            exemplars,
            histograms,
        });
    let metadata = (0..9i32, text(), text(), text()).prop_map(|(kind, metric_family_name, help, unit)| {
        oracle::MetricMetadata { kind, metric_family_name, help, unit }
    });
    (prop::collection::vec(series, 0..4), prop::collection::vec(metadata, 0..2))
        .prop_map(|(timeseries, metadata)| oracle::WriteRequest { timeseries, metadata })
}

proptest! {
    #[test]
    fn a_request_means_what_another_decoder_says(request in write_request()) {
        let bytes = request.encode_to_vec();
        // Encoding loses the sign of a zero, so the oracle reads its own bytes back.
        let request = oracle::WriteRequest::decode(bytes.as_slice()).unwrap();
        let mut ours = WriteRequest::new();
        ours.decode_v1(&bytes, Limits::default()).unwrap();
        prop_assert_eq!(plain(&ours), oracle_plain(&request));
        prop_assert_eq!(ours.refused().series as usize + ours.series().len(), request.timeseries.len());
        let samples: usize = request.timeseries.iter().map(|series| series.samples.len()).sum();
        let kept: usize = ours.series().map(|series| series.samples().len()).sum();
        prop_assert_eq!(ours.refused().samples as usize + kept, samples);
        let families: Vec<_> = ours.metadata().map(|(name, _)| name.to_owned()).collect();
        let expected: Vec<_> = request.metadata.iter().map(|m| v1::text(&m.metric_family_name)).collect();
        prop_assert_eq!(families, expected);
    }

    #[test]
    fn a_damaged_request_is_refused_where_another_decoder_refuses_it(
        request in write_request(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let mut bytes = request.encode_to_vec();
        prop_assume!(!bytes.is_empty());
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut ours = WriteRequest::new();
        let mine = ours.decode_v1(&bytes, Limits::default());
        match oracle::WriteRequest::decode(bytes.as_slice()) {
            Ok(request) => {
                prop_assert!(mine.is_ok(), "{:?}", mine);
                prop_assert_eq!(plain(&ours), oracle_plain(&request));
            }
            Err(error) => prop_assert!(mine.is_err(), "the oracle says {}", error),
        }
    }

    #[test]
    fn an_arena_used_again_holds_nothing_of_the_request_before(first in write_request(), second in write_request()) {
        let mut used = WriteRequest::new();
        used.decode_v1(&first.encode_to_vec(), Limits::default()).unwrap();
        let second = second.encode_to_vec();
        used.decode_v1(&second, Limits::default()).unwrap();
        let second = oracle::WriteRequest::decode(second.as_slice()).unwrap();
        prop_assert_eq!(plain(&used), oracle_plain(&second));
    }

    #[test]
    fn a_v2_request_means_what_another_decoder_says(
        symbols in prop::collection::vec(text(), 0..6),
        series in prop::collection::vec(
            (prop::collection::vec(0..8u32, 0..7), prop::collection::vec((any::<f64>(), any::<i64>(), any::<i64>()), 0..3),
             prop::collection::vec(histogram(), 0..2), prop::option::of((0..9i32, 0..8u32, 0..8u32))), 0..4),
    ) {
        let mut request = oracle::v2::Request { symbols: vec![Vec::new(), b"__name__".to_vec()], timeseries: Vec::new() };
        request.symbols.extend(symbols);
        for (mut labels_refs, samples, histograms, metadata) in series {
            labels_refs.splice(0..0, [1, 2]);
            let samples = samples.into_iter();
            request.timeseries.push(oracle::v2::TimeSeries {
                labels_refs,
                samples: samples
                    .map(|(value, timestamp, start_timestamp)| oracle::v2::Sample { value, timestamp, start_timestamp })
                    .collect(),
                histograms,
                metadata: metadata.map(|(kind, help_ref, unit_ref)| oracle::v2::Metadata { kind, help_ref, unit_ref }),
            });
        }
        let bytes = request.encode_to_vec();
        let request = oracle::v2::Request::decode(bytes.as_slice()).unwrap();
        let expected: Vec<Plain> = request.timeseries.iter().filter_map(|series| {
            let symbol = |at: u32| request.symbols.get(at as usize).cloned();
            if series.labels_refs.len() % 2 == 1 || series.samples.is_empty() == series.histograms.is_empty() {
                return None;
            }
            let pairs: Option<Vec<_>> =
                series.labels_refs.chunks(2).map(|pair| Some((symbol(pair[0])?, symbol(pair[1])?))).collect();
            Some(Plain {
                labels: label_set(&pairs?).filter(|labels| !labels.metric_name().is_empty())?,
                samples: series.samples.iter().map(|s| (s.timestamp, s.start_timestamp, s.value.to_bits())).collect(),
                histograms: series.histograms.iter().map(plain_histogram).collect(),
                exemplars: Vec::new(),
            })
        }).collect();
        let mut ours = WriteRequest::new();
        ours.decode_v2(&bytes, Limits::default()).unwrap();
        prop_assert_eq!(plain(&ours), expected);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut request = WriteRequest::new();
        let _ = request.decode_v1(&bytes, Limits::default());
        let _ = request.decode_v2(&bytes, Limits::default());
        let _ = decompress(&bytes, &mut Vec::new(), 1 << 20);
    }
}

fn one_series(labels: &[(&str, &str)]) -> oracle::TimeSeries {
    let labels =
        labels.iter().map(|(name, value)| oracle::Label { name: (*name).into(), value: (*value).into() }).collect();
    oracle::TimeSeries { labels, samples: vec![oracle::Sample { value: 1.0, timestamp: 2 }], ..Default::default() }
}

#[test]
fn an_invalid_series_is_counted_and_its_neighbours_stay() {
    let request = oracle::WriteRequest {
        timeseries: vec![
            one_series(&[("__name__", "up"), ("job", "a")]),
            one_series(&[("__name__", "up"), ("job", "b"), ("job", "c")]),
            one_series(&[("job", "d")]),
            one_series(&[("__name__", "up"), ("job", "e")]),
        ],
        metadata: Vec::new(),
    };
    let mut ours = WriteRequest::new();
    ours.decode_v1(&request.encode_to_vec(), Limits::default()).unwrap();
    let jobs: Vec<_> = plain(&ours).iter().filter_map(|series| series.labels.get("job").map(str::to_owned)).collect();
    assert_eq!(jobs, ["a", "e"]);
    let refused = ours.refused();
    assert_eq!((refused.series, refused.samples), (2, 2));
    let reasons: Vec<_> = refused.reasons.iter().map(|(labels, fault)| format!("{labels}: {fault}")).collect();
    assert_eq!(
        reasons,
        [r#"{__name__="up", job="b", job="c"}: label name "job" twice"#, r#"{job="d"}: no metric name"#]
    );
}

#[test]
fn a_header_that_promises_too_much_is_refused_before_memory_is_taken() {
    let mut out = Vec::new();
    // A header of 32 MiB and nothing behind it.
    let body = [0x80, 0x80, 0x80, 0x10];
    assert!(matches!(decompress(&body, &mut out, 64 << 20), Err(WireError::Claim { .. })));
    assert!(matches!(decompress(&body, &mut out, 1 << 20), Err(WireError::TooLarge { .. })));
    assert_eq!(out.capacity(), 0);
}

#[test]
fn a_small_body_cannot_take_much_memory() {
    // Two bytes a histogram: a body of 2 MiB would hold a million of them.
    let series: Vec<u8> = [0x22, 0x00].repeat(1 << 20);
    let mut body = vec![0x0a];
    crate::codec::put_uvarint(&mut body, series.len() as u64);
    body.extend(series);
    let mut request = WriteRequest::new();
    let limits = Limits { arena_bytes: 1 << 20, ..Limits::default() };
    let error = request.decode_v1(&body, limits).unwrap_err();
    assert!(matches!(error, WireError::TooLarge { .. }), "{error}");
    assert_eq!(request.series().len(), 0);
}

#[test]
fn a_v2_request_whose_first_symbol_is_not_empty_is_refused() {
    let request =
        oracle::v2::Request { symbols: vec![b"up".to_vec()], timeseries: vec![oracle::v2::TimeSeries::default()] };
    let error = WriteRequest::new().decode_v2(&request.encode_to_vec(), Limits::default()).unwrap_err();
    assert!(matches!(error, WireError::FirstSymbol));
}

#[test]
fn v2_metadata_is_the_series_own() {
    let request = oracle::v2::Request {
        symbols: ["", "__name__", "up", "help me", "seconds"].map(|symbol| symbol.as_bytes().to_vec()).to_vec(),
        timeseries: vec![oracle::v2::TimeSeries {
            labels_refs: vec![1, 2],
            samples: vec![oracle::v2::Sample::default()],
            histograms: Vec::new(),
            metadata: Some(oracle::v2::Metadata { kind: 2, help_ref: 3, unit_ref: 4 }),
        }],
    };
    let mut ours = WriteRequest::new();
    ours.decode_v2(&request.encode_to_vec(), Limits::default()).unwrap();
    let metadata = ours.series().next().and_then(|series| series.metadata()).cloned();
    let expected = Metadata { metric_type: MetricType::Gauge, help: "help me".into(), unit: "seconds".into() };
    assert_eq!(metadata, Some(expected));
}

fn golden(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/wire").join(name);
    let body = crate::fs::Env::real().fs.read(&path).unwrap();
    let mut message = Vec::new();
    decompress(&body, &mut message, Limits::default().decoded_bytes).unwrap();
    message
}

#[test]
fn what_prometheus_sends_is_valid_and_means_what_another_decoder_says() {
    for name in ["rw1-0001.body", "rw1-0012.body", "rw1-0203.body", "rw1-0390.body"] {
        let message = golden(name);
        let mut ours = WriteRequest::new();
        ours.decode_v1(&message, Limits::default()).unwrap();
        assert_eq!(ours.refused(), &Refused::default(), "{name}");
        let oracle = oracle::WriteRequest::decode(message.as_slice()).unwrap();
        assert_eq!(plain(&ours), oracle_plain(&oracle), "{name}");
        assert!(ours.series().len() > 100, "{name}");
    }
}

#[test]
fn what_prometheus_sends_in_version_two_is_valid() {
    let mut ours = WriteRequest::new();
    ours.decode_v2(&golden("rw2-0001.body"), Limits::default()).unwrap();
    assert_eq!(ours.refused(), &Refused::default());
    assert!(ours.series().all(|series| series.samples().len() + series.histograms().len() > 0));
}
