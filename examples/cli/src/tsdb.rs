//! `narthex tsdb …`: what lies in a data directory or a block.

use std::path::PathBuf;

use clap::Subcommand;

use crate::CommandResult;

/// Data directories and blocks on this machine.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The chunks of a block, one JSON line a series.
    Chunks {
        /// The block's directory.
        block: PathBuf,
    },
    /// The blocks of a data directory.
    List {
        /// The data directory.
        dir: PathBuf,
    },
    /// Checks every sum, order and reference of every block.
    Verify {
        /// A data directory, or one block.
        dir: PathBuf,
    },
}

/// Runs one of them.
pub(crate) fn run(command: Command) -> CommandResult {
    match command {
        Command::Chunks { .. } => Err("tsdb chunks: not supported yet".into()),
        Command::List { .. } => Err("tsdb list: not supported yet".into()),
        Command::Verify { .. } => Err("tsdb verify: not supported yet".into()),
    }
}
