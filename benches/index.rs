//! The index by itself: writing, set operations, selection, label sets.

#![expect(clippy::unwrap_used, reason = "a benchmark fails as a test does")]

use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use narthex::fs::Env;
use narthex::index::{ChunkMeta, Index, IndexWriter, Postings, PostingsSource, SeriesId, postings_for_matchers};
use narthex::model::{Labels, MatchOp, Matcher};
use narthex::testkit::series_labels;

const SERIES: usize = 20_000;

fn workload() -> Vec<Labels> {
    let mut all: Vec<_> = (0..SERIES).map(series_labels).collect();
    all.sort();
    all
}

fn write(env: &Env, path: &Path, series: &[Labels]) {
    let mut symbols: Vec<&str> = series.iter().flat_map(|labels| labels.iter().flat_map(|(n, v)| [n, v])).collect();
    symbols.sort_unstable();
    symbols.dedup();
    let mut writer = IndexWriter::create(&env.fs, path).unwrap();
    symbols.iter().for_each(|symbol| writer.add_symbol(symbol).unwrap());
    for (number, labels) in series.iter().enumerate() {
        let reference = 8 + 350 * number as u64;
        writer.add_series(labels, &[ChunkMeta { reference, min_time: 0, max_time: 1_800_000 }]).unwrap();
    }
    writer.finish().unwrap();
}

fn index(series: &[Labels]) -> Index {
    let (env, _) = Env::simulated(1);
    write(&env, Path::new("/index"), series);
    Index::open("index", env.fs.map(Path::new("/index")).unwrap()).unwrap()
}

fn algebra(c: &mut Criterion) {
    let raw = |step: u32, count: u32| {
        Postings::Raw(Bytes::from((0..count).flat_map(|n| (n * step).to_be_bytes()).collect::<Vec<u8>>()))
    };
    let mut group = c.benchmark_group("postings");
    let (long, other, short) = (raw(6, 1_000_000), raw(9, 600_000), raw(60_000, 100));
    group.bench_function("intersect 1e6 and 6e5", |b| {
        b.iter(|| black_box(Postings::intersect(vec![long.clone(), other.clone()]).len()));
    });
    group.bench_function("intersect 1e6 and 1e2", |b| {
        b.iter(|| black_box(Postings::intersect(vec![long.clone(), short.clone()]).len()));
    });
    group.bench_function("subtract 6e5 from 1e6", |b| b.iter(|| black_box(long.clone().subtract(&other).len())));
    let many: Vec<_> = (0..1000).map(|n| raw(1000 + n, 500)).collect();
    group.bench_function("unite 1000 of 500", |b| b.iter(|| black_box(Postings::union(many.clone()).len())));
    group.finish();
}

fn selection(c: &mut Criterion) {
    let index = index(&workload());
    let with = |op, name: &str, value: &str| Matcher::new(op, name, value).unwrap();
    let sets = [
        vec![Matcher::equal("__name__", "app_metric_007_total")],
        vec![with(MatchOp::Regex, "pod", "pod-1.*"), Matcher::equal("code", "3")],
        vec![with(MatchOp::Regex, "pod", ".*-[0-9a-f]*7f.*")],
        vec![with(MatchOp::Regex, "namespace", "ns-1|ns-2|ns-30"), with(MatchOp::NotRegex, "job", "job-1.*")],
        vec![Matcher::equal("cluster", "cluster-3"), with(MatchOp::NotEqual, "code", "")],
    ];
    let mut group = c.benchmark_group("select");
    for matchers in sets {
        let text: Vec<_> = matchers.iter().map(ToString::to_string).collect();
        group.bench_function(text.join(","), |b| {
            b.iter(|| black_box(postings_for_matchers(&index, &matchers).unwrap().len()));
        });
    }
    group.finish();
}

fn series(c: &mut Criterion) {
    let all = workload();
    let index = index(&all);
    let ids = index.all().unwrap().into_vec();
    let mut group = c.benchmark_group("series");
    group.throughput(Throughput::Elements(SERIES as u64));
    group.bench_function("read", |b| {
        let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
        b.iter(|| {
            for id in &ids {
                index.series(SeriesId(*id), &mut labels, &mut chunks).unwrap();
                black_box((&labels, &chunks));
            }
        });
    });
    group.bench_function("write", |b| {
        b.iter(|| write(&Env::simulated(1).0, Path::new("/index"), black_box(&all)));
    });
    group.finish();
}

criterion_group!(benches, algebra, selection, series);
criterion_main!(benches);
