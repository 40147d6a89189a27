//! `narthex`: inspects, repairs and benchmarks Prometheus and Thanos data.
//!
//! One file a group of commands; this one only hands on. An error ends the program with its text on the standard error
//! and exit code 1; wrong usage with 2.

mod analyze;
mod backfill;
mod bench;
mod bucket;
mod openmetrics;
mod progress;
mod promql;
mod tsdb;
mod upkeep;
mod verify;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use narthex::fs::Env;
use tikv_jemallocator::Jemalloc;

/// As in the programs that serve: what is measured here is what runs there.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Inspects, repairs and benchmarks Prometheus and Thanos data.
#[derive(Debug, Parser)]
#[command(name = "narthex", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The workload of the figures.
    #[command(subcommand)]
    Bench(bench::Command),
    /// Blocks in object storage.
    #[command(subcommand)]
    Bucket(bucket::Command),
    /// Data directories and blocks on this machine.
    #[command(subcommand)]
    Tsdb(tsdb::Command),
    /// Queries as text, and tests of what they answer.
    #[command(subcommand)]
    Promql(promql::Command),
}

/// What a command answers with: nothing, or the text that the user sees.
type CommandResult = Result<(), Box<dyn std::error::Error>>;

/// Tells the user something that is no reason to stop.
#[expect(clippy::print_stderr, reason = "the program speaks to its user")]
fn warn(text: std::fmt::Arguments<'_>) {
    eprintln!("narthex: warning: {text}");
}

/// The number of the signal.
const SIGPIPE: u8 = 13;

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Bytes of all files in a directory and below.
fn bytes_below(env: &Env, dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in env.fs.list(dir)? {
        let path = dir.join(&entry.name);
        bytes += match env.fs.stat(&path)? {
            Some(stat) if stat.is_dir => bytes_below(env, &path)?,
            Some(stat) => stat.len,
            None => 0,
        };
    }
    Ok(bytes)
}

#[expect(clippy::print_stderr, reason = "the one place where the program speaks to its user about errors")]
fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(command) => bench::run(command),
        Command::Bucket(command) => bucket::run(command),
        Command::Tsdb(command) => tsdb::run(command),
        Command::Promql(command) => promql::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads us has seen enough. What a program says that the signal ends, which Rust ignores.
        Err(error) if is_broken_pipe(&*error) => ExitCode::from(128 + SIGPIPE),
        Err(error) => {
            eprintln!("narthex: {error}");
            ExitCode::FAILURE
        }
    }
}
