//! Threads for work that may take long: what a backend sent is read, merged and compressed there, and not on the threads that serve calls.
//!
//! There are few of them and they give way: on a busy core the scheduler prefers the threads that serve calls. What they run takes no lock
//! that a call waits for. They end with the process, whatever they are in the middle of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// How many threads: what one backend sent may keep one of them, and the others' is done all the same.
const THREADS: usize = 2;
/// How much work may wait for a thread. More waits before it is handed over.
const QUEUE: usize = 64;
/// By how much they give way: a tenth of a core that is wanted elsewhere (Linux, sched(7), "nice values").
const NICENESS: i32 = 10;

type ComputeJob = Box<dyn FnOnce() + Send>;

/// A cheap-clone handle to the threads. They start with the first work.
#[derive(Clone, Debug, Default)]
pub(crate) struct ComputePool {
    queue: Arc<OnceLock<mpsc::Sender<ComputeJob>>>,
}

/// How much processor time the work for somebody has taken.
#[derive(Debug, Default)]
pub(crate) struct ComputeMeter(AtomicU64);

/// Work that did not come to its end: it failed, or there is no thread for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work failed; the log says why")]
pub(crate) struct WorkFailed;

impl ComputeMeter {
    /// Adds what was taken elsewhere.
    pub(crate) fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.fetch_add(micros, Ordering::Relaxed);
    }

    /// All that was taken so far.
    #[must_use]
    pub(crate) fn taken(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

impl ComputePool {
    /// Runs `work` on one of the threads, and adds the processor time that it takes to `meter`. Work that was begun goes on when this is
    /// dropped.
    ///
    /// # Errors
    /// When `work` panics, or no thread can be started.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        meter: &Arc<ComputeMeter>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkFailed> {
        let (meter, runtime) = (Arc::clone(meter), Handle::try_current().ok());
        let (done, outcome) = oneshot::channel();
        let job: ComputeJob = Box::new(move || {
            // What the work leaves behind may be something that belongs to the runtime.
            let _entered = runtime.as_ref().map(Handle::enter);
            give_way();
            let before = processor_time();
            let result = work();
            meter.add(processor_time().saturating_sub(before));
            // Whoever waited may have gone.
            done.send(result).ok();
        });
        self.queue().send(job).await.map_err(|_| WorkFailed)?;
        outcome.await.map_err(|_| WorkFailed)
    }

    fn queue(&self) -> &mpsc::Sender<ComputeJob> {
        self.queue.get_or_init(|| {
            let (queue, jobs) = mpsc::channel(QUEUE);
            let jobs = Arc::new(Mutex::new(jobs));
            for number in 0..THREADS {
                let jobs = Arc::clone(&jobs);
                let thread = std::thread::Builder::new().name(format!("compute-{number}"));
                if let Err(error) = thread.spawn(move || work_off(&jobs)) {
                    tracing::error!(%error, "cannot start a thread");
                }
            }
            queue
        })
    }
}

fn work_off(jobs: &Mutex<mpsc::Receiver<ComputeJob>>) {
    loop {
        // The other threads wait for the lock while this one waits for work.
        let job = jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        let Some(job) = job else { return };
        // A thread of its own: the allocator gives back what a thread has freed only when that thread allocates again, or ends.
        let thread = std::thread::Builder::new().name("compute".to_owned());
        match thread.spawn(job).map(JoinHandle::join) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!("work on what a backend sent failed; this is a bug"),
            Err(error) => tracing::error!(%error, "cannot start a thread"),
        }
    }
}

/// On Linux a thread has a priority of its own; elsewhere it would be the whole process that gives way.
#[cfg(target_os = "linux")]
fn give_way() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICENESS) {
        tracing::debug!(%error, "a thread cannot give way to others");
    }
}

#[cfg(not(target_os = "linux"))]
fn give_way() {
    tracing::debug!(niceness = NICENESS, "threads have no priority of their own here");
}

/// The processor time that this thread has taken.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn work_runs_elsewhere_and_its_processor_time_is_measured() {
        let (compute, meter) = (ComputePool::default(), Arc::<ComputeMeter>::default());
        let here = std::thread::current().id();
        let busy = Duration::from_millis(20);
        let there = compute.run(&meter, move || {
            let began = Instant::now();
            while processor_time() < busy && began.elapsed() < Duration::from_secs(60) {
                std::hint::spin_loop();
            }
            std::thread::current().id()
        });
        assert_ne!(there.await.unwrap(), here);
        assert!(meter.taken() >= busy / 2, "{:?}", meter.taken());
    }

    #[tokio::test]
    async fn work_that_hangs_keeps_one_thread_only() {
        let (compute, meter) = (ComputePool::default(), Arc::<ComputeMeter>::default());
        let barrier = Arc::new(Barrier::new(2));
        let held = Arc::clone(&barrier);
        let hanging = tokio::task::LocalSet::new();
        let (other, own) = (compute.clone(), Arc::clone(&meter));
        hanging.spawn_local(async move { other.run(&own, move || held.wait()).await });
        let working = async {
            for number in 0..10 {
                assert_eq!(compute.run(&meter, move || number).await, Ok(number));
            }
            barrier.wait();
        };
        hanging.run_until(working).await;
        hanging.await;
    }

    #[tokio::test]
    async fn work_that_panics_fails_and_the_thread_goes_on() {
        let (compute, meter) = (ComputePool::default(), Arc::<ComputeMeter>::default());
        for _ in 0..THREADS * 2 {
            assert_eq!(
                compute.run(&meter, || panic!("as it should")).await,
                Err::<(), _>(WorkFailed)
            );
        }
        assert_eq!(compute.run(&meter, || 1).await, Ok(1));
    }
}
