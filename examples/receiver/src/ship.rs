//! Shipping: new blocks go to the bucket as they are cut, what failed is tried again, and the rest goes before leaving.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use narthex::bucket::Shipper;
use narthex::db::Db;
use narthex::error::Result;
use narthex::fs::{Env, Waiter};
use serve::metrics::{counter, gauge};
use serve::objstore::Buckets;

/// How often somebody looks whether a block was cut: that is a list in memory.
const LOOK: Duration = Duration::from_secs(1);
/// How often all blocks are gone through, and what failed is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// How long to wait between attempts when the program leaves.
const FAREWELL_WAIT: Duration = Duration::from_secs(2);

/// The thread that ships, and what it counts.
pub(crate) struct Shipping {
    env: Env,
    shipper: Arc<Shipper>,
    buckets: Arc<Buckets>,
    bell: Arc<dyn Waiter>,
    leaving: AtomicBool,
    rounds: AtomicU64,
    failed_rounds: AtomicU64,
}

impl Shipping {
    /// Ships the blocks of `db` from now on.
    pub(crate) fn start(env: &Env, db: &Db, shipper: Arc<Shipper>, buckets: Arc<Buckets>) -> Result<Arc<Self>> {
        let shipping = Arc::new(Self {
            env: env.clone(),
            shipper,
            buckets,
            bell: env.executor.waiter(),
            leaving: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
            failed_rounds: AtomicU64::new(0),
        });
        let (runs, db) = (Arc::clone(&shipping), db.clone());
        env.executor.spawn("shipping", Box::new(move || runs.run(&db)))?;
        Ok(shipping)
    }

    fn run(&self, db: &Db) {
        let (mut last, mut due): (Vec<PathBuf>, _) = (Vec::new(), Duration::ZERO);
        while !self.leaving.load(Ordering::Acquire) {
            let dirs = db.block_dirs();
            let is_due = dirs != last || self.env.clock.monotonic() >= due;
            // What an earlier process shipped is looked for in the list, and what that process knew may be old.
            if is_due && self.buckets.are_listed() {
                // What is wrong is in the log, and tried again.
                let _ = self.ship();
                due = self.env.clock.monotonic() + AGAIN;
                last = dirs;
            }
            self.bell.wait(LOOK);
        }
    }

    fn ship(&self) -> Result<()> {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        let result = self.shipper.ship(&()).and_then(|shipped| match shipped.failed.into_iter().next() {
            // The shipper has said what is wrong with each.
            Some((block, error)) => Err(error.context(block)),
            None => Ok(()),
        });
        if let Err(error) = &result {
            self.failed_rounds.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "not all blocks are shipped; it is tried again");
        }
        result
    }

    /// Ships no more blocks; an upload under way is cut, and goes on at the next start. With a time limit, cuts what the
    /// head holds into blocks and ships all of them before.
    pub(crate) fn leave(&self, db: &Db, ship_for: Option<Duration>) -> Result<()> {
        self.leaving.store(true, Ordering::Release);
        self.bell.ring();
        let Some(ship_for) = ship_for else { return Ok(()) };
        let deadline = self.env.clock.monotonic() + ship_for;
        tracing::info!("cutting and shipping what is in memory");
        db.flush()?;
        loop {
            let Err(error) = self.ship() else { break };
            if self.env.clock.monotonic() + FAREWELL_WAIT > deadline {
                let text = format!("not all blocks are shipped; they lie in {}", db.dir().display());
                return Err(error.context(text));
            }
            self.bell.wait(FAREWELL_WAIT);
        }
        tracing::info!("everything is shipped");
        Ok(())
    }

    /// Writes what is counted, under Thanos's names.
    pub(crate) fn collect(&self, out: &mut String) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        counter(out, "thanos_shipper_dir_syncs", "How often blocks were looked through.", count(&self.rounds));
        counter(out, "thanos_shipper_dir_sync_failures", "How often not all were shipped.", count(&self.failed_rounds));
        let status = self.shipper.status();
        counter(out, "thanos_shipper_uploads", "Blocks uploaded.", status.uploads as f64);
        counter(out, "thanos_shipper_upload_failures", "Uploads of blocks that failed.", status.failures as f64);
        gauge(out, "narthex_shipper_blocks_waiting", "Blocks that could not be shipped.", status.failed.len() as f64);
    }
}
