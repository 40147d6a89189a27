//! `query`: answers PromQL over buckets, and over a data directory that somebody else may own and write.
//!
//! A bucket is listed every so often, and read in ranges as queries need them. The directory is read again when a query
//! comes and the last reading is older than `--storage.tsdb.refresh`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};
use narthex::error::{Error, ErrorKind};
use narthex::fs::Env;
use serve::app::{About, App};
use serve::combined::Combined;
use serve::directory::{Beside, Directory};
use serve::flags::{self, LogFlags, ObjstoreFlags, QueryFlags};
use serve::objstore::Buckets;
use serve::{logs, routes, server};
use tokio::runtime::Handle;

#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Answers PromQL over buckets, and over a data directory that somebody else may write.
#[derive(Debug, Clone, Parser)]
#[command(name = "query", version)]
struct Flags {
    /// The directory; `data`, if no bucket is given either. It is never written to.
    #[arg(long = "storage.tsdb.path")]
    path: Option<PathBuf>,
    /// How old what was read may be when a query comes.
    #[arg(long = "storage.tsdb.refresh", default_value = "5s", value_parser = flags::duration)]
    refresh: Duration,
    /// Where HTTP is served.
    #[arg(long = "web.listen-address", default_value = "127.0.0.1:9292")]
    listen_address: String,
    /// A label that the directory's series get, as the receiver that writes it gives it to them: `cluster="eu"`;
    /// repeated.
    #[arg(long = "label", value_name = "NAME=\"VALUE\"", value_parser = flags::label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    objstore: ObjstoreFlags,
    #[command(flatten)]
    query: QueryFlags,
    #[command(flatten)]
    log: LogFlags,
}

fn main() -> ExitCode {
    let matches = Flags::command().get_matches();
    let flags = Flags::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    logs::start(flags.log.level, flags.log.format);
    let shown = flags::shown(&Flags::command(), &matches);
    let about = About { program: "query", flags: shown, retention: String::new() };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed("starting the runtime", &error),
    };
    let code = match runtime.block_on(run(&flags, about)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed("the program stops", &error),
    };
    // The process ends with whatever still waits for a bucket.
    std::mem::forget(runtime);
    code
}

fn failed(what: &str, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(%error, "{what}");
    ExitCode::FAILURE
}

async fn run(flags: &Flags, about: About) -> Result<(), Error> {
    let env = Env::real();
    let app = App::new(env.clone(), flags.query.limits(), about);
    let labels = flags::labels(&flags.labels).map_err(|text| Error::new(ErrorKind::InvalidInput, text))?;
    let cache_dir = flags.objstore.data_dir.as_deref();
    let buckets = Buckets::open(&env, &flags.objstore, cache_dir, &Handle::current())?;
    let path = match (&flags.path, &buckets) {
        (None, None) => Some(PathBuf::from("data")),
        (path, _) => path.clone(),
    };
    let leave = server::asked_to_leave()?;
    let listener = server::listen(&flags.listen_address).await?;
    let address = server::local_address(&listener).map(|address| address.to_string()).unwrap_or_default();
    tracing::info!(address, version = env!("CARGO_PKG_VERSION"), "listening");

    if let Some(buckets) = buckets.clone() {
        app.metrics().add(Box::new(move |out| buckets.collect(out)));
    }
    let (refresh, opener) = (flags.refresh, app.clone());
    let (stop, mut stopped) = tokio::sync::watch::channel(());
    let queried = buckets.clone();
    let opening = tokio::task::spawn_blocking(move || {
        // An error drops `stop`, which ends the program.
        let directory = match path {
            Some(path) => Some(Arc::new(Beside::open(&env, &path, refresh)?) as Arc<dyn Directory>),
            None => None,
        };
        if let Some(buckets) = &queried {
            if !buckets.wait_until_listed() {
                // Asked to leave before they could be.
                return Ok(stop);
            }
            buckets.keep_listed()?;
        }
        tracing::info!("ready");
        opener.open(Arc::new(Combined::new(directory, labels, queried)));
        Ok::<_, Error>(stop)
    });
    let leave = async move {
        tokio::select! {
            () = leave => {}
            _ = stopped.changed() => {}
        }
        if let Err(error) = server::leave_at_once_if_asked_again() {
            tracing::warn!(%error, "asked again, it will not leave sooner");
        }
    };
    server::serve(listener, routes::router(app.clone(), false), leave).await?;
    let _ = app.close();
    if let Some(buckets) = buckets {
        buckets.leave();
    }
    // Whether it failed is known by now, unless it waits for a bucket.
    match tokio::time::timeout(Duration::from_secs(1), opening).await {
        Ok(opened) => opened.map_err(|error| Error::new(ErrorKind::Io, error))?.map(|_stop| ()),
        Err(_) => Ok(()),
    }
}
