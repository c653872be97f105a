//! A pool of low-priority threads for CPU-bound work: parsing, merging and compressing what backends sent.
//!
//! On the threads that serve calls, such work would delay every call. The pool is small and has a lower scheduling priority. Its work must
//! not hold a lock that a call waits for. The process does not wait for unfinished work when it ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// Number of threads. With two, the work for other backends proceeds while the response of one backend occupies a thread.
const THREADS: usize = 2;
/// Most jobs that wait for a thread. Callers with further jobs wait until the queue has room.
const QUEUE: usize = 64;
/// Nice value of the threads. On a busy core they get about a tenth of its time (Linux, sched(7), "nice value").
const NICENESS: i32 = 10;

type ComputeJob = Box<dyn FnOnce() + Send>;

/// A cheap-clone handle to the pool. The threads start with the first job.
#[derive(Clone, Debug, Default)]
pub(crate) struct ComputePool {
    queue: Arc<OnceLock<mpsc::Sender<ComputeJob>>>,
}

/// Sum of the CPU time of the jobs for one backend.
#[derive(Debug, Default)]
pub(crate) struct ComputeMeter(AtomicU64);

/// The work panicked, or no thread could be started for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("background work failed; the log has the reason")]
pub(crate) struct WorkFailed;

impl ComputeMeter {
    /// Adds CPU time that was measured elsewhere.
    pub(crate) fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.fetch_add(micros, Ordering::Relaxed);
    }

    /// The CPU time that was used so far.
    #[must_use]
    pub(crate) fn cpu_time(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

impl ComputePool {
    /// Runs `work` on one of the threads, and adds its CPU time to `meter`. Work that has started continues when the future is dropped.
    ///
    /// # Errors
    /// If `work` panics, or no thread can be started.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        meter: &Arc<ComputeMeter>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkFailed> {
        let (meter, runtime) = (Arc::clone(meter), Handle::try_current().ok());
        let (done, outcome) = oneshot::channel();
        let job: ComputeJob = Box::new(move || {
            // Dropping values of the work may need the runtime, for example to reset a timer.
            let _entered = runtime.as_ref().map(Handle::enter);
            lower_priority();
            let before = thread_cpu_time();
            let result = work();
            meter.add(thread_cpu_time().saturating_sub(before));
            // The caller may have been dropped.
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
                if let Err(error) = thread.spawn(move || run_jobs(&jobs)) {
                    tracing::error!(%error, "failed to start a thread");
                }
            }
            queue
        })
    }
}

fn run_jobs(jobs: &Mutex<mpsc::Receiver<ComputeJob>>) {
    loop {
        // The other threads wait for the lock while this one waits for work.
        let job = jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        let Some(job) = job else { return };
        // Each job has its own thread, because the allocator returns freed memory only when the thread allocates again, or ends.
        let thread = std::thread::Builder::new().name("compute".to_owned());
        match thread.spawn(job).map(JoinHandle::join) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!("background work panicked; this is a bug"),
            Err(error) => tracing::error!(%error, "failed to start a thread"),
        }
    }
}

/// Lowers the priority of this thread. Only on Linux, because elsewhere the call would lower the priority of the whole process.
#[cfg(target_os = "linux")]
fn lower_priority() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICENESS) {
        tracing::debug!(%error, "failed to lower the priority of a thread");
    }
}

#[cfg(not(target_os = "linux"))]
fn lower_priority() {
    tracing::debug!(
        niceness = NICENESS,
        "thread priorities are not supported on this system"
    );
}

/// The CPU time that this thread has used.
fn thread_cpu_time() -> Duration {
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
    async fn work_runs_on_another_thread_and_its_cpu_time_counts() {
        let (compute, meter) = (ComputePool::default(), Arc::<ComputeMeter>::default());
        let here = std::thread::current().id();
        let busy = Duration::from_millis(20);
        let there = compute.run(&meter, move || {
            let began = Instant::now();
            while thread_cpu_time() < busy && began.elapsed() < Duration::from_secs(60) {
                std::hint::spin_loop();
            }
            std::thread::current().id()
        });
        assert_ne!(there.await.unwrap(), here);
        assert!(meter.cpu_time() >= busy / 2, "{:?}", meter.cpu_time());
    }

    #[tokio::test]
    async fn hanging_work_occupies_one_thread_only() {
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
    async fn panicking_work_fails_and_the_thread_survives() {
        let (compute, meter) = (ComputePool::default(), Arc::<ComputeMeter>::default());
        for _ in 0..THREADS * 2 {
            assert_eq!(
                compute.run(&meter, || panic!("expected by the test")).await,
                Err::<(), _>(WorkFailed)
            );
        }
        assert_eq!(compute.run(&meter, || 1).await, Ok(1));
    }
}
