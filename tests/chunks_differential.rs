//! Our chunks through Prometheus's decoders: what the appenders make of arbitrary samples, in all six encodings, reads
//! there as it reads here, start timestamps included; and of floats its appenders make the same bytes.
//!
//! `NARTHEX_CONTINUE` is the program in `tests/interop`.
//! `NARTHEX_DIFFERENTIAL_SECONDS` is how long it goes on (5), `NARTHEX_DIFFERENTIAL_SEED` where it begins (1).

#![expect(
    clippy::disallowed_methods,
    reason = "this test runs a program beside the library, for a time; there is nothing to simulate"
)]
#![expect(clippy::unwrap_used, reason = "a broken set-up fails the test")]

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use narthex::chunk::{EncodedChunk, samples};
use narthex::model::Labels;
use narthex::testkit::fuzz::encoded_chunks;
use narthex::testkit::jsonl::samples_line;

/// Inputs that one run of the program gets.
const BATCH: usize = 200;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Bytes to make samples of. Small ones are frequent: they keep a series on its way.
fn input(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let len = 20 + splitmix(&mut state) as usize % 3000;
    let tame = splitmix(&mut state) % 3;
    let byte = |state: &mut u64| {
        let word = splitmix(state);
        if tame > 0 && word & 3 > 0 { (word >> 8) as u8 % 5 } else { (word >> 8) as u8 }
    };
    (0..len).map(|_| byte(&mut state)).collect()
}

/// A line for each chunk, as the program decodes it.
fn decoded_there(program: &str, chunks: &[EncodedChunk]) -> Vec<String> {
    let mut bytes = Vec::new();
    for chunk in chunks {
        bytes.extend((chunk.data.len() as u32).to_be_bytes());
        bytes.push(chunk.encoding.byte());
        bytes.extend_from_slice(&chunk.data);
    }
    let mut child = Command::new(program).arg("chunks").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(&bytes).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs NARTHEX_CONTINUE, the program in tests/interop"]
fn prometheus_reads_our_chunks_as_we_do() {
    let program = std::env::var("NARTHEX_CONTINUE").expect("NARTHEX_CONTINUE names the program in tests/interop");
    let end = Instant::now() + Duration::from_secs(number("NARTHEX_DIFFERENTIAL_SECONDS", 5));
    let mut seed = number("NARTHEX_DIFFERENTIAL_SEED", 1);
    let mut seen: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    while seen.is_empty() || Instant::now() < end {
        let mut chunks = Vec::new();
        let mut seeds = Vec::new();
        for _ in 0..BATCH {
            let made = encoded_chunks(&input(seed));
            seeds.extend(made.iter().map(|_| seed));
            chunks.extend(made);
            seed = seed.wrapping_add(1);
        }
        let there = decoded_there(&program, &chunks);
        assert_eq!(there.len(), chunks.len());
        for ((chunk, line), seed) in chunks.iter().zip(&there).zip(&seeds) {
            let mut here = String::new();
            samples_line(&mut here, &Labels::empty(), samples(chunk.encoding, &chunk.data)).unwrap();
            let mut expected = here.replace("{\"labels\":null,", "{").trim_end().to_owned();
            if chunk.encoding.is_float() {
                expected = expected.replace("]}", "],\"same\":true}");
            }
            let count = chunk.data.len();
            assert!(
                *line == expected,
                "seed {seed}, {:?} of {count} bytes\nhere  {expected}\nthere {line}",
                chunk.encoding
            );
            let (chunks, samples) = seen.entry(chunk.encoding.name()).or_default();
            *chunks += 1;
            *samples += line.matches("],[").count() as u64 + 1;
        }
    }
    for (encoding, (chunks, samples)) in &seen {
        println!("{encoding}: {chunks} chunks, about {samples} samples");
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
}
