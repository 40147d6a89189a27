//! What the README shows is what is built and run.

const README: &str = include_str!("../README.md");
const EMBED: &str = include_str!("../examples/embed.rs");

/// The fenced block of the README that begins with `first`.
fn block(first: &str) -> Option<&'static str> {
    let start = README.find(first)?;
    let rest = README.get(start..)?;
    rest.get(..rest.find("```")?)
}

#[test]
fn the_embedding_is_the_example_that_runs() {
    let start = EMBED.find("use narthex").expect("the example has imports");
    assert_eq!(block("use narthex"), EMBED.get(start..));
}

#[test]
fn the_embedding_takes_forty_lines_at_most() {
    let lines = EMBED.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 40, "{lines} lines that are not blank");
}
