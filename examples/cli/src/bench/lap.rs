//! What a step took: time by the wall and by the CPU, memory by `/proc`, one JSON line.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use narthex::fs::Env;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};

use crate::CommandResult;

/// Where a step began.
pub(super) struct Lap {
    env: Env,
    wall: Duration,
    cpu: Duration,
    anon_mib: f64,
    rss_mib: f64,
}

impl Lap {
    /// Begins a step.
    pub(super) fn start(env: &Env) -> std::io::Result<Self> {
        let [rss_mib, anon_mib, _] = memory(env)?;
        Ok(Self { env: env.clone(), wall: env.clock.monotonic(), cpu: cpu(), anon_mib, rss_mib })
    }

    /// Bytes of anonymous memory more than at the start.
    pub(super) fn anon_since(&self) -> std::io::Result<f64> {
        let [_, anon_mib, _] = memory(&self.env)?;
        Ok((anon_mib - self.anon_mib) * f64::from(1 << 20))
    }

    /// Wall seconds so far.
    pub(super) fn seconds(&self) -> f64 {
        (self.env.clock.monotonic() - self.wall).as_secs_f64()
    }

    /// Prints the line: `work` is what the rates are of, `more` what the step adds to the keys that all have.
    pub(super) fn done(&self, step: &str, work: f64, more: Value) -> CommandResult {
        let wall = self.seconds();
        let cpu = (cpu() - self.cpu).as_secs_f64();
        let [rss_mib, anon_mib, hwm_mib] = memory(&self.env)?;
        let mut line = Map::new();
        let numbers = [
            ("wall_s", wall),
            ("cpu_s", cpu),
            ("work", work),
            ("per_s", work / wall),
            ("per_cpu_s", work / cpu),
            ("rss_mib", rss_mib),
            ("anon_mib", anon_mib),
            ("hwm_mib", hwm_mib),
            ("base_rss", self.rss_mib),
            ("base_anon", self.anon_mib),
        ];
        line.insert("step".into(), step.into());
        line.extend(numbers.map(|(key, number)| (key.into(), json!(number))));
        if let Value::Object(more) = more {
            line.extend(more);
        }
        Ok(writeln!(std::io::stdout(), "{}", Value::Object(line))?)
    }
}

/// CPU time of this process so far, all threads.
pub(super) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// MiB: resident, anonymous, the most that was ever resident.
fn memory(env: &Env) -> std::io::Result<[f64; 3]> {
    let bytes = env.fs.read(Path::new("/proc/self/status"))?;
    let text = String::from_utf8_lossy(&bytes);
    let kib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    Ok(["VmRSS", "RssAnon", "VmHWM"].map(|key| kib(key) / 1024.0))
}
