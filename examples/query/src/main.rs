//! `query`: answers PromQL over a data directory that somebody else may own and write.
//!
//! The directory is read again when a query comes and the last reading is older than `--storage.tsdb.refresh`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};
use narthex::error::{Error, ErrorKind};
use narthex::fs::Env;
use serve::app::{About, App};
use serve::directory::Beside;
use serve::flags::{self, LogFlags, QueryFlags};
use serve::{logs, routes, server};

#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Answers PromQL over a data directory that somebody else may write.
#[derive(Debug, Clone, Parser)]
#[command(name = "query", version)]
struct Flags {
    /// The directory. It is never written to.
    #[arg(long = "storage.tsdb.path", default_value = "data")]
    path: PathBuf,
    /// How old what was read may be when a query comes.
    #[arg(long = "storage.tsdb.refresh", default_value = "5s", value_parser = flags::duration)]
    refresh: Duration,
    /// Where HTTP is served.
    #[arg(long = "web.listen-address", default_value = "127.0.0.1:9292")]
    listen_address: String,
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
    match runtime.block_on(run(&flags, about)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed("the program stops", &error),
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(%error, "{what}");
    ExitCode::FAILURE
}

async fn run(flags: &Flags, about: About) -> Result<(), Error> {
    let env = Env::real();
    let app = App::new(env.clone(), flags.query.limits(), about);
    let leave = server::asked_to_leave()?;
    let listener = server::listen(&flags.listen_address).await?;
    let address = server::local_address(&listener).map(|address| address.to_string()).unwrap_or_default();
    tracing::info!(address, path = %flags.path.display(), version = env!("CARGO_PKG_VERSION"), "listening");

    let (path, refresh, opener) = (flags.path.clone(), flags.refresh, app.clone());
    let (stop, mut stopped) = tokio::sync::watch::channel(());
    let opening = tokio::task::spawn_blocking(move || {
        // An error drops `stop`, which ends the program.
        let beside = Beside::open(&env, &path, refresh)?;
        tracing::info!("ready");
        opener.open(Arc::new(beside));
        Ok::<_, Error>(stop)
    });
    let leave = async move {
        tokio::select! {
            () = leave => {}
            _ = stopped.changed() => {}
        }
    };
    server::serve(listener, routes::router(app.clone(), false), leave).await?;
    let _ = app.close();
    let _stop = opening.await.map_err(|error| Error::new(ErrorKind::Io, error))??;
    Ok(())
}
