//! Chunks: samples appended and decoded, in samples a second on one core. The data are those of the workload (counters,
//! gauges and constants every 15 s, 120 to a chunk), and what real servers wrote.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot read its data is to stop")]

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use narthex::chunk::{
    EncodedChunk, Encoding, FloatColumns, HistogramAppender, Xor2Appender, XorAppender, XorIter, decode_floats, samples,
};
use narthex::codec::Reader;
use narthex::fs::Env;
use narthex::model::Value;
use narthex::testkit::{STEP_MS, T0, Values};

const SERIES: usize = 1000;
const SAMPLES: i64 = 120;

fn workload() -> Vec<Vec<(i64, f64)>> {
    let series = |index| {
        let mut values = Values::new(index);
        (0..SAMPLES).map(|step| (T0 + STEP_MS * step, values.draw())).collect()
    };
    (0..SERIES).map(series).collect()
}

/// Chunks of a segment that Prometheus wrote in five minutes of scraping real exporters every second.
fn live() -> Vec<EncodedChunk> {
    let live = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/live/a");
    let env = Env::real();
    let block = env.fs.list(&live).unwrap().into_iter().find(|entry| entry.is_dir).unwrap();
    let bytes = env.fs.read(&live.join(block.name).join("chunks/000001")).unwrap();
    let mut reader = Reader::new(&bytes);
    reader.bytes("header", 8).unwrap();
    let mut chunks = Vec::new();
    while reader.offset() < bytes.len() {
        let len = reader.uvarint().unwrap() as usize;
        let encoding = Encoding::from_byte(reader.bytes("encoding", 1).unwrap()[0]).unwrap();
        chunks.push(EncodedChunk { encoding, data: reader.bytes("data", len).unwrap().to_vec().into() });
        reader.be_u32().unwrap();
    }
    chunks
}

fn count(chunks: &[EncodedChunk]) -> Throughput {
    let count = |chunk: &EncodedChunk| samples(chunk.encoding, &chunk.data).count() as u64;
    Throughput::Elements(chunks.iter().map(count).sum())
}

fn xor(series: &[Vec<(i64, f64)>]) -> Vec<EncodedChunk> {
    let chunk = |samples: &Vec<(i64, f64)>| {
        let mut appender = XorAppender::new();
        samples.iter().for_each(|(t, v)| appender.append(*t, *v).unwrap());
        appender.take()
    };
    series.iter().map(chunk).collect()
}

fn decode(criterion: &mut Criterion, name: &str, chunks: &[EncodedChunk]) {
    let mut columns = FloatColumns::default();
    criterion.benchmark_group("decode").throughput(count(chunks)).bench_function(name, |bench| {
        bench.iter(|| {
            for chunk in chunks {
                columns.clear();
                decode_floats(chunk.encoding, black_box(&chunk.data), &mut columns).unwrap();
            }
            columns.t.len()
        });
    });
}

fn benches(criterion: &mut Criterion) {
    let series = workload();
    let chunks = xor(&series);
    decode(criterion, "xor, workload", &chunks);
    for (kind, name) in
        [(0, "counter"), (5, "slow counter"), (6, "constant"), (7, "gauge"), (8, "pages"), (9, "float counter")]
    {
        let of_kind: Vec<_> = series.iter().skip(kind).step_by(10).cloned().collect();
        decode(criterion, &format!("xor, {name}"), &xor(&of_kind));
    }
    let live = live();
    let (floats, histograms): (Vec<_>, Vec<_>) = live.into_iter().partition(|chunk| chunk.encoding.is_float());
    decode(criterion, "xor, live", &floats);
    let xor2 = |samples: &Vec<(i64, f64)>| {
        let mut appender = Xor2Appender::new();
        samples.iter().for_each(|(t, v)| appender.append(T0 - 1, *t, *v).unwrap());
        appender.take()
    };
    decode(criterion, "xor2, workload", &series.iter().map(xor2).collect::<Vec<_>>());

    criterion.benchmark_group("iterate").throughput(count(&chunks)).bench_function("xor, workload", |bench| {
        bench.iter(|| {
            let sum = |chunk: &EncodedChunk| XorIter::new(&chunk.data).map(|sample| sample.unwrap().1).sum::<f64>();
            black_box(&chunks).iter().map(sum).sum::<f64>()
        });
    });
    criterion.benchmark_group("iterate").throughput(count(&histograms)).bench_function("histogram, live", |bench| {
        bench.iter(|| {
            let all = |chunk: &EncodedChunk| samples(chunk.encoding, &chunk.data).filter(Result::is_ok).count();
            black_box(&histograms).iter().map(all).sum::<usize>()
        });
    });

    // One sample to each series in turn, as it happens in a head; the chunks grow from empty.
    let elements = Throughput::Elements(SERIES as u64 * SAMPLES as u64);
    criterion.benchmark_group("append").throughput(elements).bench_function("xor, workload", |bench| {
        let empty = || vec![XorAppender::new(); SERIES];
        let fill = |mut appenders: Vec<XorAppender>| {
            for step in 0..SAMPLES as usize {
                for (appender, samples) in appenders.iter_mut().zip(&series) {
                    let (t, v) = samples[step];
                    appender.append(t, v).unwrap();
                }
            }
            appenders
        };
        bench.iter_batched(empty, fill, BatchSize::LargeInput);
    });
    let read: Vec<Vec<_>> =
        histograms.iter().map(|chunk| samples(chunk.encoding, &chunk.data).flatten().collect()).collect();
    criterion.benchmark_group("append").throughput(count(&histograms)).bench_function("histogram, live", |bench| {
        bench.iter(|| {
            for samples in &read {
                let mut appender = HistogramAppender::new();
                for sample in samples {
                    if let Value::Histogram(histogram) = &sample.value {
                        appender.append(sample.t, histogram).unwrap();
                    }
                }
                black_box(appender.len_bytes());
            }
        });
    });
}

criterion_group!(chunk, benches);
criterion_main!(chunk);
