//! The library in forty lines: open a database, append, commit, ask, close.
//!
//! `cargo run --example embed`

use narthex::budget::Budget;
use narthex::db::{Db, Options};
use narthex::error::Result;
use narthex::model::Labels;
use narthex::promql::{Engine, Value};

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> Result<()> {
    let dir = std::env::temp_dir().join("narthex-embed");
    let db = Db::open(&dir, Options::default())?;

    // Ten minutes of a counter in two rooms, a commit every 15 s: each commit survives a killed process. Run it again
    // within ten minutes, and what is there already is refused, sample by sample.
    let now = db.env().clock.now_ms();
    for step in (0..40).rev() {
        let mut appender = db.appender();
        for (room, rate) in [("kitchen", 2), ("study", 5)] {
            let labels = Labels::from_pairs([("__name__", "steps_total"), ("room", room)]);
            if let Err(refused) = appender.append(None, &labels, now - step * 15_000, ((40 - step) * rate) as f64) {
                println!("{labels}: {refused}");
            }
        }
        appender.commit()?;
    }

    // A source is a view of one moment; a budget may limit samples, bytes and time.
    let query = "sum by (room) (rate(steps_total[5m]))";
    let answer = Engine::default().instant(&db.source(), query, now, &Budget::unlimited())?;
    if let Value::Vector(samples) = answer.value {
        for sample in samples {
            println!("{} {:?}", sample.labels, sample.value);
        }
    }
    db.close()
}
