//! Where log lines go: to standard error, as `key=value` text or as JSON.

use tracing_subscriber::filter::LevelFilter;

/// `--log.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// Everything.
    Debug,
    /// What an operator reads.
    Info,
    /// What is odd.
    Warn,
    /// What is wrong.
    Error,
}

/// `--log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Logfmt,
    /// For machines.
    Json,
}

/// Sends log lines from now on. Once a process; again, it does nothing.
pub fn start(level: Level, format: Format) {
    let level = match level {
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Warn => LevelFilter::WARN,
        Level::Error => LevelFilter::ERROR,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    let _ = match format {
        Format::Logfmt => builder.with_ansi(false).try_init(),
        Format::Json => builder.json().try_init(),
    };
}
