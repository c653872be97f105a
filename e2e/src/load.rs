//! Load: workers that do one turn after another until they are stopped. Each worker checks its turns, and one that
//! fails is kept with its time, so that a test can report which turns failed and why. There are no retries.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::wait;

/// How long workers may take until they have made the turns that are waited for.
const LIMIT: Duration = Duration::from_secs(120);

/// What a worker does at its turn, which is counted from 0.
pub type Turn = Box<dyn FnMut(u64) -> anyhow::Result<()> + Send>;

/// Running workers. Dropping it stops them.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    turns: AtomicU64,
    done: Mutex<Vec<Done>>,
}

/// One turn that is over.
#[derive(Clone, Debug)]
pub struct Done {
    /// Whose it was.
    pub worker: usize,
    /// Which of the worker's it was.
    pub turn: u64,
    /// When it began.
    pub began: Instant,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// Everything that the workers did.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// The turns, in the order in which they ended.
    pub done: Vec<Done>,
}

impl Load {
    /// Starts `workers` workers, each with what `make` gives for its number. A worker begins a turn `every` so often, or as soon as
    /// the one before is over where that takes longer.
    #[must_use]
    pub fn start(workers: usize, every: Duration, make: impl Fn(usize) -> Turn) -> Self {
        Self::start_for(u64::MAX, workers, every, make)
    }

    /// Lets `workers` workers make `turns` turns each, as [`Self::start`] does.
    #[must_use]
    pub fn run(turns: u64, workers: usize, every: Duration, make: impl Fn(usize) -> Turn) -> LoadReport {
        Self::start_for(turns, workers, every, make).report()
    }

    fn start_for(turns: u64, workers: usize, every: Duration, make: impl Fn(usize) -> Turn) -> Self {
        let shared = Arc::new(Shared::default());
        let began = Instant::now();
        let workers = (0..workers).map(|worker| {
            // Workers that begin together would go on together.
            let offset =
                every * u32::try_from(worker).unwrap_or(u32::MAX) / u32::try_from(workers).unwrap_or(1);
            let (shared, turn) = (Arc::clone(&shared), make(worker));
            std::thread::spawn(move || work(&shared, worker, turns, began + offset, every, turn))
        });
        let workers = workers.collect();
        Self { shared, workers }
    }

    /// How many turns are over.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::Relaxed)
    }

    /// Waits until `more` turns have ended from now on.
    ///
    /// # Errors
    /// When they take too long.
    pub fn go_on_for(&self, more: u64) -> anyhow::Result<()> {
        let goal = self.turns() + more;
        wait::until("the workers go on", LIMIT, || {
            anyhow::ensure!(self.turns() >= goal, "{} of {goal} turns", self.turns());
            Ok(())
        })
    }

    /// Nothing has failed so far.
    ///
    /// # Errors
    /// When something did: the first few failures.
    pub fn without_failure(&self) -> anyhow::Result<()> {
        let done = self.shared.done.lock().unwrap_or_else(PoisonError::into_inner);
        LoadReport { done: done.clone() }.without_failure()
    }

    /// Stops the workers, and waits until they have ended.
    #[must_use]
    pub fn finish(self) -> LoadReport {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.report()
    }

    fn report(mut self) -> LoadReport {
        for worker in self.workers.drain(..) {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
        let mut done = self.shared.done.lock().unwrap_or_else(PoisonError::into_inner);
        LoadReport {
            done: std::mem::take(&mut *done),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl LoadReport {
    /// The turns that failed.
    #[must_use]
    pub fn failures(&self) -> Vec<&Done> {
        self.done.iter().filter(|done| done.failure.is_some()).collect()
    }

    /// Nothing failed.
    ///
    /// # Errors
    /// When something did: the first few failures.
    pub fn without_failure(&self) -> anyhow::Result<()> {
        let failures = self.failures();
        anyhow::ensure!(
            failures.is_empty(),
            "{} of {} turns failed, the first: {:#?}",
            failures.len(),
            self.done.len(),
            &failures[..failures.len().min(5)]
        );
        Ok(())
    }

    /// The time that the fraction `of` of the turns did not exceed.
    #[must_use]
    pub fn percentile(&self, of: f64) -> Duration {
        percentile(self.done.iter().map(|done| done.took).collect(), of)
    }
}

/// The time that the fraction `of` of `times` does not exceed; 0 where there is none.
#[must_use]
pub fn percentile(mut times: Vec<Duration>, of: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times
        .get((last as f64 * of).round() as usize)
        .copied()
        .unwrap_or_default()
}

fn work(shared: &Shared, worker: usize, turns: u64, begin: Instant, every: Duration, mut turn: Turn) {
    let mut next = begin;
    for number in 0..turns {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let began = Instant::now();
        let failure = turn(number).err().map(|error| format!("{error:#}"));
        let took = began.elapsed();
        let done = Done {
            worker,
            turn: number,
            began,
            took,
            failure,
        };
        shared
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(done);
        shared.turns.fetch_add(1, Ordering::Relaxed);
        next = (next + every).max(Instant::now());
    }
}
