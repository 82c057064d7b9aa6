//! A bucket as the home of the journal, the segments and the checkpoints.
//!
//! ```text
//! probe/{nonce}/...             made and removed at each start
//! table/{generation:016}        which names the files have; the highest generation counts
//! files/{epoch:08}-{number:08}  contents of files, never overwritten
//! journal/{epoch:08}/{sequence:016}  journal files of one or several frames, or the fence that ends an epoch
//! ```
//!
//! Everything rests on put-if-absent: a start claims the next generation of the table, and with it an epoch
//! of its own; it then puts a fence at the first free sequence of every earlier epoch's journal. A writer
//! that still runs meets the one or the other with its next put, and stops.

mod cache;
mod disk;
mod drive;
mod file;
mod ownership;
mod probe;
mod sim;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, PutPayload, RetryConfig,
};

pub use disk::ObjectDisk;
pub use ownership::{LOOK_EVERY, Ownership, PROOF_HOLDS};
pub use sim::{Rates, SimStore};

pub(crate) use cache::BlockCache;
use drive::{Driver, Started};
use ownership::Clock;
pub(crate) use ownership::Moment;

/// A request that takes longer is given up, and tried again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause before a request is tried again; it doubles up to [`LONGEST_PAUSE`].
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two attempts.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often reads, and writes of other things than the journal, are tried before they fail.
const ATTEMPTS: u32 = 10;

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address does not say where it is.
    #[error("{url} is no address of a store ({reason}); use s3://BUCKET/PREFIX or file:///DIRECTORY")]
    Address {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something else is there.
    #[error("{name} holds {found} but no data of this program; choose an empty prefix")]
    Foreign {
        /// The bucket and prefix.
        name: String,
        /// A key in it.
        found: String,
    },
    /// The store failed.
    #[error("cannot {action} {name}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The bucket and prefix.
        name: String,
        /// What the store said.
        error: io::Error,
    },
    /// The store does not keep the promise that everything rests on.
    #[error(
        "{name} does not honour put-if-absent ({reason}), so two brokers could overwrite each other's \
         messages; use a store that supports conditional writes (If-None-Match), such as Amazon S3, or a \
         local directory"
    )]
    Unsafe {
        /// The bucket and prefix.
        name: String,
        /// What it did.
        reason: String,
    },
    /// Another version of the program wrote it.
    #[error(
        "{name} has format version {found}, this program reads {supported}; use the program that made it"
    )]
    Version {
        /// The bucket and prefix.
        name: String,
        /// Version in the bucket.
        found: u64,
        /// Version that is understood.
        supported: u32,
    },
}

/// Whether `data` is the address of a store and not the path of a directory.
pub fn is_address(data: &str) -> bool {
    data.contains("://")
}

/// Keys below a prefix of a store. Calls block; clones share the connections.
#[derive(Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    name: String,
    driver: Driver,
    clock: Clock,
}

/// How a put-if-absent went, for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// The object is there, and ours.
    Done,
    /// Somebody else's object is there.
    Taken,
}

impl Bucket {
    /// Connects to the store at `url`: `s3://bucket/prefix`, `file:///directory` or `memory:///`. S3 takes
    /// its credentials, region and endpoint from the environment variables `AWS_*`. Nothing is requested yet.
    pub fn open(url: &str) -> Result<Bucket, OpenError> {
        let wrong = |reason: String| OpenError::Address { url: url.to_owned(), reason };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it has no scheme".to_owned()))?;
        let (store, prefix): (Arc<dyn ObjectStore>, &str) = match scheme {
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(wrong("it names no bucket".to_owned()));
                }
                (Arc::new(s3(bucket).map_err(|error| wrong(error.to_string()))?), prefix)
            }
            "file" => {
                if !rest.starts_with('/') {
                    return Err(wrong("the directory must be an absolute path".to_owned()));
                }
                let failed = |error| OpenError::Io { action: "create", name: url.to_owned(), error };
                std::fs::create_dir_all(rest).map_err(failed)?;
                let store =
                    LocalFileSystem::new_with_prefix(rest).map_err(|error| wrong(error.to_string()))?;
                (Arc::new(store.with_fsync(true).with_automatic_cleanup(false)), "")
            }
            "memory" => (Arc::new(InMemory::new()), ""),
            other => return Err(wrong(format!("{other} is not supported"))),
        };
        let prefix = Path::parse(prefix.trim_matches('/')).map_err(|error| wrong(error.to_string()))?;
        Bucket::on(store, prefix.as_ref(), url).map_err(|error| OpenError::Io {
            action: "start threads for",
            name: url.to_owned(),
            error,
        })
    }

    /// Uses a store that is there; `name` is what messages call it.
    pub fn on(store: Arc<dyn ObjectStore>, prefix: &str, name: &str) -> io::Result<Bucket> {
        Ok(Bucket::driven(store, prefix, name, Driver::threads()?, Clock::Machine(Instant::now())))
    }

    /// As [`Bucket::on`], without threads: whoever waits for a request drives it, and the journal's puts go
    /// on with [`crate::journal::Journal::step`]. No time passes, so that no proof of ownership grows old.
    pub fn stepped(store: Arc<dyn ObjectStore>, prefix: &str, name: &str) -> Bucket {
        Bucket::driven(store, prefix, name, Driver::steps(), Clock::Still)
    }

    /// As [`Bucket::stepped`], with a clock: milliseconds, which whoever steps moves.
    pub fn stepped_by(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        name: &str,
        clock: Arc<AtomicI64>,
    ) -> Bucket {
        Bucket::driven(store, prefix, name, Driver::steps(), Clock::Manual(clock))
    }

    fn driven(store: Arc<dyn ObjectStore>, prefix: &str, name: &str, driver: Driver, clock: Clock) -> Bucket {
        let inner = Inner { store, prefix: Path::from(prefix), name: name.to_owned(), driver, clock };
        Bucket { inner: Arc::new(inner) }
    }

    /// What an opener from now on knows of its ownership: nothing yet.
    pub(crate) fn ownership(&self) -> Ownership {
        Ownership::new(self.inner.clock.clone())
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Puts, gets and races against itself: fails unless the store honours put-if-absent.
    pub fn probe(&self) -> Result<(), OpenError> {
        probe::probe(self)
    }

    /// Puts an object that nobody has put before. Ambiguous outcomes are resolved by reading what is there:
    /// `identity` must tell our objects from all others by their first bytes. Waits until the store answers,
    /// or `goes_on` says no.
    pub(crate) async fn put_new(
        &self,
        key: &str,
        chunks: &[Bytes],
        identity: &[u8],
        goes_on: impl Fn() -> bool,
    ) -> io::Result<Put> {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.try_put_new(key, chunks).await {
                Ok(()) => return Ok(Put::Done),
                // It may be our own: an attempt whose answer was lost.
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                    match self.try_get_range(key, 0..identity.len() as u64).await {
                        Ok(found) if found[..] == *identity => return Ok(Put::Done),
                        Ok(_) => return Ok(Put::Taken),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if !goes_on() {
                return Err(io_error(error));
            }
            tracing::warn!(key, %error, store = self.name(), "the object store did not take a put; trying again");
            self.inner.driver.pause(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(crate) async fn try_put_new(&self, key: &str, chunks: &[Bytes]) -> object_store::Result<()> {
        let payload: PutPayload = chunks.iter().cloned().collect();
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.inner.store.put_opts(&self.path(key), payload, options).await.map(drop)
    }

    pub(crate) async fn try_get_range(&self, key: &str, range: Range<u64>) -> object_store::Result<Bytes> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        self.inner.store.get_opts(&self.path(key), options).await?.bytes().await
    }

    /// Whether there is an object that begins so. Asked once: the caller tries again.
    pub(crate) async fn try_begins_with(&self, key: &str, bytes: &[u8]) -> io::Result<bool> {
        match self.try_get_range(key, 0..bytes.len() as u64).await {
            Ok(found) => Ok(found[..] == *bytes),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(io_error(error)),
        }
    }

    /// Bytes of an object; fewer if it ends before the range does.
    pub(crate) async fn get_range(&self, key: &str, range: Range<u64>) -> io::Result<Bytes> {
        self.patiently(|| self.try_get_range(key, range.clone())).await
    }

    /// A whole object.
    pub(crate) async fn get(&self, key: &str) -> io::Result<Bytes> {
        self.patiently(|| async { self.inner.store.get(&self.path(key)).await?.bytes().await }).await
    }

    /// Puts an object under a key that only this process knows.
    pub(crate) async fn put(&self, key: &str, bytes: Bytes) -> io::Result<()> {
        let put = || async {
            self.inner.store.put(&self.path(key), PutPayload::from(bytes.clone())).await.map(drop)
        };
        self.patiently(put).await
    }

    /// Begins an object that arrives in parts.
    pub(crate) async fn put_multipart(&self, key: &str) -> io::Result<Box<dyn MultipartUpload>> {
        let path = self.path(key);
        self.patiently(|| self.inner.store.put_multipart(&path)).await
    }

    /// Removes an object; one that is gone is no error.
    pub(crate) async fn delete(&self, key: &str) -> io::Result<()> {
        let path = self.path(key);
        match self.patiently(|| self.inner.store.delete(&path)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Keys below `dir`, relative to the prefix, with their sizes in bytes, sorted.
    pub(crate) async fn list(&self, dir: &str) -> io::Result<Vec<(String, u64)>> {
        let path = self.path(dir);
        let list = || self.inner.store.list(Some(&path)).try_collect::<Vec<_>>();
        let found = self.patiently(list).await?;
        let strip = self.inner.prefix.as_ref().len() + usize::from(!self.inner.prefix.as_ref().is_empty());
        let keys = found
            .iter()
            .filter_map(|meta| Some((meta.location.as_ref().get(strip..)?.to_owned(), meta.size)));
        let mut keys: Vec<_> = keys.collect();
        keys.sort_unstable();
        Ok(keys)
    }

    fn path(&self, key: &str) -> Path {
        let prefix = self.inner.prefix.as_ref();
        match (prefix.is_empty(), key.is_empty()) {
            (true, _) => Path::from(key),
            (_, true) => Path::from(prefix),
            _ => Path::from(format!("{prefix}/{key}")),
        }
    }

    /// Tries again what may succeed later.
    async fn patiently<T, F>(&self, attempt: impl Fn() -> F) -> io::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match attempt().await {
                Err(Error::Generic { .. } | Error::JoinError { .. }) => self.inner.driver.pause(pause).await,
                outcome => return outcome.map_err(io_error),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        attempt().await.map_err(io_error)
    }

    /// Leaves a task to the store's own threads, or to [`Bucket::step`].
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.driver.spawn(task);
    }

    /// Begins what can be waited for later.
    fn start<T: Send + 'static>(
        &self,
        task: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> Started<T> {
        self.inner.driver.start(task)
    }

    /// Waits for a request, wherever the caller runs.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        task: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        self.start(task).wait()
    }

    /// Whether it has no threads.
    pub(crate) fn is_stepped(&self) -> bool {
        self.inner.driver.is_stepped()
    }

    /// Where there are no threads: gives every task that was left a turn.
    pub(crate) fn step(&self) {
        self.inner.driver.step();
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.inner.name).finish()
    }
}

fn s3(bucket: &str) -> object_store::Result<object_store::aws::AmazonS3> {
    // A second call finds the provider in place.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let allow_http = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value == "true" || value == "1");
    let client = ClientOptions::new()
        .with_timeout(REQUEST_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(allow_http);
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        // Attempts are counted where their outcome is understood.
        max_retries: 0,
        retry_timeout: REQUEST_TIMEOUT,
    };
    AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(client)
        .with_retry(retry)
        .with_conditional_put(object_store::aws::S3ConditionalPut::ETagMatch)
        .build()
}

pub(crate) fn io_error(error: Error) -> io::Error {
    let kind = match &error {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::AlreadyExists { .. } => io::ErrorKind::AlreadyExists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
