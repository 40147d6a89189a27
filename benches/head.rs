//! The head by itself: creating series, appending to them with references and without, the log included.

#![expect(clippy::unwrap_used, reason = "a benchmark fails as a test does")]

use std::path::PathBuf;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use narthex::error::Error;
use narthex::fs::Env;
use narthex::head::{Head, HeadOptions, SeriesRef};
use narthex::testkit::Workload;
use narthex::wal::{Compression, Durability, LogOptions};

/// More than the caches hold.
const SERIES: usize = 100_000;

/// A head with a log of its own, in a directory that is removed at the end.
struct Subject {
    head: Arc<Head>,
    dir: PathBuf,
    workload: Workload,
    references: Vec<Option<SeriesRef>>,
}

impl Subject {
    fn new() -> Self {
        let env = Env::real();
        let dir = std::env::temp_dir().join(format!("narthex-bench-head-{:016x}", env.rng.next_u64()));
        let log = LogOptions { compression: Compression::None, durability: Durability::Never, ..LogOptions::default() };
        let options = HeadOptions { future_bound: None, ..HeadOptions::default() };
        let (head, _) = Head::open(&env, &dir, options, log, i64::MIN).unwrap();
        Self { head, dir, workload: Workload::new(SERIES), references: vec![None; SERIES] }
    }

    /// The next sample of every series, a commit a target.
    fn step(&mut self, with_references: bool) {
        let Self { head, workload, references, .. } = self;
        let labels = workload.labels().to_vec();
        let commit = |t, first: usize, values: &[f64]| {
            let mut appender = head.appender();
            for ((reference, labels), value) in references.iter_mut().zip(&labels).skip(first).zip(values) {
                let known = reference.filter(|_| with_references);
                *reference = Some(appender.append(known, labels, t, *value)?);
            }
            appender.commit().map(drop)
        };
        workload.step::<Error>(commit).unwrap();
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = Env::real().fs.remove_dir_all(&self.dir);
    }
}

fn head(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head");
    group.throughput(Throughput::Elements(SERIES as u64)).sample_size(20);
    group.bench_function("create series", |bencher| {
        bencher.iter_batched(
            Subject::new,
            |mut subject| {
                subject.step(true);
                subject
            },
            BatchSize::PerIteration,
        );
    });
    for (name, with_references) in [("append by reference", true), ("append by labels", false)] {
        let mut subject = Subject::new();
        subject.step(true);
        group.bench_function(name, |bencher| bencher.iter(|| subject.step(with_references)));
    }
    group.finish();
}

criterion_group!(benches, head);
criterion_main!(benches);
