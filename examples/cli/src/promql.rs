//! `narthex promql …`: queries as text, and tests of what they answer.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use narthex::fs::{Env, Fs};
use narthex::promql::{ParseError, parse, pretty, to_json};
use narthex::testkit::script::{run_script, test_engine};

use crate::CommandResult;

/// Queries as text, and tests of what they answer.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs files in Prometheus's language for tests of PromQL. The last line is `N passed, M failed`.
    Test {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Says only how many passed and failed.
        #[arg(long)]
        quiet: bool,
    },
    /// A query's tree as JSON, as Prometheus's `/api/v1/parse_query` answers; or what is wrong with the query, and where.
    Parse {
        /// The query.
        #[arg(allow_hyphen_values = true)]
        expr: String,
    },
    /// The query laid out for people.
    Format {
        /// The query.
        #[arg(allow_hyphen_values = true)]
        expr: String,
    },
}

pub(crate) fn run(command: Command) -> CommandResult {
    let mut out = BufWriter::new(io::stdout().lock());
    match command {
        Command::Test { files, quiet } => test(&mut out, &files, quiet)?,
        Command::Parse { expr } => {
            let tree = parse(&expr).map_err(|error| pointed_at(&error))?;
            writeln!(out, "{}", to_json(&tree))?;
        }
        Command::Format { expr } => {
            let tree = parse(&expr).map_err(|error| pointed_at(&error))?;
            writeln!(out, "{}", pretty(&tree))?;
        }
    }
    out.flush()?;
    Ok(())
}

/// The error, the line of the query that it is in, and a caret below the place.
fn pointed_at(error: &ParseError) -> String {
    let Some((line, column)) = error.line_and_column() else { return error.to_string() };
    let text = error.query.lines().nth(line - 1).unwrap_or_default();
    // Columns count bytes, a caret stands below a character.
    let before = text.get(..column - 1).unwrap_or(text).chars().map(|c| if c == '\t' { c } else { ' ' });
    format!("{error}\n{text}\n{}^", before.collect::<String>())
}

fn test(out: &mut impl Write, files: &[PathBuf], quiet: bool) -> CommandResult {
    let (env, engine) = (Env::real(), test_engine());
    let (mut passed, mut failed) = (0, 0);
    for path in files {
        let report = run_script(&engine, &read(&*env.fs, path)?);
        if !quiet {
            for failure in &report.failures {
                writeln!(out, "{}:{}: {}", path.display(), failure.line, failure.query)?;
                writeln!(out, "    {}", failure.message)?;
            }
        }
        if files.len() > 1 {
            writeln!(out, "{}: {} passed, {} failed", path.display(), report.passed, report.failures.len())?;
        }
        passed += report.passed;
        failed += report.failures.len();
    }
    writeln!(out, "{passed} passed, {failed} failed")?;
    out.flush()?;
    if failed == 0 { Ok(()) } else { Err("not all tests passed".into()) }
}

fn read(fs: &dyn Fs, path: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let bytes = fs.read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(String::from_utf8(bytes).map_err(|error| format!("{}: {error}", path.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_pointed_at() {
        let error = parse("a +\n  é{").unwrap_err();
        assert_eq!(pointed_at(&error), "2:3: parse error: unexpected character: 'é'\n  é{\n  ^");
        let error = parse("rate(a[5m]) by").unwrap_err();
        assert_eq!(pointed_at(&error), "1:13: parse error: unexpected <by>\nrate(a[5m]) by\n            ^");
    }
}
