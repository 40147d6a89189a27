//! `receiver`: takes metrics that others push, stores them in one directory, and answers PromQL over them.
//!
//! The library does the work; this file reads flags and wires. It listens at once and answers 503 until the log is read
//! back. Asked to leave, it takes nothing new, finishes what is under way, and closes the directory.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use narthex::db::{Db, Options, Retention};
use narthex::error::{Error, ErrorKind};
use narthex::fs::Env;
use narthex::wal::Compression;
use serve::app::{About, App, Limits};
use serve::directory::Owned;
use serve::flags::{self, LogFlags, QueryFlags};
use serve::{logs, routes, server};

#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    /// How far ahead of this machine's clock a sample may be; 0: any time.
    #[arg(long = "storage.tsdb.future-bound", default_value = "10m", value_parser = flags::duration)]
    future_bound: Duration,
    /// How many bytes of write requests may be in memory at a time.
    #[arg(long = "receive.bytes-in-flight", default_value = "512MB", value_parser = flags::size)]
    bytes_in_flight: u64,
    #[command(flatten)]
    query: QueryFlags,
    #[command(flatten)]
    log: LogFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WalCompression {
    None,
    Snappy,
    Zstd,
}

impl Flags {
    fn options(&self) -> Options {
        let compression = match self.wal_compression_type {
            _ if !self.wal_compression => Compression::None,
            WalCompression::None => Compression::None,
            WalCompression::Snappy => Compression::Snappy,
            WalCompression::Zstd => Compression::Zstd,
        };
        let unless_zero = |duration: Duration| (!duration.is_zero()).then(|| millis(duration));
        Options {
            min_block_duration: millis(self.min_block_duration),
            retention: Retention {
                time: unless_zero(self.retention_time),
                bytes: Some(self.retention_size).filter(|bytes| *bytes > 0),
            },
            wal_compression: compression,
            future_bound: unless_zero(self.future_bound),
            append_only: self.append_only,
            background: true,
            ..Options::default()
        }
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
    match runtime.block_on(run(&flags, about)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed("the receiver stops", &error),
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(%error, "{what}");
    ExitCode::FAILURE
}

fn retention(matches: &clap::ArgMatches) -> String {
    let raw = matches.get_raw("retention_time").and_then(|mut values| values.next());
    raw.map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}

async fn run(flags: &Flags, about: About) -> Result<(), Error> {
    let env = Env::real();
    let app = App::new(env.clone(), flags.limits(), about);
    let leave = server::asked_to_leave()?;
    let listener = server::listen(&flags.listen_address).await?;
    let address = server::local_address(&listener).map(|address| address.to_string()).unwrap_or_default();
    tracing::info!(address, path = %flags.path.display(), version = env!("CARGO_PKG_VERSION"), "listening");

    let (path, options, opener) = (flags.path.clone(), flags.options(), app.clone());
    let (stop, mut stopped) = tokio::sync::watch::channel(());
    // On a thread of its own: reading a long log back takes minutes.
    let opening = tokio::task::spawn_blocking(move || {
        let begin = env.clock.monotonic();
        // An error drops `stop`, which ends the program.
        let db = Db::open_with(&env, &path, options)?;
        let taken = env.clock.monotonic().saturating_sub(begin);
        tracing::info!(series = db.head().series_count(), seconds = taken.as_secs_f64(), "ready");
        opener.open(Arc::new(Owned::new(db.clone())));
        Ok::<_, Error>((db, stop))
    });
    let leave = async move {
        tokio::select! {
            () = leave => {}
            // The directory cannot be opened: there is nothing to stay for.
            _ = stopped.changed() => {}
        }
    };
    server::serve(listener, routes::router(app.clone(), true), leave).await?;
    let _ = app.close();
    let (db, _stop) = opening.await.map_err(|error| Error::new(ErrorKind::Io, error))??;
    let closed = tokio::task::spawn_blocking(move || db.close()).await;
    closed.map_err(|error| Error::new(ErrorKind::Io, error))??;
    tracing::info!("closed");
    Ok(())
}
