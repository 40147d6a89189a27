//! `receiver`: takes metrics that others push, stores them in one directory, ships blocks to a bucket, and answers PromQL
//! over both.
//!
//! The library does the work; this file reads flags and wires. It listens at once and answers 503 until the log is read
//! back; whether the bucket can be reached does not matter for that. Asked to leave, it takes nothing new, finishes what
//! is under way, ships what it has if that is wanted, and closes the directory.

mod ship;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use narthex::bucket::{Catalog, ShipOptions, Shipper, UploadOptions};
use narthex::db::{BlockGuard, Db, Options, Retention};
use narthex::error::{Error, ErrorKind};
use narthex::fs::Env;
use narthex::head::FloatEncoding;
use narthex::wal::Compression;
use serve::app::{About, App, Limits};
use serve::combined::Combined;
use serve::directory::Owned;
use serve::flags::{self, LogFlags, ObjstoreFlags, QueryFlags};
use serve::objstore::Buckets;
use serve::{logs, routes, server};
use ship::Shipping;
use tokio::runtime::Handle;

#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Where lists and headers of the bucket's blocks are kept: in the data directory, where nobody else looks at it.
const CACHE_DIR: &str = "objstore-cache";

/// How late a sample may come, if nobody says otherwise: agents send again what they could not for a while.
const OUT_OF_ORDER_WINDOW: Duration = Duration::from_secs(30 * 60);

/// Takes metrics that others push (Prometheus remote write), stores them as Prometheus does, and answers PromQL.
#[derive(Debug, Clone, Parser)]
#[command(name = "receiver", version)]
struct Flags {
    /// Where samples are stored.
    #[arg(long = "storage.tsdb.path", default_value = "data")]
    path: PathBuf,
    /// Where HTTP is served.
    #[arg(long = "web.listen-address", default_value = "127.0.0.1:9290")]
    listen_address: String,
    /// How long samples are kept; 0: for ever.
    #[arg(long = "storage.tsdb.retention.time", default_value = "15d", value_parser = flags::duration)]
    retention_time: Duration,
    /// How many bytes are kept; 0: no limit.
    #[arg(long = "storage.tsdb.retention.size", default_value = "0", value_parser = flags::size)]
    retention_size: u64,
    /// How many hundredths of the disk's size are kept, instead of a number of bytes; 0: no limit.
    #[arg(long = "storage.tsdb.retention.percentage", default_value_t = 0.0, value_parser = flags::percentage)]
    retention_percentage: f64,
    /// How much time a merged block spans at most; a tenth of the retention time, or 31 days if that is less.
    #[arg(long = "storage.tsdb.max-block-duration", value_parser = flags::duration)]
    max_block_duration: Option<Duration>,
    /// How much time a block spans that is cut from memory.
    #[arg(long = "storage.tsdb.min-block-duration", default_value = "2h", value_parser = flags::duration)]
    min_block_duration: Duration,
    /// How the log is compressed.
    #[arg(long = "storage.tsdb.wal-compression-type", value_enum, default_value = "snappy")]
    wal_compression_type: WalCompression,
    /// Whether the log is compressed at all.
    #[arg(
        long = "storage.tsdb.wal-compression",
        default_value_t = true,
        num_args = 0..=1,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    wal_compression: bool,
    /// Whether history is evidence: nothing written is ever changed or deleted, except by retention.
    #[arg(long = "storage.tsdb.append-only")]
    append_only: bool,
    /// What is not done by default, separated by commas: xor2-encoding and histograms-st-encoding, encodings that Thanos does
    /// not read, and st-storage, which keeps the start timestamps of samples and needs the first of them.
    #[arg(long = "enable-feature", value_enum, value_delimiter = ',')]
    features: Vec<Feature>,
    /// How far behind the newest sample of all one may be and still be taken when it is out of order in its series; 0: none
    /// is. 30m, or 0 with --storage.tsdb.append-only.
    #[arg(long = "storage.tsdb.out-of-order-time-window", value_parser = flags::duration)]
    out_of_order_time_window: Option<Duration>,
    /// How far ahead of this machine's clock a sample may be; 0: any time.
    #[arg(long = "storage.tsdb.future-bound", default_value = "10m", value_parser = flags::duration)]
    future_bound: Duration,
    /// Whether to leave a snapshot of memory on SIGTERM, so that the next start reads no log.
    #[arg(
        long = "storage.tsdb.snapshot-on-shutdown",
        default_value_t = true,
        num_args = 0..=1,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    snapshot_on_shutdown: bool,
    /// How often to leave one, so that a start after a crash reads only the log behind it; 0: never.
    #[arg(long = "storage.tsdb.snapshot-interval", default_value = "10m", value_parser = flags::duration)]
    snapshot_interval: Duration,
    /// A label that tells this receiver's series from others', `cluster="eu"`; repeated. Blocks in a bucket need one.
    #[arg(long = "label", value_name = "NAME=\"VALUE\"", value_parser = flags::label)]
    labels: Vec<(String, String)>,
    /// Whether blocks are shipped that were merged before they came here; else they stay for ever.
    #[arg(long = "shipper.upload-compacted")]
    upload_compacted: bool,
    /// Whether to cut everything into blocks and ship them before leaving on SIGTERM.
    #[arg(long = "shutdown.ship")]
    shutdown_ship: bool,
    /// How long that may take. What is not shipped by then lies in the data directory.
    #[arg(long = "shutdown.ship-timeout", default_value = "5m", value_parser = flags::duration)]
    shutdown_ship_timeout: Duration,
    #[command(flatten)]
    objstore: ObjstoreFlags,
    /// How many bytes of write requests may be in memory at a time.
    #[arg(long = "receive.bytes-in-flight", default_value = "512MB", value_parser = flags::size)]
    bytes_in_flight: u64,
    #[command(flatten)]
    query: QueryFlags,
    #[command(flatten)]
    log: LogFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Feature {
    #[value(name = "st-storage")]
    StStorage,
    #[value(name = "xor2-encoding")]
    Xor2Encoding,
    #[value(name = "histograms-st-encoding")]
    HistogramsStEncoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WalCompression {
    None,
    Snappy,
    Zstd,
}

impl Flags {
    fn options(&self, block_guard: Option<Arc<dyn BlockGuard>>) -> Options {
        let compression = match self.wal_compression_type {
            _ if !self.wal_compression => Compression::None,
            WalCompression::None => Compression::None,
            WalCompression::Snappy => Compression::Snappy,
            WalCompression::Zstd => Compression::Zstd,
        };
        let default_window = if self.append_only { 0 } else { millis(OUT_OF_ORDER_WINDOW) };
        let unless_zero = |duration: Duration| (!duration.is_zero()).then(|| millis(duration));
        Options {
            min_block_duration: millis(self.min_block_duration),
            retention: Retention {
                time: unless_zero(self.retention_time),
                bytes: Some(self.retention_size).filter(|bytes| *bytes > 0),
                percentage: Some(self.retention_percentage).filter(|percentage| *percentage > 0.0),
            },
            max_block_duration: self.max_block_duration.map(millis),
            wal_compression: compression,
            future_bound: unless_zero(self.future_bound),
            float_encoding: if self.has(Feature::Xor2Encoding) { FloatEncoding::Xor2 } else { FloatEncoding::Xor },
            start_timestamps: self.has(Feature::StStorage),
            histogram_start_timestamps: self.has(Feature::HistogramsStEncoding),
            append_only: self.append_only,
            snapshot_at_close: self.snapshot_on_shutdown,
            snapshot_interval: (!self.snapshot_interval.is_zero()).then_some(self.snapshot_interval),
            out_of_order_window: self.out_of_order_time_window.map_or(default_window, millis),
            background: true,
            block_guard,
            // Short blocks are looked for more often.
            maintenance_interval: (self.min_block_duration / 60).clamp(Duration::from_secs(1), Duration::from_secs(60)),
            ..Options::default()
        }
    }

    fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    fn limits(&self) -> Limits {
        Limits {
            write_bytes_in_flight: usize::try_from(self.bytes_in_flight).unwrap_or(usize::MAX),
            ..self.query.limits()
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn main() -> ExitCode {
    let matches = Flags::command().get_matches();
    let flags = Flags::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    logs::start(flags.log.level, flags.log.format);
    let about =
        About { program: "receiver", flags: flags::shown(&Flags::command(), &matches), retention: retention(&matches) };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed("starting the runtime", &error),
    };
    let code = match runtime.block_on(run(&flags, about)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed("the receiver stops", &error),
    };
    // The process ends with whatever still waits for a bucket.
    std::mem::forget(runtime);
    code
}

fn failed(what: &str, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(%error, "{what}");
    ExitCode::FAILURE
}

fn retention(matches: &clap::ArgMatches) -> String {
    let raw = matches.get_raw("retention_time").and_then(|mut values| values.next());
    raw.map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}

/// How much longer than it may take shipping is waited for: it looks at the time between attempts.
const OVERTIME: Duration = Duration::from_secs(10);

/// Where blocks are shipped to and read again, and who ships them.
type Shipped = (Arc<Buckets>, Arc<Shipper>);

/// What the flags say of a bucket, opened: nothing is asked of it yet.
fn bucket(env: &Env, flags: &Flags, runtime: &Handle) -> Result<Option<Shipped>, Error> {
    let labels = flags::labels(&flags.labels).map_err(invalid)?;
    let cache_dir = flags.objstore.data_dir.clone().unwrap_or_else(|| flags.path.join(CACHE_DIR));
    let Some(buckets) = Buckets::open(env, &flags.objstore, Some(&cache_dir), runtime)? else { return Ok(None) };
    if flags.objstore.config_file.len() > 1 {
        return Err(invalid("--objstore.config-file: a receiver ships to one bucket"));
    }
    if labels.is_empty() {
        let text = "a bucket needs --label: blocks of different receivers are told apart by it, for example \
                    --label 'cluster=\"eu\"' --label 'replica=\"0\"'";
        return Err(invalid(text));
    }
    let Some((bucket, list)) = buckets.first() else { return Ok(None) };
    if flags.has(Feature::Xor2Encoding) || flags.has(Feature::HistogramsStEncoding) {
        tracing::warn!("blocks with the encodings that were enabled are shipped, and Thanos does not read them");
    }
    let options = ShipOptions { upload: UploadOptions::new(labels), compacted: flags.upload_compacted };
    let catalog: Arc<dyn Catalog> = Arc::clone(list) as Arc<dyn Catalog>;
    let shipper = Shipper::new(env, bucket, &flags.path, options, Some(catalog))?;
    Ok(Some((buckets, Arc::new(shipper))))
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, text.into())
}

async fn run(flags: &Flags, about: About) -> Result<(), Error> {
    let env = Env::real();
    let app = App::new(env.clone(), flags.limits(), about);
    let labels = flags::labels(&flags.labels).map_err(invalid)?;
    let (buckets, shipper) = bucket(&env, flags, &Handle::current())?.unzip();
    let leave = server::asked_to_leave()?;
    let listener = server::listen(&flags.listen_address).await?;
    let address = server::local_address(&listener).map(|address| address.to_string()).unwrap_or_default();
    tracing::info!(address, path = %flags.path.display(), version = env!("CARGO_PKG_VERSION"), "listening");

    if let Some(buckets) = buckets.clone() {
        buckets.keep_listed()?;
        app.metrics().add(Box::new(move |out| buckets.collect(out)));
    }
    let (path, opener) = (flags.path.clone(), app.clone());
    let options = flags.options(shipper.clone().map(|shipper| shipper as Arc<dyn BlockGuard>));
    let (stop, mut stopped) = tokio::sync::watch::channel(());
    let queried = buckets.clone();
    // On a thread of its own: reading a long log back takes minutes.
    let opening = tokio::task::spawn_blocking(move || {
        let begin = env.clock.monotonic();
        // An error drops `stop`, which ends the program.
        let db = Db::open_with(&env, &path, options)?;
        let taken = env.clock.monotonic().saturating_sub(begin);
        tracing::info!(series = db.head().series_count(), seconds = taken.as_secs_f64(), "ready");
        let shipping = match shipper.zip(queried.clone()) {
            Some((shipper, buckets)) => {
                let shipping = Shipping::start(&env, &db, shipper, buckets)?;
                let counted = Arc::clone(&shipping);
                opener.metrics().add(Box::new(move |out| counted.collect(out)));
                Some(shipping)
            }
            None => None,
        };
        opener.open(Arc::new(Combined::new(Some(Arc::new(Owned::new(db.clone()))), labels, queried)));
        Ok::<_, Error>((db, shipping, stop))
    });
    let leave = async move {
        tokio::select! {
            () = leave => {}
            // The directory cannot be opened: there is nothing to stay for.
            _ = stopped.changed() => {}
        }
        if let Err(error) = server::leave_at_once_if_asked_again() {
            tracing::warn!(%error, "asked again, it will not leave sooner");
        }
    };
    server::serve(listener, routes::router(app.clone(), true), leave).await?;
    let _ = app.close();
    let (db, shipping, _stop) = blocking(opening).await??;
    let ship_for = flags.shutdown_ship.then_some(flags.shutdown_ship_timeout);
    let farewell = tokio::task::spawn_blocking(move || {
        let shipped = shipping.map_or(Ok(()), |shipping| shipping.leave(&db, ship_for));
        if let Some(buckets) = buckets {
            buckets.leave();
        }
        db.close().and(shipped)
    });
    let farewell = blocking(farewell);
    match ship_for {
        None => farewell.await??,
        // Whatever it hangs at.
        Some(limit) => match tokio::time::timeout(limit + OVERTIME, farewell).await {
            Ok(done) => done??,
            Err(_) => {
                tracing::error!("what is not shipped by now lies in the data directory");
                std::process::exit(1);
            }
        },
    }
    tracing::info!("closed");
    Ok(())
}

/// Waits for work on a thread for blocking work.
async fn blocking<T>(task: tokio::task::JoinHandle<T>) -> Result<T, Error> {
    task.await.map_err(|error| Error::new(ErrorKind::Io, error))
}
