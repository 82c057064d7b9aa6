//! Who drives requests to the store: threads of its own, or whoever steps.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Runtime;

/// Threads that drive requests; the rest of the program waits on them.
const RUNTIME_THREADS: usize = 2;
/// A stepped pause ends after one poll for so many milliseconds of it.
const PAUSE_MS_PER_POLL: u128 = 10;

pub(super) enum Driver {
    /// Always there until the bucket is dropped.
    Threads(Option<Runtime>),
    /// What was spawned and is not finished.
    Steps(Mutex<Vec<Task>>),
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request under way.
pub(super) struct Started<T>(mpsc::Receiver<io::Result<T>>);

impl Driver {
    pub fn threads() -> io::Result<Driver> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("object-store")
            .enable_all()
            .build()?;
        Ok(Driver::Threads(Some(runtime)))
    }

    pub fn steps() -> Driver {
        Driver::Steps(Mutex::default())
    }

    pub fn is_stepped(&self) -> bool {
        matches!(self, Driver::Steps(_))
    }

    /// Leaves a task to the threads, or to the next steps.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            Driver::Threads(Some(runtime)) => drop(runtime.spawn(task)),
            Driver::Threads(None) => {}
            Driver::Steps(tasks) => tasks.lock().push(Box::pin(task)),
        }
    }

    /// Begins a request. Where nobody else drives it, it is over when this returns.
    pub fn start<T: Send + 'static>(
        &self,
        task: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> Started<T> {
        let (sender, outcome) = mpsc::sync_channel(1);
        match self {
            Driver::Threads(_) => self.spawn(async move {
                let _ = sender.send(task.await);
            }),
            Driver::Steps(_) => {
                let mut task = Box::pin(task);
                let result = loop {
                    if let Poll::Ready(result) = poll(task.as_mut()) {
                        break result;
                    }
                };
                let _ = sender.send(result);
            }
        }
        Started(outcome)
    }

    /// Polls every spawned task once.
    pub fn step(&self) {
        let Driver::Steps(tasks) = self else { return };
        let mut polled = std::mem::take(&mut *tasks.lock());
        polled.retain_mut(|task| poll(task.as_mut()).is_pending());
        let mut tasks = tasks.lock();
        polled.append(&mut tasks);
        *tasks = polled;
    }

    pub async fn pause(&self, time: Duration) {
        match self {
            Driver::Threads(_) => tokio::time::sleep(time).await,
            Driver::Steps(_) => {
                let mut polls = time.as_millis() / PAUSE_MS_PER_POLL;
                poll_fn(|context| match polls.checked_sub(1) {
                    Some(left) => {
                        polls = left;
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                    None => Poll::Ready(()),
                })
                .await;
            }
        }
    }
}

impl<T> Started<T> {
    /// Waits for the answer, wherever the caller runs.
    pub fn wait(self) -> io::Result<T> {
        self.0.recv().map_err(|_| io::Error::other("the object store's threads have ended"))?
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Driver::Threads(runtime) = self
            && let Some(runtime) = runtime.take()
        {
            // The last handle may be dropped where nothing may block.
            runtime.shutdown_background();
        }
    }
}

/// Stepped tasks are polled again in any case; only what is joined within them has to be woken.
fn poll<T>(task: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    task.poll(&mut Context::from_waker(Waker::noop()))
}
