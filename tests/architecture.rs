//! The house's order, read from the sources: a room uses only the rooms above it, and nothing but `fs` reaches the
//! machine.
//!
//! Tests inside a room may use whatever helps them, so what `#[cfg(test)]` guards is not looked at. A path may also be
//! written with `super` or in a group with braces; both are resolved.

#![expect(clippy::disallowed_methods, reason = "this test reads the sources; there is nothing to simulate")]
#![expect(clippy::unwrap_used, reason = "a source that cannot be read fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The rooms from the top. A room uses the ones before it.
const ROOMS: [&str; 18] = [
    "error", "fs", "budget", "codec", "model", "chunk", "index", "block", "wal", "head", "query", "compact", "db",
    "tenant", "bucket", "promql", "wire", "testkit",
];

/// What reaches the machine: these paths and what lies below them.
const MACHINE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "time::Instant",
    "time::SystemTime",
    "std::hash::RandomState",
    "std::collections::hash_map::RandomState",
];

/// Crates that speak async or reach the network, and the rooms that may use them.
const AWAY: [&str; 5] = ["object_store::", "tokio::", "futures_util::", "rustls::", "reqwest::"];
const AWAY_ROOMS: [&str; 2] = ["bucket", "testkit"];

/// A source file, by its path below `src/`.
struct Source<'a> {
    path: &'a str,
    text: &'a str,
}

impl Source<'_> {
    /// The room that it belongs to; `lib.rs` belongs to none.
    fn room(&self) -> Option<&str> {
        let first = self.path.split('/').next().unwrap_or(self.path);
        Some(first.trim_end_matches(".rs")).filter(|room| *room != "lib")
    }

    /// How many modules it is inside of: `fs/mod.rs` one, `fs/real.rs` two.
    fn depth(&self) -> usize {
        let names = self.path.split('/').count();
        if self.path.ends_with("mod.rs") { names - 1 } else { names }
    }

    /// All that is wrong with it.
    fn violations(&self) -> Vec<String> {
        let Some(room) = self.room() else { return Vec::new() };
        let code = without_tests(&without_comments_and_strings(self.text));
        let Some(place) = ROOMS.iter().position(|known| *known == room) else {
            return vec![format!("{}: the room {room} has no place in the order", self.path)];
        };
        let mut used = BTreeSet::new();
        for root in ["crate::".to_owned(), "super::".repeat(self.depth())] {
            let paths = paths_from(&code, &root);
            used.extend(paths.iter().filter_map(|path| Some(path.strip_prefix(&root)?.split("::").next()?.to_owned())));
        }
        used.retain(|used| ROOMS.iter().position(|known| known == used).is_some_and(|other| other > place));
        let mut found: Vec<String> =
            used.iter().map(|used| format!("{}: {room} uses {used}, which stands below it", self.path)).collect();
        if room != "fs" {
            let mut reached = BTreeSet::new();
            for root in ["std::", "time::"] {
                reached.extend(paths_from(&code, root).into_iter().filter(|path| {
                    let rest = |what: &&&str| {
                        path.strip_prefix(**what).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
                    };
                    MACHINE.iter().find(rest).is_some()
                }));
            }
            found.extend(reached.iter().map(|what| format!("{}: {what} is reached through fs alone", self.path)));
        }
        if !AWAY_ROOMS.contains(&room) {
            let used = AWAY.iter().filter(|root| !paths_from(&code, root).is_empty());
            found.extend(used.map(|root| format!("{}: {root} is for bucket alone", self.path)));
        }
        found
    }
}

/// The code with comments, strings and characters blanked out.
fn without_comments_and_strings(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let raw = ["r#\"", "br#\"", "r\"", "br\""].iter().find(|start| rest.starts_with(**start));
        let starts_word = !out.ends_with(part_of_name);
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(start) = raw.filter(|_| starts_word) {
            let end = if start.contains('#') { "\"#" } else { "\"" };
            rest[start.len()..].find(end).map_or(rest.len(), |at| start.len() + at + end.len())
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if c == '\'' {
            // A character, not a lifetime: 'x' or an escape.
            let mut chars = rest.chars();
            match (chars.nth(1), chars.next()) {
                (Some('\\'), _) => {
                    rest[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 3)
                }
                (Some(inner), Some('\'')) => 2 + inner.len_utf8(),
                _ => 0,
            }
        } else {
            0
        };
        if skipped == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.push(' ');
            rest = &rest[skipped..];
        }
    }
    out
}

/// The code without the items that `#[cfg(test)]` stands before.
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some((before, after)) = rest.split_once("#[cfg(test)]") {
        out.push_str(before);
        let semicolon = after.find(';').unwrap_or(after.len());
        let brace = after.find('{').unwrap_or(after.len());
        rest = if semicolon < brace { &after[semicolon..] } else { &after[block_end(after, brace)..] };
    }
    out + rest
}

/// Where the block that opens at `open` ends.
fn block_end(text: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < open) {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    text.len()
}

/// All paths in the code that start with `root` (which ends in `::`), groups written out.
fn paths_from(code: &str, root: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let before = &code[..at];
        // `pub(in crate::room)` says who may look, not what is used.
        let visibility = before.ends_with("(in ");
        if before.ends_with(part_of_name) || before.ends_with("::") || visibility {
            continue;
        }
        expand(root, &code[at + root.len()..], &mut found);
    }
    found
}

/// Adds to `found` the paths that `rest` continues `prefix` to.
fn expand(prefix: &str, rest: &str, found: &mut BTreeSet<String>) {
    if rest.starts_with('{') {
        let inside = &rest[1..block_end(rest, 0) - 1];
        let mut depth = 0_usize;
        let parts = inside.split(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        });
        parts.for_each(|part| expand(prefix, part.trim_start(), found));
        return;
    }
    let name = &rest[..rest.find(|c| !part_of_name(c)).unwrap_or(rest.len())];
    match rest[name.len()..].strip_prefix("::") {
        _ if name.is_empty() => {}
        Some(more) => {
            let longer = format!("{prefix}{name}::");
            expand(&longer, more, found);
            found.insert(format!("{prefix}{name}"));
        }
        None => {
            found.insert(format!("{prefix}{name}"));
        }
    }
}

fn part_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// All sources below `dir`, as paths below `src/` and texts; files that hold tests alone are left out.
fn sources(dir: &Path, prefix: &str, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            if name != "tests" {
                sources(&entry.path(), &format!("{prefix}{name}/"), found);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push((format!("{prefix}{name}"), fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

#[test]
fn the_sources_keep_the_order_of_the_house() {
    let mut files = Vec::new();
    sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), "", &mut files);
    assert!(files.iter().any(|(path, _)| path == "fs/real.rs"), "the sources were not found");
    let found: Vec<String> = files.iter().flat_map(|(path, text)| Source { path, text }.violations()).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn violations(path: &str, text: &str) -> Vec<String> {
    Source { path, text }.violations()
}

#[test]
fn a_use_of_a_room_below_is_found_however_it_is_written() {
    let uses = [
        ("chunk/xor.rs", "use crate::head::Head;"),
        ("chunk/xor.rs", "use crate::{codec::Reader, head::{Head, Series}};"),
        ("chunk/xor.rs", "use crate::{\n    codec::{Reader, put},\n    head,\n};"),
        ("chunk/xor.rs", "fn f() { crate::head::open() }"),
        ("chunk/xor.rs", "use super::super::head;"),
        ("chunk/mod.rs", "use super::head;"),
        ("error.rs", "use crate::chunk::Encoding;"),
        ("chunk/xor.rs", "fn f<'a>(x: &'a str) -> char { '\"' } use crate::head::Head;"),
        ("chunk/xor.rs", "#[cfg(test)]\nmod tests { use crate::db; }\nuse crate::head;"),
    ];
    for (path, text) in uses {
        assert_eq!(violations(path, text).len(), 1, "{text}");
    }
}

#[test]
fn a_use_of_a_room_above_is_no_violation_nor_is_prose_or_a_test() {
    let uses = [
        ("head/mod.rs", "use crate::chunk::Encoding; use crate::{fs::Env, wal};"),
        ("chunk/xor.rs", "use super::Encoding; use super::histogram::head;"),
        ("chunk/xor.rs", "//! Used by [`crate::head`], as std::time::Instant is.\nfn f() { g(\"crate::head\") }"),
        ("chunk/xor.rs", "#[cfg(test)]\nmod tests {\n    use crate::head::Head;\n    mod more { use std::fs; }\n}"),
        ("chunk/xor.rs", "#[cfg(test)]\nuse crate::head::Head;\nfn f() {}"),
        ("chunk/xor.rs", "use std::time::Duration; fn f() { Query::Instant; my_std::fs_like(); }"),
        ("fs/real.rs", "use std::fs; use std::time::Instant;"),
        ("lib.rs", "pub use crate::db::Db;"),
    ];
    for (path, text) in uses {
        assert_eq!(violations(path, text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn reaching_the_machine_outside_fs_is_found() {
    let reaches = [
        "use std::fs::File;",
        "use std::{fs, io};",
        "use std::{io, time::{Duration, Instant}};",
        "fn f() { std::time::Instant::now(); }",
        "fn f() { std::thread::spawn(g); }",
    ];
    for text in reaches {
        assert_ne!(violations("wal/log.rs", text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn only_the_bucket_speaks_async_and_it_too_reaches_the_disk_through_fs() {
    assert_eq!(violations("db/mod.rs", "use tokio::runtime::Handle;").len(), 1);
    assert_eq!(violations("query/mod.rs", "fn f(s: &dyn object_store::ObjectStore) {}").len(), 1);
    let bucket = "use object_store::{ObjectStore, local::LocalFileSystem}; use tokio::runtime::Handle;";
    assert_eq!(violations("bucket/store.rs", bucket), Vec::<String>::new());
    assert_eq!(violations("bucket/store.rs", "use std::fs;").len(), 1);
}

#[test]
fn a_room_without_a_place_is_found() {
    assert_eq!(violations("cellar/mod.rs", "").len(), 1);
}
